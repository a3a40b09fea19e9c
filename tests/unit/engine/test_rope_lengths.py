"""Rotary factors that depend on the length: results equal those of plain decoding, or of one forward pass.

The scripted model's logits depend on the length by which each key in the cache was rotated.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding.llm import LLM
from decoding.params import SamplingParams
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits

VOCAB_SIZE = 256
BORDER = 32
TOKENIZER = byte_tokenizer()


def dynamic(length):
    """Return the regime of Dynamic NTK: beyond the boundary, every length has factors of its own."""
    return length if length > BORDER else 0


def long_rope(length):
    """Return the regime of LongRoPE: one set of factors below the boundary, another beyond it."""
    return int(length > BORDER)


def logits_of(lengths, token_ids, regime, script):
    """Return the logits after `token_ids`, of which key i was rotated for lengths[i]."""
    return script([t + VOCAB_SIZE * regime(n) for t, n in zip(token_ids, lengths, strict=True)], VOCAB_SIZE)


class Plain:
    """Greedy decoding of one request, token by token, without an engine."""

    def __init__(self, kind, script):
        self.kind, self.script = kind, script
        self.regime = dynamic if kind == "dynamic" else long_rope

    def lengths(self, num_prompt, num_tokens):
        """Return the length for which each key is rotated. Beyond the boundary LongRoPE rotates all keys again."""
        if self.kind == "long" and num_tokens > BORDER:
            return [num_tokens] * num_tokens
        return [max(num_prompt, position + 1) for position in range(num_tokens)]

    def text(self, prompt, num_tokens):
        """Return the greedily decoded tokens."""
        token_ids = list(prompt)
        for _ in range(num_tokens):
            lengths = self.lengths(len(prompt), len(token_ids))
            token_ids.append(int(logits_of(lengths, token_ids, self.regime, self.script).argmax()))
        return token_ids[len(prompt) :]

    def one_pass(self, token_ids):
        """Return the ranks of all tokens but the first, from one forward pass over the whole text."""
        ranks = []
        for end in range(1, len(token_ids)):
            row = logits_of([len(token_ids)] * end, token_ids[:end], self.regime, self.script)
            ranks.append(1 + int((row > row[token_ids[end]]).sum()))
        return ranks


SCRIPT = hashed_logits(seed=5)


def repetitive(token_ids, vocab_size):
    """Return logits of a few different texts, which depend on the rotary factors, so that drafts are often right."""
    return SCRIPT([token_ids[-1] % VOCAB_SIZE % 3, token_ids[-1] // VOCAB_SIZE > 0], vocab_size)


def make_llm(kind, script=SCRIPT, **settings):
    """Return an LLM around a scripted model with rotary factors of this kind."""
    regime, border = (dynamic, None) if kind == "dynamic" else (long_rope, BORDER)
    model = ScriptedModel(script, VOCAB_SIZE, max_position_embeddings=128, rope_regime=regime, rope_border=border)
    return LLM.from_parts(model, TOKENIZER, **settings)


def greedy(num_tokens):
    """Return greedy sampling parameters for `num_tokens` tokens."""
    return SamplingParams(temperature=0.0, max_tokens=num_tokens, seed=1)


KINDS = pytest.mark.parametrize("kind", ["dynamic", "long"])
SETTINGS = st.fixed_dictionaries(
    {
        "max_num_seqs": st.integers(1, 5),
        "max_batched_tokens": st.integers(1, 60),
        "kv_cache_bytes": st.integers(8, 24).map(lambda blocks: 16 * blocks),
        "prefix_cache": st.booleans(),
        "speculation": st.sampled_from([None, "prompt_lookup"]),
    }
)
PROMPTS = st.lists(
    st.builds(lambda first, length: ([first] * 16 + [1, 2, 3] * 30)[:length], st.integers(0, 1), st.integers(1, 60)),
    min_size=1,
    max_size=5,
)


@KINDS
@settings(max_examples=40)
@given(PROMPTS, st.integers(1, 40), SETTINGS, st.booleans())
def test_a_request_equals_plain_decoding(kind, prompts, num_tokens, given_settings, is_repetitive):
    """Batches, chunks, prefix cache, preemptions and drafts near the boundary change no token."""
    script = repetitive if is_repetitive else SCRIPT
    plain = Plain(kind, script)
    llm = make_llm(kind, script, **given_settings)
    expected = [plain.text(prompt, num_tokens) for prompt in prompts]
    for _ in range(2):
        results = llm.complete(prompts, greedy(num_tokens))
        assert [result.choices[0].token_ids for result in results] == expected
    assert llm.stats.num_blocks_live == 0


@KINDS
def test_a_longer_prompt_does_not_change_a_shorter_one(kind):
    """A prompt does not share cached blocks whose keys were rotated by other factors."""
    llm = make_llm(kind)
    llm.complete([7] * 48, greedy(2))
    expected = make_llm(kind).complete([7] * 20, greedy(20))
    assert llm.complete([7] * 20, greedy(20)) == expected
    assert llm.complete([7] * 48, greedy(2)).metrics.cached_tokens == 32


def test_equal_factors_share_blocks_whatever_the_length():
    """Prompts of different lengths share cached blocks if their rotary factors are equal."""
    for kind, shorter, longer in (("dynamic", 20, 31), ("long", 20, 31), ("long", 40, 60)):
        llm = make_llm(kind)
        llm.complete([7] * shorter, greedy(1))
        assert llm.complete([7] * longer, greedy(1)).metrics.cached_tokens == shorter // 16 * 16


@KINDS
@pytest.mark.parametrize("budget", [3, 16, 512])
@pytest.mark.parametrize("length", [31, 32, 33, 48])
def test_scores_are_those_of_one_pass(kind, budget, length):
    """Echo and score give the ranks of one forward pass over the text, whatever the chunks."""
    text = [(7 * i * i + 3) % 250 for i in range(length)]
    expected = Plain(kind, SCRIPT).one_pass(text)
    llm = make_llm(kind, max_batched_tokens=budget)
    for num_tokens in (0, 1):
        params = SamplingParams(echo=True, logprobs=0, max_tokens=num_tokens, temperature=0.0)
        assert llm.complete(text, params).choices[0].logprobs.ranks[1:length] == expected
    for split in (1, 17, length - 1):
        (score,) = llm.score(text[:split], [text[split:]])
        assert score.ranks == expected[split - 1 :]


@KINDS
def test_continuations_of_several_lengths(kind):
    """Each continuation is scored as in one forward pass over its text; equal factors share the prompt."""
    prompt = [(5 * i + 1) % 250 for i in range(28)]
    continuations = [[9] * count for count in (2, 20, 4, 12, 20, 1)]
    plain = Plain(kind, SCRIPT)
    llm = make_llm(kind, prefix_cache=False)
    scores = llm.score(prompt, continuations)
    for continuation, score in zip(continuations, scores, strict=True):
        assert score.ranks == plain.one_pass([*prompt, *continuation])[len(prompt) - 1 :]
    num_prompts = 2 if kind == "long" else 3  # lengths 30, 32 and 29; 48 twice; 40
    assert llm.stats.num_prompt_tokens == 27 * num_prompts + sum(map(len, continuations))


def test_a_sequence_beyond_the_boundary_is_recomputed_once():
    """A LongRoPE sequence that crosses the boundary is recomputed once, also with a draft model."""
    for speculation in (None, make_llm("dynamic", hashed_logits(seed=77))):
        model = ScriptedModel(SCRIPT, VOCAB_SIZE, rope_regime=long_rope, rope_border=BORDER)
        llm = LLM.from_parts(model, TOKENIZER, speculation=speculation)
        result = llm.complete([7] * 25, greedy(30))
        assert model.num_tokens - llm.stats.num_draft_tokens == 25 + 29 + BORDER
        assert result == make_llm("long").complete([7] * 25, greedy(30))


def test_drafts_do_not_cross_the_boundary():
    """Drafts are accepted below and beyond the boundary, but no draft crosses it."""

    def constant(token_ids, vocab_size):
        return hashed_logits(seed=1)([0], vocab_size)

    model = ScriptedModel(constant, VOCAB_SIZE, rope_regime=long_rope, rope_border=BORDER)  # refuses mixed factors
    llm = LLM.from_parts(model, TOKENIZER, speculation="prompt_lookup", num_draft_tokens=7)
    result = llm.complete([7] * 20, greedy(40))
    assert llm.stats.num_accepted_tokens > 15
    assert result.choices[0].token_ids == Plain("long", constant).text([7] * 20, 40)


@KINDS
def test_candidates_cross_the_boundary_together(kind):
    """Each of n candidates that cross the boundary is the same as if computed alone."""
    params = SamplingParams(n=4, seed=3, max_tokens=30)
    llm = make_llm(kind, max_num_seqs=3, max_batched_tokens=20)
    result = llm.complete([7] * 20, params)
    for index, choice in enumerate(result.choices):
        alone = make_llm(kind).complete([7] * 20, SamplingParams(n=index + 1, seed=3, max_tokens=30))
        assert alone.choices[index] == choice
