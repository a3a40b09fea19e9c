"""Draws follow the requested distribution. Seeds are fixed, so the results do not vary between runs.

The quick tier draws a sample; `pytest -m slow tests/statistical` draws a million tokens of each distribution, and a
hundred million without a dropped token.
"""

import math

import numpy as np
import pytest

from decoding import reference
from decoding.params import SamplingParams
from decoding.sampling.sampler import Sampler, SamplingState
from decoding.testing import assert_distribution, assert_independent
from decoding.testing.assertions import distribution_p_values
from decoding.testing.statistics import chi_square_survival, g_test, holm

NUM_ROWS, NUM_STEPS = 2000, 20
FAMILY_WISE = 1e-3
"""Error rate of all distributions and tests together; the seeds were chosen once and never tuned."""


def states_that_differ_in(what, num_states, **params):
    """Return states that differ only in `what` (seed, choice or stream), numbered 0, 1, 2, ..."""
    if what == "seed":
        return [SamplingState(SamplingParams(seed=i, **params)) for i in range(num_states)]
    shared = SamplingParams(seed=42, **params)
    return [SamplingState(shared, **{what: i}) for i in range(num_states)]


def draw(logits, states, num_steps=1):
    """Return tokens [num_steps, states], drawn from the same row of logits in every step."""
    sampler = Sampler(len(logits))
    rows = np.broadcast_to(logits, (len(states), len(logits)))  # row stride 0: one row in memory
    return np.stack([sampler.sample(rows, states).token_ids for _ in range(num_steps)])


def zipf(vocab_size):
    """Return logits of a long-tailed distribution with shuffled ids."""
    logits = -1.1 * np.log(np.arange(1, vocab_size + 1))
    return np.random.default_rng(0).permutation(logits).astype(np.float32)


def tails():
    """Return logits of two tokens with nearly all mass, fifty tokens of 1e-5 and fifty of 1e-9."""
    p = np.repeat([0.6, 0.4, 1e-5, 1e-9], [1, 1, 50, 50])
    return np.log(p).astype(np.float32)


def tied():
    """Return eight values, each for twenty-five tokens."""
    return np.repeat(np.arange(8, dtype=np.float32) / 2, 25)


CASES = {
    "plain": (zipf(200), {}),
    "hot": (zipf(200), {"temperature": 1.7}),
    "cold": (zipf(200), {"temperature": 0.4}),
    "tails": (tails(), {}),
    "tails, searched": (tails(), {"top_k": 101}),
    "ties": (tied(), {}),
    "ties, top_k": (tied(), {"top_k": 40}),
    "ties, top_p": (tied(), {"top_p": 0.7}),
    "long": (zipf(20_000), {}),
    "top_k": (zipf(200), {"top_k": 12}),
    "top_p": (zipf(200), {"top_p": 0.8}),
    "min_p": (zipf(200), {"min_p": 0.02}),
    "typical_p": (zipf(200), {"typical_p": 0.6}),
    "top_n_sigma": (zipf(200), {"top_n_sigma": 2.0}),
    "epsilon": (zipf(200), {"epsilon_cutoff": 0.004}),
    "eta": (zipf(200), {"eta_cutoff": 0.01}),
    "top_a": (zipf(200), {"top_a": 0.3}),
    "xtc": (zipf(200), {"xtc_probability": 1.0, "xtc_threshold": 0.05}),
    "top_h": (zipf(200), {"top_h": 0.6}),
    "p_less": (zipf(200), {"p_less": "norm"}),
    "min_k": (zipf(200), {"min_k": 30.0}),
    "tfs": (zipf(200), {"tfs": 0.95}),
    "skew": (zipf(200), {"skew": 0.5, "top_k": 50}),
    "smoothing": (zipf(200), {"smoothing_factor": 0.3}),
    "dynatemp": (zipf(200), {"dynatemp_range": 0.5}),
    "all": (zipf(200), {"temperature": 1.3, "top_k": 100, "top_p": 0.9, "min_p": 0.01}),
    "bias": (zipf(200), {"logit_bias": {0: 3.0, 5: 2.0}}),
    "masks": (zipf(200), {"banned_token_ids": [1, 2, 3], "allowed_token_ids": range(60)}),
}


def check_all_cases(num_rows, num_steps):
    """Draw from every case, and assert that all fit, with one family-wise error rate."""
    p_values = {}
    for case, (logits, params) in CASES.items():
        row = reference.Row(logits=logits, params=SamplingParams(**params), seed=0)
        expected = reference.sample_row(row).probabilities
        tokens = draw(logits, states_that_differ_in("seed", num_rows, **params), num_steps).ravel()
        assert (expected[tokens] > 0).all(), case
        p_values |= {f"{case}: {test}": p for test, p in distribution_p_values(tokens, expected).items()}
    assert holm(p_values, FAMILY_WISE) == []


