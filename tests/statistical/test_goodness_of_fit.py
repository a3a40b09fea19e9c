"""Draws follow the distribution that was asked for. Seeds are fixed: these tests pass or fail, they do not flicker.

Each p-value is compared with 1e-3; seeds were chosen once and never tuned.
"""

import math

import numpy as np
import pytest

from decoding import reference
from decoding.params import SamplingParams
from decoding.sampler import Sampler, SamplingState
from decoding.testing.statistics import chi_square_survival, g_test

NUM_ROWS, NUM_STEPS = 2000, 20
LEAST_P = 1e-3


def states_that_differ_in(what, num_states, **params):
    """States number 0, 1, 2, ... whose seed, choice or stream is their number, and nothing else differs."""
    if what == "seed":
        return [SamplingState(SamplingParams(seed=i, **params)) for i in range(num_states)]
    shared = SamplingParams(seed=42, **params)
    return [SamplingState(shared, **{what: i}) for i in range(num_states)]


def draw(logits, states, num_steps=1):
    """Tokens [num_steps, states] drawn from the same row of logits again and again."""
    sampler = Sampler(len(logits))
    rows = np.broadcast_to(logits, (len(states), len(logits)))  # row stride 0: one row in memory
    return np.stack([sampler.sample(rows, states).token_ids for _ in range(num_steps)])


def zipf(vocab_size):
    """Logits of a distribution with a long tail, its ids shuffled."""
    logits = -1.1 * np.log(np.arange(1, vocab_size + 1))
    return np.random.default_rng(0).permutation(logits).astype(np.float32)


CASES = {
    "plain": {},
    "hot": {"temperature": 1.7},
    "cold": {"temperature": 0.4},
    "top_k": {"top_k": 12},
    "top_p": {"top_p": 0.8},
    "min_p": {"min_p": 0.02},
    "all": {"temperature": 1.3, "top_k": 100, "top_p": 0.9, "min_p": 0.01},
    "bias": {"logit_bias": {0: 3.0, 5: 2.0}},
    "masks": {"banned_token_ids": [1, 2, 3], "allowed_token_ids": range(60)},
}


@pytest.mark.parametrize("case", CASES)
def test_draws_follow_the_reference_distribution(case):
    """After each filter, 40,000 draws fit the reference's distribution, and nothing that it drops is drawn."""
    logits, params = zipf(200), CASES[case]
    row = reference.Row(logits=logits, params=SamplingParams(**params), seed=0)
    expected = reference.sample_row(row).probabilities
    tokens = draw(logits, states_that_differ_in("seed", NUM_ROWS, **params), NUM_STEPS)
    counts = np.bincount(tokens.ravel(), minlength=200)
    assert counts[expected == 0].sum() == 0
    assert g_test(counts, expected) > LEAST_P


@pytest.mark.parametrize("what", ["seed", "choice", "stream"])
def test_neighbours_are_independent(what):
    """First draws under numbers i and i + 1, as pairs, fill the 8 x 8 square evenly."""
    tokens = draw(np.zeros(8, np.float32), states_that_differ_in(what, 10_000))[0]
    pairs = np.bincount(tokens[0::2] * 8 + tokens[1::2], minlength=64)
    assert g_test(pairs, np.full(64, 1 / 64)) > LEAST_P


def test_positions_are_independent():
    """Tokens at positions t and t + 1 of one sequence, as pairs, fill the 16 x 16 square evenly."""
    tokens = draw(np.zeros(16, np.float32), states_that_differ_in("seed", 500), 40)
    pairs = np.bincount((tokens[0::2] * 16 + tokens[1::2]).ravel(), minlength=256)
    assert g_test(pairs, np.full(256, 1 / 256)) > LEAST_P


def test_rare_tokens_are_drawn_as_often_as_they_should():
    """Each of 10,000 equal tokens has its share: the last hundred have 1 % of the draws, within four sigma."""
    tokens = draw(np.zeros(10_000, np.float32), states_that_differ_in("choice", NUM_ROWS), NUM_STEPS)
    expected = tokens.size / 100
    assert abs((tokens >= 9900).sum() - expected) < 4 * math.sqrt(expected)


def test_the_same_seed_draws_the_same_tokens():
    """Two runs of 500 sequences are equal; other seeds' differ in most places."""
    logits = zipf(200)
    first, again = (draw(logits, states_that_differ_in("seed", 500, temperature=2.0), 4) for _ in range(2))
    assert first.tobytes() == again.tobytes()
    assert (first[:, :250] != first[:, 250:]).mean() > 0.5


def test_the_g_test_finds_a_bias():
    """The test has power: a token with three fifths of its share, or one that is never drawn, is noticed."""
    probabilities = np.full(64, 1 / 64)
    fair = np.random.default_rng(1).multinomial(40_000, probabilities)
    assert g_test(fair, probabilities) > LEAST_P
    for share in (0.6, 0.0):
        biased = fair.copy()
        biased[3] = int(share * biased[3])
        assert g_test(biased, probabilities) < LEAST_P


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
    """Published quantiles, and two degrees of freedom, for which Q(x) = exp(-x / 2)."""
    assert chi_square_survival(statistic, degrees) == pytest.approx(probability, rel=1e-9)
