"""Token healing: draws follow the model's own distribution, conditioned on the prompt's bytes."""

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
    """Return a script whose logits allow nine tokens and EOS and depend on all tokens so far."""
    hashed = hashed_logits(seed, scale)

    def script(token_ids, vocab_size):
        logits = np.full(vocab_size, -np.inf, np.float32)
        logits[[*LETTERS, EOS]] = hashed(token_ids, len(LETTERS) + 1)
        return logits

    return script


def make_llm(script, **settings):
    """Return an LLM around a scripted model."""
    return LLM.from_parts(ScriptedModel(script, VOCAB, eos_token_ids=(EOS,)), TOKENIZER, **settings)


def probabilities(script, token_ids):
    """Return the model's distribution of the next token, in float64."""
    logits = script(token_ids, VOCAB).astype(np.float64)
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def enumerated(script, kept, remainder):
    """Return P(path of tokens that covers the remainder | the text begins with it), by enumeration of all paths."""
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
    """Return a healed completion with 128 choices."""
    sampling = SamplingParams(token_healing=True, max_tokens=num_tokens, n=128, logprobs=0, **params)
    return llm.complete(prompt, sampling)


@pytest.mark.parametrize(("prompt", "kept", "remainder"), [([C, A], [C], b"a"), ([C, C, AB], [C], b"cab")])
@pytest.mark.parametrize("seed", [1, 2])
def test_log_probabilities_are_those_of_the_enumeration(prompt, kept, remainder, seed):
    """The log-probabilities of the tokens that cover the remainder sum to ln P(path | remainder)."""
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
    """The distribution of 1,280 healed draws passes a chi-squared test against the enumeration."""
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
    """Healing conditions on the whole remainder; a mask on the first token, or one covering token, is not enough."""

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
        """Return logits that make the path a, bc likely and the single tokens ab and abc unlikely."""
        logits = np.full(vocab_size, -np.inf, np.float32)
        logits[[A, AB, ABC]] = [5.0, -3.0, -3.0]
        if token_ids[-1] == A:
            logits[[BC, C]] = [5.0, 0.0]
        return logits

    choice = make_llm(spelled).complete([C, AB], SamplingParams(token_healing=True, max_tokens=2, temperature=0))
    assert (choice.choices[0].token_ids, choice.choices[0].text) == ([A, BC], "c")


def test_text_echo_offsets_and_usage():
    """A healed text continues the prompt, echo contains the prompt once, and offsets and usage count kept tokens."""
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
    """Speculation, preemption in a small cache and max_num_seqs=1 do not change a bit of the results."""
    script = few_letters(seed)
    params = SamplingParams(token_healing=True, max_tokens=8, n=3, best_of=4, seed=seed, logprobs=1, stop="bb")
    prompts = [[C, A, B, C, C, AB], [C, A], [B, B, C, A]]
    alone = [make_llm(script).complete(prompt, params) for prompt in prompts]
    assert make_llm(script, **other).complete(prompts, params) == alone


@pytest.mark.parametrize("force", [False, True])
def test_replay(tmp_path, force):
    """A capsule of a healed completion replays to the same result, sampled or forced."""
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
def test_number_of_tokens_taken_back(token_ids, expected):
    """Healing takes back as many tokens as one longer token could cover, but not the first or a special token."""
    index = TokenIndex(TOKENIZER, VOCAB)
    assert num_taken_back(token_ids, [TOKENIZER.token_bytes(one) for one in token_ids], index) == expected


def test_the_index_agrees_with_a_linear_search():
    """TokenIndex finds the same tokens as a linear search, for bytes of all kinds including 0xff."""
    tokenizer = byte_tokenizer([*EXTRA, b"\xff\xff", b"a\xff", b"a\xff\x00"])
    index = TokenIndex(tokenizer, tokenizer.vocab_size)
    pieces = {token_id: tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)}
    for data in (b"a", b"ab", b"abc", b"\xff", b"\xff\xff", b"a\xff", b"zz", b"\x00"):
        begins = {token_id for token_id, piece in pieces.items() if piece.startswith(data)}
        assert set(index.beginning_with(data)) == begins
        assert index.spelling(data) == [token_id for token_id, piece in pieces.items() if piece == data]
        assert index.is_proper_beginning(data) == any(len(pieces[token_id]) > len(data) for token_id in begins)


def test_incompatible_parameters_are_refused_with_healing():
    """Token healing is refused with a suffix, with a grammar and without a tokenizer."""
    with pytest.raises(ParameterError, match="token_healing=True: must be False with suffix"):
        SamplingParams(token_healing=True, suffix="x")
    with pytest.raises(ParameterError, match="token_healing=True: must be False with structured"):
        SamplingParams(token_healing=True, structured={"regex": "a"})
    llm = LLM.from_parts(ScriptedModel(few_letters(1), VOCAB))
    with pytest.raises(Exception, match=r"token_healing=.*tokenizer"):
        llm.complete([A, B], SamplingParams(token_healing=True))


def test_a_prompt_that_the_model_cannot_spell_has_no_next_token():
    """If all tokens that continue the prompt have -inf logits, an EmptySupportError is raised."""

    def script(token_ids, vocab_size):
        logits = np.full(vocab_size, -np.inf, np.float32)
        logits[C] = 0.0
        return logits

    with pytest.raises(EmptySupportError):
        make_llm(script).complete([C, AB], SamplingParams(token_healing=True, max_tokens=2))


def test_a_real_model(shared):
    """stories260K completes "ti" to "time", although the prompt's last token ends inside the word."""
    llm = LLM(shared / "models" / "stories260K")
    result = llm.complete("Once upon a ti", SamplingParams(token_healing=True, max_tokens=8, temperature=0, logprobs=0))
    assert ("Once upon a ti" + result.choices[0].text).startswith("Once upon a time")


@pytest.mark.parametrize("length", range(5, 12))
def test_healing_near_the_boundary_of_rotary_factors(length):
    """A healed prompt near the boundary of rotary factors never mixes keys that were rotated by different ones."""
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