def test_draws_follow_the_reference_distribution():
    """With each filter 20,000 draws fit the reference's distribution, and no dropped token is drawn."""
    check_all_cases(1000, 20)


@pytest.mark.slow
def test_a_million_draws_follow_the_reference_distribution():
    """With each filter a million draws fit the reference's distribution."""
    check_all_cases(20_000, 50)


@pytest.mark.slow
@pytest.mark.parametrize(
    "params", [{"top_k": 8}, {"top_p": 0.9}, {"min_p": 0.05}, {"banned_token_ids": range(0, 64, 2)}]
)
def test_dropped_tokens_are_never_drawn(params):
    """None of four times 25 million draws is a filtered or banned token."""
    num_states, logits = 5000, zipf(64)
    states = states_that_differ_in("seed", num_states, **params)
    (kept,) = Sampler(64).probabilities(logits, states[:1]) > 0
    assert 1 < kept.sum() < 64
    sampler, rows = Sampler(64), np.broadcast_to(logits, (num_states, 64))
    for _ in range(25_000_000 // num_states):
        assert kept[sampler.sample(rows, states).token_ids].all()


def test_xtc_applies_with_its_probability():
    """With xtc_probability=0.3 the top choices are excluded for 30 % of 10,000 seeds."""
    logits, threshold = zipf(50), {"xtc_threshold": 0.05}
    plain, excluded = (
        reference.sample_row(
            reference.Row(logits=logits, params=SamplingParams(xtc_probability=p, **threshold), seed=0)
        ).probabilities
        for p in (0.0, 1.0)
    )
    tokens = draw(logits, states_that_differ_in("seed", 10_000, xtc_probability=0.3, **threshold))[0]
    assert_distribution(tokens, 0.3 * excluded + 0.7 * plain)


FLAT = np.full(64, 1 / 64)


@pytest.mark.parametrize("what", ["seed", "choice", "stream"])
def test_neighbours_are_independent(what):
    """First draws under consecutive numbers are independent at lags 1, 2 and 16."""
    tokens = draw(np.zeros(64, np.float32), states_that_differ_in(what, 16_384))[0]
    assert_independent(tokens.reshape(64, 256), FLAT, lags=(1, 2, 16))


def test_positions_are_independent():
    """Tokens of a sequence are independent at lags 1, 2 and 7."""
    tokens = draw(np.zeros(64, np.float32), states_that_differ_in("seed", 1000), 40)
    assert_independent(tokens.T, FLAT, lags=(1, 2, 7))


def test_choices_of_a_position_are_independent():
    """At each position the draws of choices j and j + 1 are independent."""
    tokens = draw(np.zeros(64, np.float32), states_that_differ_in("choice", 1000), 20)
    assert_independent(tokens, FLAT)


def test_rare_tokens_are_drawn_as_often_as_they_should():
    """The last hundred of 10,000 equal tokens have 1 % of the draws, within four sigma."""
    tokens = draw(np.zeros(10_000, np.float32), states_that_differ_in("choice", NUM_ROWS), NUM_STEPS)
    expected = tokens.size / 100
    assert abs((tokens >= 9900).sum() - expected) < 4 * math.sqrt(expected)


def test_the_same_seed_draws_the_same_tokens():
    """Two runs of 500 sequences are equal, and sequences with other seeds differ."""
    logits = zipf(200)
    first, again = (draw(logits, states_that_differ_in("seed", 500, temperature=2.0), 4) for _ in range(2))
    assert first.tobytes() == again.tobytes()
    assert (first[:, :250] != first[:, 250:]).mean() > 0.5


def test_the_g_test_finds_a_bias():
    """The G-test finds a token with three fifths of its share, and one that is never drawn."""
    probabilities = np.full(64, 1 / 64)
    fair = np.random.default_rng(1).multinomial(40_000, probabilities)
    assert g_test(fair, probabilities) > FAMILY_WISE
    for share in (0.6, 0.0):
        biased = fair.copy()
        biased[3] = int(share * biased[3])
        assert g_test(biased, probabilities) < FAMILY_WISE


@pytest.mark.parametrize(
    ("statistic", "degrees", "probability"),
    [
        (3.841458820694124, 1, 0.05),
        (6.634896601021213, 1, 0.01),
        (18.307038053275146, 10, 0.05),
        (124.34211340400407, 100, 0.05),
        (149.44925277903886, 100, 0.001),
        (0.0, 3, 1.0),
        (2.0, 2, math.exp(-1)),
        (200.0, 2, math.exp(-100)),
    ],
)
def test_chi_square_survival(statistic, degrees, probability):
    """The survival function has the published quantiles, and equals exp(-x / 2) for two degrees of freedom."""
    assert chi_square_survival(statistic, degrees) == pytest.approx(probability, rel=1e-9)
