"""Faults after a correct distribution: in the draw, in the random numbers, in the reports.

All random numbers have fixed seeds, so the result is the same in every run.
"""

import numpy as np
import pytest

from decoding import SamplingParams
from decoding.testing import (
    assert_distribution,
    assert_independent,
    assert_logprobs,
    assert_ranking,
    assert_sequences,
    sequence_distribution,
)

MILLION = 1_000_000


def uniforms(*shape):
    """Return uniform random numbers in [0, 1) of 53 bits."""
    return np.random.Generator(np.random.Philox(key=11)).random(shape)


def invert(p, u):
    """Return the correct draws: the first token whose cumulative probability exceeds u."""
    total = np.cumsum(p)
    return np.minimum(np.searchsorted(total, u * total[-1], side="right"), len(p) - 1)


def zipf(vocab_size):
    """Return a long-tailed distribution over shuffled ids."""
    p = 1 / np.random.default_rng(0).permutation(np.arange(1, vocab_size + 1))
    return p / p.sum()


def slivers(num_pairs):
    """Return pairs of probabilities: nearly all of the pair's share, and 2**-25 that ends on a multiple of 2**-24."""
    return np.tile([1 / num_pairs - 2.0**-25, 2.0**-25], num_pairs)


def biased(p, u):
    """Draw token 0 for half a percent of the mass."""
    return np.where(u < 0.005, 0, invert(p, (u - 0.005) / 0.995))


def one_too_early(p, u):
    """Return the token before the correct one, if there is one."""
    return np.maximum(invert(p, u) - 1, 0)


def last_lost(p, u):
    """Never return the last token."""
    return np.minimum(invert(p, u), len(p) - 2)


def float32_sum(p, u):
    """Draw from a cumulative sum in float32."""
    return np.minimum(np.searchsorted(np.cumsum(p.astype(np.float32)), u, side="right"), len(p) - 1)


def bits_24(p, u):
    """Draw with a uniform number of 24 bits."""
    return invert(p, np.floor(u * 2**24) / 2**24)


def bits_10(p, u):
    """Draw with a uniform number of 1,000 values."""
    return invert(p, np.floor(u * 1000) / 1000)


def modulo(p, u):
    """Draw with a 16-bit random number modulo 40,000."""
    return invert(p, np.floor(u * 2**16) % 40_000 / 40_000)


def rejection_gives_up(p, u):
    """Draw by rejection, and return the most likely token after one failed attempt."""
    place = np.minimum((u * len(p)).astype(int), len(p) - 1)
    return np.where((u * len(p)) % 1.0 < p[place] / p.max(), place, p.argmax())


def squared(p, u):
    """Draw from the distribution to the power of 1.02."""
    return invert(p**1.02, u)


DRAWS = {
    "biased by half a percent": (biased, zipf(1000), MILLION),
    "off by one in the search": (one_too_early, zipf(1000), 20_000),
    "last token lost": (last_lost, np.full(1000, 1e-3), 50_000),
    "float32 cumulative sum at a vocabulary of 150k": (float32_sum, np.full(150_000, 1 / 150_000), MILLION),
    "24-bit uniform": (bits_24, slivers(2**16), MILLION),
    "10-bit uniform": (bits_10, zipf(5000), MILLION),
    "modulo of a short word": (modulo, np.full(64, 1 / 64), 100_000),
    "rejection that gives up": (rejection_gives_up, zipf(100), 20_000),
    "sharpened by two percent": (squared, zipf(1000), MILLION),
}


@pytest.mark.parametrize("name", DRAWS)
def test_wrong_draws_are_caught(name):
    """Draws with a planted fault do not fit the distribution; correct draws from the same numbers do."""
    draw, p, num_draws = DRAWS[name]
    u = uniforms(num_draws)
    with pytest.raises(AssertionError, match=r"do not fit|probability 0"):
        assert_distribution(draw(p, u), p)
    assert_distribution(invert(p, u), p)


def test_a_dropped_token_is_caught_at_once():
    """A single draw of a token of probability 0 is found."""
    with pytest.raises(AssertionError, match=r"probability 0: 2 \(1 times\)"):
        assert_distribution([0, 1, 2, 0], [0.5, 0.5, 0.0])


def test_draws_of_different_distributions():
    """Draws from one distribution each fit these; draws from their neighbours' distributions do not."""
    p = np.stack([np.random.default_rng(i).dirichlet(np.ones(20)) for i in range(3000)])
    u = uniforms(3000)
    draws = np.array([int(invert(row, x)) for row, x in zip(p, u, strict=True)])
    assert_distribution(draws, p)
    with pytest.raises(AssertionError, match="do not fit"):
        assert_distribution(draws, np.roll(p, 1, axis=0))


FLAT = np.full(64, 1 / 64)


def reused(u):
    """Use the number of choice 2i for choice 2i + 1."""
    return np.repeat(u[:, ::2], 2, axis=1)


def one_number(u):
    """Use the first number of a row for all of the row."""
    return np.repeat(u[:, :1], u.shape[1], axis=1)


def mirrored(u):
    """Use 1 - u after each u (antithetic numbers)."""
    return np.where(np.arange(u.shape[1]) % 2, 1 - np.repeat(u[:, ::2], 2, axis=1), np.repeat(u[:, ::2], 2, axis=1))


def lehmer(u):
    """Return first outputs of a multiplicative generator for consecutive seeds."""
    seeds = np.arange(u.size).reshape(u.shape) + 12_345
    return seeds * 16_807 % (2**31 - 1) / (2**31 - 1)


