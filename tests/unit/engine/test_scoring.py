"""llm.score and llm.perplexity: the log-softmax of the bare logits, one prefill for all continuations."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding.engine.tasks import scores as scores_module
from decoding.errors import ContextLengthError, NonFiniteLogitsError, PromptError, TokenizerError
from decoding.llm import LLM
from decoding.params import SamplingParams
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits

SCRIPT = hashed_logits()


def make_llm(script=SCRIPT, **settings):
    """A context of 100 tokens."""
    model = ScriptedModel(script, 257, max_position_embeddings=100, eos_token_ids=(256,))
    return LLM.from_parts(model, byte_tokenizer(special=["<eos>"]), **settings)


def expected(prompt, continuation):
    """Log-probabilities and ranks by the definition."""
    logprobs, ranks, ids = [], [], list(prompt)
    for token_id in continuation:
        row = SCRIPT(ids, 257).astype(np.float64)
        logprobs.append(row[token_id] - row.max() - math.log(np.exp(row - row.max()).sum()))
        ranks.append(1 + int((row > row[token_id]).sum()))
        ids.append(token_id)
    return logprobs, ranks


TOKENS = st.lists(st.integers(0, 255), min_size=1, max_size=30)


@settings(max_examples=40)
@given(TOKENS, st.lists(TOKENS, min_size=1, max_size=5), st.integers(1, 5), st.integers(8, 20), st.integers(1, 40))
def test_scores_are_those_of_the_bare_logits(prompt, continuations, max_num_seqs, blocks, budget):
    """In any batch, in chunks, in short memory, twice: within float32 of float64, and bit for bit the same."""
    llm = make_llm(max_num_seqs=max_num_seqs, kv_cache_bytes=16 * blocks, max_batched_tokens=budget)
    scores = llm.score(prompt, continuations)
    assert llm.score(prompt, continuations) == scores
    assert llm.stats.num_blocks_live == 0
    for continuation, score in zip(continuations, scores, strict=True):
        logprobs, ranks = expected(prompt, continuation)
        np.testing.assert_allclose(score.logprobs, logprobs, rtol=1e-6)
        assert (score.token_ids, score.ranks) == (continuation, ranks)
        assert score.total == sum(score.logprobs)


def test_the_prompt_is_computed_once():
    """Forty continuations of 50 tokens of prompt: these once, and each continuation but its last token."""
    model = ScriptedModel(SCRIPT, 257)
    llm = LLM.from_parts(model, prefix_cache=False, max_num_seqs=4)
    llm.score([1] * 50, [[2, 3, 4]] * 40)
    assert model.num_tokens == 49 + 40 * 3


def test_long_continuations_are_scored_in_chunks(monkeypatch):
    """The logits that are held at once are bounded, and nothing else changes."""
    whole = make_llm().score("a", "x" * 60)
    monkeypatch.setattr(scores_module, "_MAX_ELEMENTS", 7 * 257)
    assert make_llm().score("a", "x" * 60) == whole


def test_scores_are_those_of_echo():
    """The same numbers as a scored prompt has in a completion."""
    echoed = make_llm().complete("abcd", SamplingParams(echo=True, logprobs=0, max_tokens=0)).choices[0].logprobs
    (score,) = make_llm().score("a", "bcd")
    assert score.logprobs == echoed.token_logprobs[1:]
    assert score.ranks == echoed.ranks[1:]


def test_perplexity():
    """Exp of the mean surprise; one token has none."""
    logprobs, _ = expected([97], [98, 99, 100])
    assert make_llm().perplexity("abcd") == pytest.approx(math.exp(-sum(logprobs) / 3), rel=1e-6)
    with pytest.raises(PromptError, match="two tokens"):
        make_llm().perplexity("a")


def test_what_cannot_be_scored():
    """Empty, too long, unknown: errors that name the argument; the last token need not fit."""
    llm = make_llm()
    assert len(llm.score([1] * 60, [2] * 41)[0].logprobs) == 41
    with pytest.raises(ContextLengthError, match="102 tokens"):
        llm.score([1] * 60, [2] * 42)
    for continuations in ([], "", [[]], ["a", ""], [[300]], 5):
        with pytest.raises(PromptError, match="continuations"):
            llm.score("a", continuations)
    with pytest.raises(TokenizerError, match="continuations"):
        LLM.from_parts(ScriptedModel(SCRIPT, 257)).score([1], "abc")


def test_a_nan_is_an_error_of_its_call():
    """Nothing is left behind, and a stream that runs meanwhile goes on."""

    def script(token_ids, vocab_size):
        return SCRIPT(token_ids, vocab_size) * (np.nan if token_ids[-1] == 33 else 1.0)

    llm = make_llm(script)
    params = SamplingParams(seed=1, max_tokens=8, banned_token_ids=[33], ignore_eos=True)
    stream = llm.stream("ab", params)
    texts = [next(stream).text]
    with pytest.raises(NonFiniteLogitsError):
        llm.score("a", ["bc", "b!c"])
    texts += [delta.text for delta in stream]
    assert "".join(texts) == make_llm().complete("ab", params).choices[0].text
    assert llm.stats.num_blocks_live == 0
