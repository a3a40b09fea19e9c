"""Banned strings: texts follow the masked process, and no banned string ever appears in the output."""

import heapq
import itertools
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding import LLM, ParameterError, SamplingParams
from decoding.engine import candidate as candidate_module
from decoding.errors import EmptySupportError
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits

A, B, C = 97, 98, 99
TOKENIZER = byte_tokenizer([b"ab", b"bc", b"ca", b"cab"], ["<eos>", "<x>"])
AB, BC, CA, CAB, EOS, SPECIAL = range(256, 262)
VOCAB = TOKENIZER.vocab_size
LETTERS = (A, B, C, AB, BC, CA)


def few_letters(seed, ids=LETTERS, scale=2.0):
    """Return a script whose logits allow a few tokens only and depend on all tokens so far."""
    hashed = hashed_logits(seed, scale)

    def script(token_ids, vocab_size):
        logits = np.full(vocab_size, -np.inf, np.float32)
        logits[[*ids]] = hashed(token_ids, len(ids))
        return logits

    return script


def make_llm(script, **settings):
    """Return an LLM around a scripted model."""
    return LLM.from_parts(ScriptedModel(script, VOCAB, eos_token_ids=(EOS,)), TOKENIZER, **settings)


def text_of(tokens):
    """Return the bytes that the tokens spell."""
    return b"".join(map(TOKENIZER.token_bytes, tokens))


def began(tokens, banned):
    """Return the index of the token in which the banned string completed by the last token begins, or None."""
    text, before = text_of(tokens), text_of(tokens[:-1])
    ends = [(text.find(one) + len(one), text.find(one)) for one in banned if one in text and one not in before]
    if not ends:
        return None
    start, lengths = min(ends)[1], [len(text_of(tokens[:n])) for n in range(len(tokens) + 1)]
    return max(n for n in range(len(tokens)) if lengths[n] <= start)


def enumerated(script, prompt, banned, num_tokens):
    """Return the probability of each text under the masked process, by enumeration.

    Every draw makes the sizes of the masks, position by position, a later tuple: so each state is visited once.
    """
    outcomes, weights = defaultdict(float), {((), (frozenset(),)): 1.0}
    number = itertools.count()
    order = [((0,), next(number), ((), (frozenset(),)))]
    while order:
        *_, state = heapq.heappop(order)
        if state not in weights:
            continue
        (tokens, masks), weight = state, weights.pop(state)
        if len(tokens) == num_tokens:
            outcomes[tokens] += weight
            continue
        logits = script([*prompt, *tokens], VOCAB).astype(np.float64)
        logits[list(masks[-1])] = -np.inf
        p = np.exp(logits - logits.max())
        p /= p.sum()
        for token_id in np.flatnonzero(p).tolist():
            longer = (*tokens, token_id)
            first = began(longer, banned)
            after = (longer, (*masks, frozenset()))
            if first is not None:
                after = (longer[:first], (*masks[:first], masks[first] | {longer[first]}))
            weights[after] = weights.get(after, 0.0) + weight * p[token_id]
            heapq.heappush(order, (tuple(map(len, after[1])), next(number), after))
    return outcomes


@pytest.mark.parametrize(("banned", "seed"), [(["abc", "cc"], 1), (["bca", "aa", "c"], 4)])
def test_the_draws_follow_the_enumeration(banned, seed):
    """The distribution of 1,024 drawn texts of three tokens passes a chi-squared test against the enumeration."""
    script = few_letters(seed, (A, B, C, AB))
    right = enumerated(script, [C], [one.encode() for one in banned], 3)
    assert sum(right.values()) == pytest.approx(1)
    counts = Counter()
    for number in range(8):
        params = SamplingParams(banned_strings=banned, max_tokens=3, n=128, seed=number)
        counts.update(tuple(choice.token_ids) for choice in make_llm(script).complete([C], params).choices)
    total = sum(counts.values())
    likely = [tokens for tokens, share in right.items() if share * total > 5]
    statistic = sum((counts[one] - right[one] * total) ** 2 / (right[one] * total) for one in likely)
    assert statistic < len(likely) + 5 * np.sqrt(2 * len(likely))
    assert set(counts) <= set(right)


def test_a_text_without_a_banned_string_does_not_change():
    """A text that contains no banned string is the same as without banned_strings."""
    script = few_letters(5)
    plain = make_llm(script).complete([C], SamplingParams(max_tokens=6, n=64, seed=1)).choices
    banned = make_llm(script).complete([C], SamplingParams(max_tokens=6, n=64, seed=1, banned_strings="bcb")).choices
    differ = [one.text != other.text for one, other in zip(plain, banned, strict=True)]
    assert differ == ["bcb" in one.text for one in plain]
    assert any(differ)


STRINGS = st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3)


