"""Log-probabilities of chosen tokens in the draw's own call: those that forcing each token reports, bit for bit."""

import numpy as np
import pytest

from decoding import Sampler, SamplingParams, SamplingState
from decoding.sampling.output import SamplerOutput

VOCAB_SIZE = 300
IDS = (7, 299, 0, 41)
SETTINGS = {
    "temperature": 0.7,
    "top_k": 290,
    "frequency_penalty": 1.5,
    "banned_token_ids": [41],
    "logit_bias": {7: 2.0},
}


def make_state(mode, ids=(), **others):
    """A state with every kind of edit; token 7 is in its output."""
    params = SamplingParams(seed=3, logprobs=0, logprobs_mode=mode, logprob_token_ids=ids, **SETTINGS, **others)
    state = SamplingState(params)
    state.append(7)
    return state


@pytest.fixture
def logits():
    """One row."""
    return np.random.Generator(np.random.Philox(5)).normal(0, 3, VOCAB_SIZE).astype(np.float32)


@pytest.mark.parametrize("mode", ["raw", "penalized", "scaled", "final", ("final", "raw")])
def test_a_chosen_token_has_the_bits_of_a_forced_one(mode, logits):
    """In the first mode of the row, whatever is drawn; and `logprobs_of` returns the same."""
    sampler, forced = Sampler(VOCAB_SIZE), []
    for token_id in IDS:
        state = make_state(mode)
        state.force(token_id)
        forced.append(sampler.sample(logits, [state], commit=False).logprobs[0])
    chosen = sampler.sample(logits, [make_state(mode, IDS)], commit=False).chosen_logprobs
    assert chosen[0].tobytes() == np.array(forced, np.float32).tobytes()
    assert sampler.logprobs_of(logits, make_state(mode), IDS).tobytes() == chosen.tobytes()
    assert np.isfinite(chosen[0, 0])


def test_rows_have_their_own_ids(logits):
    """A row with fewer ids than another has NaN behind them; a row that fails has nothing else."""
    rows = np.stack([logits, np.full_like(logits, np.nan), logits, logits])
    states = [make_state("raw", IDS), make_state("raw", IDS), make_state("raw", IDS[1:2]), make_state("raw")]
    output = Sampler(VOCAB_SIZE).sample(rows, states, on_error="status")
    assert np.isnan(output.chosen_logprobs).tolist() == [[False] * 4, [True] * 4, [False, True, True, True], [True] * 4]
    assert output.chosen_logprobs[2, 0] == output.chosen_logprobs[0, 1]


def test_threads_and_parts(logits):
    """Rows that several threads share, and outputs that are joined, keep each row's values."""
    rows = np.tile(logits, (8000, 1)) + np.arange(8000, dtype=np.float32)[:, None] % 3
    states = [make_state("final", IDS) for _ in rows]
    one = Sampler(VOCAB_SIZE).sample(rows, states, commit=False)
    many = Sampler(VOCAB_SIZE, num_threads=4).sample(rows, states, commit=False)
    assert many.chosen_logprobs.tobytes() == one.chosen_logprobs.tobytes()
    parts = [Sampler(VOCAB_SIZE).sample(rows[part], states[part], commit=False) for part in (slice(3), slice(3, None))]
    joined = SamplerOutput.joined(parts)
    assert joined.chosen_logprobs.tobytes() == one.chosen_logprobs.tobytes()


def test_scores_of_given_tokens_have_them_too(logits):
    """`score` reports chosen ids of every row, raw; without any there are no columns."""
    output = Sampler(VOCAB_SIZE).score(np.stack([logits, logits]), [1, 2], chosen=(2, 1))
    assert output.chosen_logprobs[0].tolist() == [output.logprobs[1], output.logprobs[0]]
    assert Sampler(VOCAB_SIZE).score(logits, [1]).chosen_logprobs.shape == (1, 0)