def shifted(u):
    """Return the first number of a row plus a multiple of 0.01."""
    return (u[:, :1] + 0.01 * np.arange(u.shape[1])) % 1.0


def sometimes(u):
    """Use numbers twice in one row of ten."""
    return np.where(np.arange(len(u))[:, None] % 10 == 0, reused(u), u)


STREAMS = {
    "seed reused across choices": reused,
    "position left out of the counter": one_number,
    "antithetic choices": mirrored,
    "neighbouring seeds of a weak generator": lehmer,
    "a counter added to the number": shifted,
    "a batch of ten with one seed reused": sometimes,
}


@pytest.mark.parametrize("name", STREAMS)
def test_dependent_draws_are_caught(name):
    """Draws from dependent numbers are found; draws from independent numbers pass."""
    u = uniforms(2000, 8)
    with pytest.raises(AssertionError, match="not independent"):
        assert_independent(invert(FLAT, STREAMS[name](u)), FLAT)
    assert_independent(invert(FLAT, u), FLAT, lags=(1, 2, 3))


def test_dependence_further_apart_is_caught_at_its_lag():
    """A number that is used again four positions later is found at lag 4."""
    u = uniforms(3000, 8)
    u[:, 4:] = u[:, :4]
    with pytest.raises(AssertionError, match="lag 4"):
        assert_independent(invert(FLAT, u), FLAT, lags=(1, 2, 3, 4))


LOGITS = np.array([1.0, 0.2, -0.5, 2.0], np.float32)
PARAMS = SamplingParams(logit_bias={3: -2.0}, temperature=0.5, top_k=2)


def log_softmax(x):
    """Return the log-softmax in natural logarithms."""
    return x - np.log(np.exp(x).sum())


def as_report(logprobs):
    """Return {token id: log-probability} of the tokens that are not banned."""
    return {i: float(x) for i, x in enumerate(logprobs) if np.isfinite(x)}


@pytest.mark.parametrize(
    ("fault", "reported"),
    [
        ("after bias", log_softmax(LOGITS + np.array([0, 0, 0, -2.0]))),
        ("after temperature", log_softmax(LOGITS / 0.5)),
        ("base 2", log_softmax(LOGITS) / np.log(2)),
        ("probabilities", np.exp(log_softmax(LOGITS))),
    ],
)
def test_wrong_logprobs_are_caught(fault, reported):
    """Log-probabilities reported as raw but computed otherwise are found; correct ones pass in every mode."""
    with pytest.raises(AssertionError, match="raw logprob of token"):
        assert_logprobs(as_report(reported), LOGITS, PARAMS)
    edited = LOGITS + np.array([0, 0, 0, -2.0], np.float32)
    assert_logprobs(as_report(log_softmax(LOGITS)), LOGITS, PARAMS)
    assert_logprobs(as_report(log_softmax(edited)), LOGITS, PARAMS, mode="penalized")
    assert_logprobs(as_report(log_softmax(edited / 0.5)), LOGITS, PARAMS, mode="scaled")
    kept = np.array([edited[0], edited[1], -np.inf, -np.inf])
    with np.errstate(divide="ignore"):
        assert_logprobs(dict(enumerate(log_softmax(kept / 0.5).tolist())), LOGITS, PARAMS, mode="final")


# The second candidate is short and ends with a nearly certain EOS; the third has the largest sum.
CANDIDATES = [[-1.0, -1.0, -0.1], [-0.8, -0.01], [-0.72]]


@pytest.mark.parametrize(
    ("fault", "score"),
    [
        ("EOS left out of best_of", lambda logprobs: sum(logprobs[:-1]) / max(1, len(logprobs) - 1)),
        ("sum instead of mean", sum),
        ("lowest first", lambda logprobs: -sum(logprobs) / len(logprobs)),
    ],
)
def test_wrong_rankings_are_caught(fault, score):
    """A best_of order by another score is found; the correct order and its beginning pass."""
    order = sorted(range(3), key=lambda i: -score(CANDIDATES[i]))
    with pytest.raises(AssertionError, match="must return"):
        assert_ranking(CANDIDATES, order)
    assert_ranking(CANDIDATES, [1, 0, 2])
    assert_ranking(CANDIDATES, [1])
    assert_ranking([[-1.0], [-1.0]], [0])


def bigram(token_ids):
    """Return the logits of a small model, which depend on the last token; token 3 ends a sequence."""
    return np.random.default_rng(token_ids[-1]).normal(0, 1, 4).astype(np.float32)


def sample(num_samples, *, stale=False, through_eos=False):
    """Return sequences of up to three tokens. With `stale`, logits lag by one token."""
    samples = []
    for u in uniforms(num_samples, 3):
        ids = [0]
        for x in u:
            last = ids[:-1] if stale and len(ids) > 1 else ids
            p = np.exp(bigram(last))
            ids.append(int(invert(p, x)))
            if ids[-1] == 3 and not through_eos:
                break
        samples.append(tuple(ids[1:]))
    return samples


def test_sequences_fit_the_model():
    """Sampled sequences fit the enumeration; those of a cache that lags by one token or that pass EOS do not."""
    exact = sequence_distribution(bigram, [0], SamplingParams(), num_tokens=3, eos_token_ids=[3])
    assert sum(exact.values()) == pytest.approx(1)
    assert len(exact) == 1 + 3 + 3 * 3 * 4
    assert_sequences(sample(3000), exact)
    with pytest.raises(AssertionError, match="do not fit"):
        assert_sequences(sample(3000, stale=True), exact)
    with pytest.raises(AssertionError, match="cannot occur"):
        assert_sequences(sample(100, through_eos=True), exact)