@settings(max_examples=20, deadline=None)
@given(
    STRINGS,
    st.integers(0, 5),
    st.sampled_from([(), ("cb",), ("a",)]),
    st.booleans(),
    st.sampled_from([None, 1]),
    st.sampled_from([0.0, 1.0]),
    st.booleans(),
)
def test_whole_streamed_speculated_and_crowded(banned, seed, stop, keeps_stop, logprobs, temperature, echo):
    """Results are the same whole, streamed, speculated or in a crowded batch, and contain no banned string."""
    params = SamplingParams(
        banned_strings=banned,
        max_tokens=12,
        n=2,
        seed=seed,
        stop=stop,
        include_stop_str_in_output=keeps_stop,
        logprobs=logprobs,
        temperature=temperature,
        echo=echo,
        frequency_penalty=0.2,
        min_tokens=2,
    )
    script = few_letters(seed, (*LETTERS, CAB, EOS, SPECIAL))
    whole = make_llm(script).complete([C, B, C, B], params, on_error="status")
    prompt = "cbcb" if echo else ""
    for choice in whole.choices:
        assert not any(one in choice.text[len(prompt) :] for one in banned)
        assert choice.error is None or isinstance(choice.error, EmptySupportError)
    others = ({"speculation": "prompt_lookup"}, {"kv_cache_bytes": 48}, {"max_num_seqs": 1, "prefix_cache": False})
    for other in (*others, {"speculation": make_llm(few_letters(9, (*LETTERS, EOS)))}):
        crowd = make_llm(script, **other)
        results = crowd.complete([[C, B, C, B], [A, B], [C, B, C, B]], params, on_error="status")
        assert [shown(choice) for choice in results[2].choices] == [shown(choice) for choice in whole.choices]
    pieces = defaultdict(list)
    for delta in make_llm(script).stream([C, B, C, B], params, on_error="status"):
        pieces[delta.index].append(delta)
    for choice in whole.choices:
        assert "".join(piece.text for piece in pieces[choice.index]) == choice.text
        assert [token_id for piece in pieces[choice.index] for token_id in piece.token_ids] == choice.token_ids


def shown(choice):
    """Return all fields of a choice except its error, which is a new object in each run."""
    return (choice.text, choice.token_ids, choice.finish_reason, choice.stop_reason, choice.logprobs)


def test_with_a_grammar_and_healing():
    """A redraw also takes back the state of a grammar and of token healing."""
    pytest.importorskip("llguidance")
    script = few_letters(1)
    params = SamplingParams(structured={"regex": "[abc]{5,6}"}, banned_strings=["ab", "ca"], n=32, seed=1, max_tokens=9)
    for choice in make_llm(script).complete([C], params).choices:
        assert 5 <= len(choice.text) <= 6
        assert "ab" not in choice.text
        assert "ca" not in choice.text
    params = SamplingParams(token_healing=True, banned_strings=["b", "cc"], n=32, seed=1, max_tokens=4)
    result = make_llm(script).complete([C, A], params)
    for choice in result.choices:
        assert "b" not in choice.text
        assert "cc" not in choice.text
        assert text_of([C, *choice.token_ids]).decode() == "ca" + choice.text


def test_best_of_ranks_by_the_tokens_that_stayed():
    """best_of ranks by the mean log-probability of the tokens that stayed in the text."""
    script = few_letters(2)
    params = SamplingParams(banned_strings=["ab", "c"], n=3, best_of=8, seed=1, max_tokens=6, logprobs=0)
    for choice in make_llm(script).complete([C], params).choices:
        assert choice.mean_logprob == pytest.approx(np.mean(choice.logprobs.token_logprobs), abs=1e-6)


def test_processors_see_the_tokens_that_stayed():
    """A logits processor never sees token ids that contain a banned string."""
    seen = []

    def watch(token_ids, logits):
        seen.append(text_of(token_ids))

    params = SamplingParams(banned_strings=["ab"], n=1, seed=1, max_tokens=40)
    script = few_letters(3, (A, B, C))
    with_processor = make_llm(script).complete([C], params, processors=[watch])
    assert with_processor.choices == make_llm(script).complete([C], params).choices
    assert not any(b"ab" in text for text in seen)


def test_empty_support_and_too_many_redraws_are_errors(monkeypatch):
    """Banning every token raises EmptySupportError; exceeding MAX_REDRAWS raises ParameterError."""
    params = SamplingParams(banned_strings=["a", "b", "c"], seed=1, max_tokens=3)
    with pytest.raises(EmptySupportError, match="hard_masks"):
        make_llm(few_letters(1)).complete([C], params)
    monkeypatch.setattr(candidate_module, "MAX_REDRAWS", 3)
    with pytest.raises(ParameterError, match=r"banned_strings=.*takes more than 3 redraws"):
        make_llm(few_letters(1)).complete([C], SamplingParams(banned_strings=["a", "b"], seed=1, max_tokens=50))


@pytest.mark.parametrize("force", [False, True])
def test_replay(tmp_path, force):
    """A capsule with banned strings replays to the same result; force=True is refused with mode "final"."""
    llm = make_llm(few_letters(1))
    params = SamplingParams(banned_strings=["ab"], max_tokens=9, n=3, seed=1, logprobs=1)
    llm.capsule(llm.complete([C], params)).save(tmp_path / "capsule.json")
    assert llm.replay(tmp_path / "capsule.json", force=force).is_same
    final = SamplingParams(banned_strings=["ab"], max_tokens=9, seed=1, logprobs=1, logprobs_mode="final")
    llm.capsule(llm.complete([C], final)).save(tmp_path / "final.json")
    assert llm.replay(tmp_path / "final.json").is_same
    with pytest.raises(ParameterError, match="force=True: must be False for banned_strings"):
        llm.replay(tmp_path / "final.json", force=True)


def test_real_text(shared):
    """A SentencePiece model produces none of the banned words, and the token texts join to the text."""
    llm = LLM(shared / "models" / "stories260K")
    banned = ["Once", "there", "girl", "Lily"]
    params = SamplingParams(banned_strings=banned, max_tokens=60, n=4, seed=1, temperature=0.8, logprobs=0)
    for choice in llm.complete("", params).choices:
        assert not any(one in choice.text for one in banned)
        assert "".join(choice.logprobs.tokens) == choice.text
