"""The kernel against the float64 reference on every instruction set, with Hypothesis."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding import reference
from decoding.params import SamplingParams
from decoding.sampling.sampler import Sampler, SamplingState
from decoding.testing import logits_rows, sampling_problems, vocab_sizes

assert_every_set_matches = runpy.run_path(str(Path(__file__).parent / "every_set.py"))["assert_every_set_matches"]


@settings(max_examples=settings.default.max_examples * 2)
@given(sampling_problems())
def test_everything_reported_matches(problem):
    """Kept set, probabilities, token, log-probability, rank and top-N equal the reference's for each row."""
    assert_every_set_matches(problem.sampler, problem.logits, problem.states)


@given(sampling_problems(nonfinite=True))
def test_errors_match(problem):
    """A row fails with the reference's error, stage and token; other rows of the batch are drawn."""
    assert_every_set_matches(problem.sampler, problem.logits, problem.states)


@settings(max_examples=settings.default.max_examples // 3)
@given(sampling_problems(max_rows=2, large=True))
def test_long_rows_match(problem):
    """Rows of many blocks give the reference's results."""
    assert_every_set_matches(problem.sampler, problem.logits, problem.states)


@given(sampling_problems(nonfinite=True))
def test_float16_rows_match(problem):
    """Logits in float16 are converted exactly to float32, overflow to infinity included."""
    with np.errstate(over="ignore"):
        logits = problem.logits.astype(np.float16)
    assert_every_set_matches(problem.sampler, logits, problem.states)


@given(sampling_problems(nonfinite=True))
def test_bfloat16_rows_match(problem):
    """Logits in bfloat16, as bits in uint16, are converted exactly to float32."""
    logits = (problem.logits.view(np.uint32) >> 16).astype(np.uint16)
    assert_every_set_matches(problem.sampler, logits, problem.states)


@settings(max_examples=3)
@given(st.integers(0, 2**32))
def test_a_real_vocabulary_matches(seed):
    """Rows of 128,256 float16 logits with top_p give the reference's results in all modes of log-probabilities."""
    logits = np.random.default_rng(seed).normal(0, 3, (4, 128_256)).astype(np.float16)
    states = [
        SamplingState(SamplingParams(seed=seed, temperature=0.7, top_p=0.95, logprobs=20, logprobs_mode=mode))
        for mode in ("raw", "penalized", "scaled", "final")
    ]
    assert_every_set_matches(Sampler(128_256), logits, states)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
def test_weights_are_as_close_as_promised(temperature):
    """The error of exp(l / T) is within the bound of docs/adr/0002 plus half a unit of 2**-43."""
    logits = -np.linspace(0.0, 16.0 * temperature, 100_000, dtype=np.float32)
    state = SamplingState(SamplingParams(temperature=temperature))
    (p,) = Sampler(100_000).probabilities(logits, [state])
    exact = np.exp(logits.astype(np.float64) / temperature)
    allowed = (3.0 - logits / temperature) * 2.0**-24  # relative: 1.8e-7 + 6e-8 * |l / T|
    assert (abs(p / p[0] - exact) <= allowed * exact + 2.0**-44).all()


@pytest.mark.usefixtures("isa")
@given(st.data())
def test_score_matches(data):
    """The method `score` reports the reference's raw log-probabilities, ranks and top-N, padding ids included."""
    vocab_size = data.draw(vocab_sizes())
    logits = data.draw(logits_rows(vocab_size))
    token_id = data.draw(st.integers(0, vocab_size - 1))
    num_top = data.draw(st.integers(0, vocab_size))
    output = Sampler(vocab_size, num_valid_tokens=1).score(logits, [token_id], num_top=num_top)
    row = reference.sample_row(reference.Row(logits=logits, params=SamplingParams(), seed=0))
    expected = reference.logprobs(row, "raw")
    top = reference.top_token_ids(row, "raw", num_top)
    assert output.token_ids.tolist() == [token_id]
    assert output.ranks.tolist() == [reference.rank(row, "raw", token_id)]
    assert output.top_token_ids[0, : len(top)].tolist() == top.tolist()
    with np.errstate(over="ignore"):
        expected = expected.astype(np.float32)
    np.testing.assert_allclose(output.logprobs[0], expected[token_id], rtol=2e-7, atol=1e-6)
    np.testing.assert_allclose(output.top_logprobs[0, : len(top)], expected[top], rtol=2e-7, atol=1e-6)


@pytest.mark.usefixtures("isa")
@given(st.data())
def test_a_ranking_always_gets_raw_logprobs(data):
    """With best_of > n the raw log-probability of the drawn token is reported, for any requested mode."""
    vocab_size = data.draw(vocab_sizes())
    logits = data.draw(logits_rows(vocab_size))
    mode = data.draw(st.sampled_from([None, "raw", "penalized", "scaled", "final"]))
    report = {} if mode is None else {"logprobs": 1, "logprobs_mode": mode}
    state = SamplingState(SamplingParams(n=1, best_of=2, temperature=2.0, seed=5, **report))
    output = Sampler(vocab_size).sample(logits, [state])
    row = reference.sample_row(reference.Row(logits=logits, params=SamplingParams(), seed=0))
    with np.errstate(over="ignore"):
        expected = np.float32(reference.logprobs(row, "raw")[output.token_ids[0]])
    np.testing.assert_allclose(output.raw_logprobs[0], expected, rtol=2e-7, atol=1e-6)
    if mode == "raw":
        assert output.raw_logprobs.tobytes() == output.logprobs.tobytes()
