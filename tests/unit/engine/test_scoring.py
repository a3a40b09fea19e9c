"""Tests of llm.score and llm.perplexity: log-softmax of the model's logits, one prefill for all continuations."""

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
    """Return an LLM with a context of 100 tokens."""
    model = ScriptedModel(script, 257, max_position_embeddings=100, eos_token_ids=(256,))
    return LLM.from_parts(model, byte_tokenizer(special=["<eos>"]), **settings)


def expected(prompt, continuation):
    """Return log-probabilities and ranks by definition, in float64."""
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
def test_scores_equal_the_log_softmax(prompt, continuations, max_num_seqs, blocks, budget):
    """Scores equal the float64 log-softmax to 1e-6, and repeat to the bit, for all batch and cache sizes."""
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
    """The prompt of forty continuations is computed once."""
    model = ScriptedModel(SCRIPT, 257)
    llm = LLM.from_parts(model, prefix_cache=False, max_num_seqs=4)
    llm.score([1] * 50, [[2, 3, 4]] * 40)
    assert model.num_tokens == 49 + 40 * 3


def test_long_continuations_are_scored_in_chunks(monkeypatch):
    """Scoring in chunks of few logits gives the same result as scoring at once."""
    whole = make_llm().score("a", "x" * 60)
    monkeypatch.setattr(scores_module, "_MAX_ELEMENTS", 7 * 257)
    assert make_llm().score("a", "x" * 60) == whole


def test_scores_are_those_of_echo():
    """llm.score gives the same numbers as the echoed prompt of a completion."""
    echoed = make_llm().complete("abcd", SamplingParams(echo=True, logprobs=0, max_tokens=0)).choices[0].logprobs
    (score,) = make_llm().score("a", "bcd")
    assert score.logprobs == echoed.token_logprobs[1:]
    assert score.ranks == echoed.ranks[1:]


def test_perplexity():
    """Perplexity is exp of the mean negative log-probability; a text of one token raises an error."""
    logprobs, _ = expected([97], [98, 99, 100])
    assert make_llm().perplexity("abcd") == pytest.approx(math.exp(-sum(logprobs) / 3), rel=1e-6)
    with pytest.raises(PromptError, match="two tokens"):
        make_llm().perplexity("a")


def test_invalid_continuations_are_refused():
    """Empty, too long or unknown continuations raise an error that names the argument."""
    llm = make_llm()
    assert len(llm.score([1] * 60, [2] * 41)[0].logprobs) == 41
    with pytest.raises(ContextLengthError, match="102 tokens"):
        llm.score([1] * 60, [2] * 42)
    for continuations in ([], "", [[]], ["a", ""], [[300]], 5):
        with pytest.raises(PromptError, match="continuations"):
            llm.score("a", continuations)
    with pytest.raises(TokenizerError, match="continuations"):
        LLM.from_parts(ScriptedModel(SCRIPT, 257)).score([1], "abc")


def test_a_nan_fails_its_own_call():
    """A NaN logit raises in its own call to score, frees all blocks, and a running stream continues."""

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
