"""Test that draws are independent across positions, choices, streams or seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from decoding.errors import ParameterError
from decoding.testing.assertions.distribution import ALPHA, checked_draws
from decoding.testing.statistics import (
    MIN_EXPECTED,
    Array,
    bin_of,
    bins_test,
    holm,
    independence_test,
    randomised_pit,
    uniformity_test,
)

MAX_BINS = 16


def assert_independent(draws: Any, probabilities: Any, *, lags: Sequence[int] = (1,), alpha: float = ALPHA) -> None:
    """Raise AssertionError if draws at a distance of `lag` in a row are not independent.

    A row may have the positions of a sequence, the choices of a request, or draws of neighbouring seeds or streams.
    The flatter the distribution, the higher the power: a token that is nearly certain has no information about the
    random number behind it.

    Args:
        draws: token ids [rows, length], all drawn from `probabilities`.
        probabilities: [vocab].
        lags: distances, each at least 1 and below `length`.
        alpha: probability that a correct sampler fails.
    """
    p_values = independence_p_values(draws, probabilities, lags=lags)
    fallen = holm(p_values, alpha)
    if fallen:
        found = ", ".join(f"{name} (p = {p_values[name]:.2g})" for name in fallen)
        raise AssertionError(f"draws are not independent, at a family-wise error rate of {alpha:g}: {found}")


def independence_p_values(draws: Any, probabilities: Any, *, lags: Sequence[int] = (1,)) -> dict[str, float]:
    """Return the p-values, by test, that draws at each distance are independent; see `assert_independent`.

    Disjoint pairs of randomised PIT values at each lag have a G-test on the square, and tests that their sum, modulo
    1, and their difference are uniform, which fails if a random number is reused or mirrored.
    """
    table = np.asarray(draws)
    if table.ndim != 2:
        raise ParameterError.single("draws", draws, "must be token ids [rows, length]")
    ids, distribution = checked_draws(table.ravel(), probabilities)
    if distribution.ndim != 1:
        raise ParameterError.single("probabilities", probabilities, "must be [vocab], one distribution for all draws")
    values = randomised_pit(ids, distribution).reshape(table.shape)
    p_values = {}
    for lag in lags:
        first, second = _pairs(values, lag)
        p_values[f"G-test of pairs, lag {lag}"] = _square_test(first, second)
        p_values[f"G-test of sums, lag {lag}"] = bins_test((first + second) % 1.0)
        p_values[f"G-test of differences, lag {lag}"] = bins_test((first - second) % 1.0)
        p_values[f"Kolmogorov-Smirnov of differences, lag {lag}"] = uniformity_test((first - second) % 1.0)
    return p_values


def _pairs(values: Array, lag: int) -> tuple[Array, Array]:
    """Return pairs (i, i + lag) along the rows; no index is in two pairs, so that the pairs are independent."""
    length = values.shape[1]
    if not 1 <= lag < length:
        raise ParameterError.single("lags", lag, f"must be from 1 to the length of a row minus 1 ({length - 1})")
    starts = np.flatnonzero(np.arange(length - lag) % (2 * lag) < lag)
    return values[:, starts].ravel(), values[:, starts + lag].ravel()


def _square_test(first: Array, second: Array) -> float:
    bins = int(min(MAX_BINS, math.isqrt(int(len(first) / MIN_EXPECTED))))
    if bins < 2:
        raise ParameterError.single("draws", len(first), "must give at least 80 pairs")
    cells = bin_of(first, bins) * bins + bin_of(second, bins)
    return independence_test(np.bincount(cells, minlength=bins * bins).reshape(bins, bins))
