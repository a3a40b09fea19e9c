"""Token healing: the draws are those of the model's own distribution, given the prompt's bytes."""

from collections import Counter

import numpy as np
import pytest

from decoding import LLM, ParameterError, SamplingParams
from decoding.engine.healing import num_taken_back
from decoding.engine.token_index import TokenIndex
from decoding.errors import EmptySupportError
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits

A, B, C = 97, 98, 99
EXTRA = [b"ab", b"abc", b"bc", b"cab", b"bb", b"cabc"]
TOKENIZER = byte_tokenizer(EXTRA, ["<eos>"])
AB, ABC, BC, CAB, BB, CABC, EOS = range(256, 263)
VOCAB = TOKENIZER.vocab_size
LETTERS = (A, B, C, AB, ABC, BC, CAB, BB, CABC)


def few_letters(seed, scale=2.0):
    """Logits of nine tokens and an end; they depend on all tokens so far."""
    hashed = hashed_logits(seed, scale)

    def script(token_ids, vocab_size):
        logits = np.full(vocab_size, -np.inf, np.float32)
        logits[[*LETTERS, EOS]] = hashed(token_ids, len(LETTERS) + 1)
        return logits

    return script


def make_llm(script, **settings):
    """A model of that script."""
    return LLM.from_parts(ScriptedModel(script, VOCAB, eos_token_ids=(EOS,)), TOKENIZER, **settings)


def probabilities(script, token_ids):
    """The model's distribution of the next token, in float64."""
    logits = script(token_ids, VOCAB).astype(np.float64)
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def enumerated(script, kept, remainder):
    """P(path of tokens up to the one that covers the remainder | the text begins with it), by trying all paths."""
    joint = {}
    paths = [((), b"", 1.0)]
    while paths:
        path, data, weight = paths.pop()
        p = probabilities(script, [*kept, *path])
        for token_id in LETTERS:
            longer = data + TOKENIZER.token_bytes(token_id)
            if longer.startswith(remainder):
                joint[(*path, token_id)] = weight * p[token_id]
            elif remainder.startswith(longer):
                paths.append(((*path, token_id), longer, weight * p[token_id]))
    total = sum(joint.values())
    return {path: weight / total for path, weight in joint.items()}


def drawn(llm, prompt, num_tokens, **params):
    """The healed paths of many choices."""
    sampling = SamplingParams(token_healing=True, max_tokens=num_tokens, n=128, logprobs=0, **params)
    return llm.complete(prompt, sampling)


@pytest.mark.parametrize(("prompt", "kept", "remainder"), [([C, A], [C], b"a"), ([C, C, AB], [C], b"cab")])
@pytest.mark.parametrize("seed", [1, 2])
def test_log_probabilities_are_those_of_the_enumeration(prompt, kept, remainder, seed):
    """The sum of the log-probabilities of the tokens up to the covering one is ln P(path | remainder)."""
    script = few_letters(seed)
    right = enumerated(script, kept, remainder)
    seen = set()
    for seed_of_draw in range(4):
        result = drawn(make_llm(script), prompt, 4, seed=seed_of_draw)
        assert result.prompt_token_ids == kept
        for choice in result.choices:
            data, length = b"", 0
            while len(data) < len(remainder):
                data += TOKENIZER.token_bytes(choice.token_ids[length])
                length += 1
            path = tuple(choice.token_ids[:length])
            assert sum(choice.logprobs.token_logprobs[:length]) == pytest.approx(np.log(right[path]), abs=2e-5)
            seen.add(path)
    assert {path for path, share in right.items() if share > 0.05} <= seen <= set(right)


def test_the_draws_follow_the_enumeration():
    """Chi-squared over 1,280 draws of the first tokens."""
    script = few_letters(3)
    right = enumerated(script, [C], b"cab")
    counts = Counter()
    for seed in range(10):
        for choice in drawn(make_llm(script), [C, C, AB], 3, seed=seed).choices:
            length = next(n for n in (1, 2, 3) if len(b"".join(map(TOKENIZER.token_bytes, choice.token_ids[:n]))) >= 3)
            counts[tuple(choice.token_ids[:length])] += 1
    total = sum(counts.values())
    likely = [path for path, share in right.items() if share * total > 5]
    statistic = sum((counts[path] - right[path] * total) ** 2 / (right[path] * total) for path in likely)
    assert statistic < 2.5 * len(likely) + 10


