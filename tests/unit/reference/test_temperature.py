"""The stage temperature by hand: quadratic smoothing, static and dynamic temperature."""

import math

import numpy as np
import pytest

from decoding.params import SamplingParams
from decoding.reference import Row, logprobs, sample_row
from decoding.reference.temperature import normalised_entropy, smoothed, temperature_at
from decoding.reference.weights import entropy
from decoding.sampling.stages import PROFILES
from decoding.validation import to_float32


def run(logits, profile="openai", **params):
    """Run one row through the whole pipeline."""
    row = Row(logits=np.array(logits, np.float32), params=SamplingParams(**params), seed=0, profile=PROFILES[profile])
    return sample_row(row)


@pytest.mark.parametrize(
    ("factor", "curve", "expected"),
    [
        (0.0, 1, [0, -1, -2, -3]),
        (0.5, 1, [0, -0.5, -2, -4.5]),  # -f d**2
        (0.5, 3, [0, -0.5, -4, -13.5]),  # f d**3
        (1.0, 2, [0, -1, -6, -18]),  # the mean of both
    ],
)
def test_smoothing(factor, curve, expected):
    """Smoothing of the differences d = 0, -1, -2, -3 is d**2 * (s*f*d - k*f)."""
    row = run([5, 4, 3, 2], smoothing_factor=factor, smoothing_curve=curve)
    assert row.stage_rows["temperature"].tolist() == expected


@pytest.mark.parametrize("curve", np.linspace(1, 3, 9).tolist())
def test_smoothing_keeps_the_order(curve):
    """A smaller logit stays smaller and a banned token stays banned, for every curve."""
    logits = np.append(-np.geomspace(1e-3, 1e3, 200), -np.inf).astype(np.float32)
    shaped = smoothed(SamplingParams(smoothing_factor=0.3, smoothing_curve=curve), logits)
    assert (np.diff(shaped) < 0).all()
    assert shaped[-1] == -np.inf
    assert shaped.dtype == np.float32


def test_smoothing_makes_ties():
    """Smoothed logits that round to the same float32 are ordered by token id."""
    logits = [30, 1e-3, 1.0001e-3]
    assert run(logits, smoothing_factor=1e-3).order.tolist() == [0, 1, 2]
    assert run(logits).order.tolist() == [0, 2, 1]


def test_smoothing_drops_overflowing_tokens():
    """A token whose smoothed logit overflows float32 is dropped."""
    assert np.isfinite(run([1e19, 0], smoothing_factor=1).whole).tolist() == [True, True]
    assert np.isfinite(run([2e19, 0], smoothing_factor=1e-9).whole).tolist() == [True, False]
    assert np.isfinite(run([1e19, 0], smoothing_factor=4).whole).tolist() == [True, False]


def test_smoothing_comes_before_temperature():
    """The temperature divides the smoothed logit: -0.5 * 2**2 / 4, not -0.5 * (2 / 4)**2."""
    assert run([0, -2], smoothing_factor=0.5, temperature=4).whole.tolist() == [0, -0.5]


def test_the_temperature_follows_the_entropy():
    """The temperature rises from T - R to T + R with entropy ratio**exponent, and is never negative."""
    params = SamplingParams(temperature=1.5, dynatemp_range=0.5, dynatemp_exponent=2)
    assert [temperature_at(params, ratio) for ratio in (0.0, 0.5, 1.0)] == [1.0, 1.25, 2.0]
    wide = SamplingParams(temperature=0.5, dynatemp_range=2)
    assert [temperature_at(wide, ratio) for ratio in (0.0, 1.0)] == [0.0, 2.5]


def test_entropy_ignores_banned_tokens():
    """The entropy ratio is 1 for equal logits and 0 for one token, and ignores banned tokens."""
    assert normalised_entropy(np.array([1.0, 1.0, -np.inf])) == pytest.approx(1.0, abs=1e-15)
    assert normalised_entropy(np.array([3.0, -np.inf])) == 0.0
    half = np.log([0.5, 0.25, 0.125, 0.125])
    assert entropy(half) == pytest.approx(1.75 * math.log(2))
    assert normalised_entropy(half) == pytest.approx(1.75 / 2)


def test_dynamic_temperature_of_a_row():
    """An entropy ratio of 7/8 between 0.5 and 1.5 gives the temperature 1.375."""
    row = run(np.log([0.5, 0.25, 0.125, 0.125]), dynatemp_range=0.5)
    assert row.temperature == pytest.approx(1.375, rel=1e-7)
    np.testing.assert_allclose(row.whole, np.log([1, 0.5, 0.25, 0.25]) / row.temperature, rtol=1e-6)


def test_greedy_with_a_dynamic_temperature():
    """Temperature 0 with a range is greedy only for a row without entropy."""
    assert run([0, 0, 0], temperature=0, dynatemp_range=1).temperature == pytest.approx(1.0)
    row = run([9, -np.inf], temperature=0, dynatemp_range=1)
    assert (row.temperature, row.probabilities.tolist()) == (0.0, [1.0, 0.0])


def test_temperature_after_truncation():
    """In llama.cpp's order the entropy is that of the tokens left by truncation."""
    logits = np.log([0.3, 0.3, 0.2, 0.1, 0.1])
    row = run(logits, "llama_cpp", top_k=2, temperature=1, dynatemp_range=0.5)
    assert row.temperature == pytest.approx(1.5)
    assert run(logits, top_k=2, temperature=1, dynatemp_range=0.5).temperature < 1.5


def test_scaled_log_probabilities_cover_the_whole_row():
    """Scaled log-probabilities cover the whole row, even if the temperature follows truncation."""
    row = run(np.log([0.4, 0.3, 0.2, 0.1]), "llama_cpp", top_k=1, temperature=2)
    exact = np.sqrt([0.4, 0.3, 0.2, 0.1]) / np.sqrt([0.4, 0.3, 0.2, 0.1]).sum()
    np.testing.assert_allclose(np.exp(logprobs(row, "scaled")), exact, rtol=1e-6)
    assert np.exp(logprobs(row, "final")).tolist() == [1, 0, 0, 0]


def test_greedy_after_truncation():
    """In llama.cpp's order a greedy draw takes the most likely token left by truncation."""
    p = [0.6, 0.2, 0.1, 0.1]
    assert run(np.log(p), temperature=0, typical_p=0.1).token_id == 0
    typical = run(np.log(p), "llama_cpp", temperature=0, typical_p=0.1)
    assert typical.token_id == 1
    assert logprobs(typical, "scaled").tolist() == [0, -np.inf, -np.inf, -np.inf]
    assert logprobs(typical, "final").tolist() == [-np.inf, 0, -np.inf, -np.inf]


def test_parameters_are_rounded_to_float32():
    """The temperature is rounded to float32."""
    assert run([0, -1], temperature=0.7).temperature == to_float32(0.7)