def test_covering_with_one_token_or_a_mask_alone_is_wrong():
    """A model that never goes on with b after a: a mask on the first token draws a, the model's own never does."""

    def script(token_ids, vocab_size):
        logits = np.full(vocab_size, -np.inf, np.float32)
        logits[[A, AB, ABC, C]] = [5.0, 3.0, 2.0, 4.0]
        if token_ids[-1] == A:
            logits[[A, AB, ABC, C, B]] = [5.0, 0.0, 0.0, 5.0, -9.0]
        return logits

    right = enumerated(script, [C], b"ab")
    assert right[A, B] < 1e-4 < 0.6 < right[AB,]
    firsts = Counter(choice.token_ids[0] for choice in drawn(make_llm(script), [C, AB], 2, seed=1).choices)
    mask_alone = probabilities(script, [C])[[A, AB, ABC]]
    assert mask_alone[0] / mask_alone.sum() > 0.8
    assert set(firsts) == {AB, ABC}
    greedy = make_llm(script).complete([C, AB], SamplingParams(token_healing=True, max_tokens=1, temperature=0))
    assert greedy.choices[0].token_ids == [AB]

    def spelled(token_ids, vocab_size):
        """Tokens a and bc are likely, ab and abc are not: one token alone never draws them."""
        logits = np.full(vocab_size, -np.inf, np.float32)
        logits[[A, AB, ABC]] = [5.0, -3.0, -3.0]
        if token_ids[-1] == A:
            logits[[BC, C]] = [5.0, 0.0]
        return logits

    choice = make_llm(spelled).complete([C, AB], SamplingParams(token_healing=True, max_tokens=2, temperature=0))
    assert (choice.choices[0].token_ids, choice.choices[0].text) == ([A, BC], "c")


def test_text_echo_offsets_and_usage():
    """The text goes on behind the prompt; echo has the prompt once; tokens say where they begin."""
    script = few_letters(4)
    plain = SamplingParams(token_healing=True, max_tokens=6, seed=2, logprobs=1)
    result = make_llm(script).complete("ccab", plain)
    (choice,) = result.choices
    whole = b"c" + b"".join(map(TOKENIZER.token_bytes, choice.token_ids))
    assert whole.decode() == "ccab" + choice.text
    assert choice.logprobs.text_offset[0] == 1
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (1, len(choice.token_ids))
    echoed = make_llm(script).complete("ccab", SamplingParams(token_healing=True, max_tokens=6, seed=2, echo=True))
    assert echoed.choices[0].text == "ccab" + choice.text
    assert echoed.choices[0].token_ids == [C, *choice.token_ids]
    pieces = list(make_llm(script).stream("ccab", plain))
    assert "".join(piece.text for piece in pieces) == choice.text
    assert [token_id for piece in pieces for token_id in piece.token_ids] == choice.token_ids


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("other", [{"speculation": "prompt_lookup"}, {"kv_cache_bytes": 48}, {"max_num_seqs": 1}])
def test_engine_settings_change_nothing(other, seed):
    """Speculation, a cache so small that sequences are preempted, and company: the same bits."""
    script = few_letters(seed)
    params = SamplingParams(token_healing=True, max_tokens=8, n=3, best_of=4, seed=seed, logprobs=1, stop="bb")
    prompts = [[C, A, B, C, C, AB], [C, A], [B, B, C, A]]
    alone = [make_llm(script).complete(prompt, params) for prompt in prompts]
    assert make_llm(script, **other).complete(prompts, params) == alone


@pytest.mark.parametrize("force", [False, True])
def test_replay(tmp_path, force):
    """The capsule has the whole prompt."""
    llm = make_llm(few_letters(1))
    params = SamplingParams(token_healing=True, max_tokens=5, n=2, seed=1, logprobs=1, echo=True)
    llm.capsule(llm.complete([C, C, AB], params)).save(tmp_path / "capsule.json")
    assert llm.replay(tmp_path / "capsule.json", force=force).is_same


@pytest.mark.parametrize(
    ("token_ids", "expected"),
    [
        ([C, AB], 1),
        ([C, C, A], 2),
        ([C, C, C], 1),
        ([A, EOS], 0),
        ([EOS, A], 1),
        ([A], 0),
        ([C, 33], 0),
        ([C, A, B], 2),
    ],
)
def test_as_many_tokens_are_taken_back_as_a_token_could_reach_over(token_ids, expected):
    """A token that is no text, and the first token, stay."""
    index = TokenIndex(TOKENIZER, VOCAB)
    assert num_taken_back(token_ids, [TOKENIZER.token_bytes(one) for one in token_ids], index) == expected


def test_the_index_finds_what_a_search_through_all_tokens_finds():
    """For bytes of all kinds, 0xff at the end included."""
    tokenizer = byte_tokenizer([*EXTRA, b"\xff\xff", b"a\xff", b"a\xff\x00"])
    index = TokenIndex(tokenizer, tokenizer.vocab_size)
    pieces = {token_id: tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)}
    for data in (b"a", b"ab", b"abc", b"\xff", b"\xff\xff", b"a\xff", b"zz", b"\x00"):
        begins = {token_id for token_id, piece in pieces.items() if piece.startswith(data)}
        assert set(index.beginning_with(data)) == begins
        assert index.spelling(data) == [token_id for token_id, piece in pieces.items() if piece == data]
        assert index.is_proper_beginning(data) == any(len(pieces[token_id]) > len(data) for token_id in begins)


def test_what_does_not_go_together_is_refused():
    """With a suffix or a grammar, and without a tokenizer."""
    with pytest.raises(ParameterError, match="token_healing=True: must be False with suffix"):
        SamplingParams(token_healing=True, suffix="x")
    with pytest.raises(ParameterError, match="token_healing=True: must be False with structured"):
        SamplingParams(token_healing=True, structured={"regex": "a"})
    llm = LLM.from_parts(ScriptedModel(few_letters(1), VOCAB))
    with pytest.raises(Exception, match=r"token_healing=.*tokenizer"):
        llm.complete([A, B], SamplingParams(token_healing=True))


def test_a_prompt_that_the_model_cannot_spell_has_no_next_token():
    """All logits of the tokens that continue it are -inf."""

    def script(token_ids, vocab_size):
        logits = np.full(vocab_size, -np.inf, np.float32)
        logits[C] = 0.0
        return logits

    with pytest.raises(EmptySupportError):
        make_llm(script).complete([C, AB], SamplingParams(token_healing=True, max_tokens=2))


def test_a_real_model(shared):
    """stories260K goes on with "time", although the prompt's own tokens end in the middle of the word."""
    llm = LLM(shared / "models" / "stories260K")
    result = llm.complete("Once upon a ti", SamplingParams(token_healing=True, max_tokens=8, temperature=0, logprobs=0))
    assert ("Once upon a ti" + result.choices[0].text).startswith("Once upon a time")


@pytest.mark.parametrize("length", range(5, 12))
def test_near_the_border_of_rotary_factors(length):
    """A prompt whose remainder may cross the border is computed with the factors beyond it; nothing mixes them."""
    script, seen = few_letters(1), []

    def regime_script(token_ids, vocab_size):
        seen.append({token_id // VOCAB for token_id in token_ids})
        return script([token_id % VOCAB for token_id in token_ids], vocab_size)

    model = ScriptedModel(
        regime_script, VOCAB, eos_token_ids=(EOS,), rope_border=9, rope_regime=lambda tokens: int(tokens > 9)
    )
    llm = LLM.from_parts(model, TOKENIZER, speculation="prompt_lookup")
    params = SamplingParams(
        token_healing=True, banned_strings=["bb", "cc"], max_tokens=12, n=4, seed=1, temperature=1.5
    )
    for choice in llm.complete([C] * (length - 1) + [AB], params).choices:
        assert "bb" not in choice.text
    assert max(map(len, seen)) == 1
