"""Draws that tell nothing of each other: across positions, choices, streams, seeds."""

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
    """Raise AssertionError where a draw tells something of the draw `lag` places further along its row.

    What the places of a row are is yours: positions of a sequence, choices of a request, neighbouring seeds, streams.
    The flatter the distribution, the more is seen: a token that is nearly certain tells nothing of the random number
    behind it.

    Args:
        draws: token ids [rows, length], all drawn from `probabilities`.
        probabilities: [vocab].
        lags: distances, each at least 1 and below `length`.
        alpha: probability that a right sampler fails.
    """
    p_values = independence_p_values(draws, probabilities, lags=lags)
    fallen = holm(p_values, alpha)
    if fallen:
        found = ", ".join(f"{name} (p = {p_values[name]:.2g})" for name in fallen)
        raise AssertionError(f"draws are not independent, at a family-wise error rate of {alpha:g}: {found}")


def independence_p_values(draws: Any, probabilities: Any, *, lags: Sequence[int] = (1,)) -> dict[str, float]:
    """p-values, by the test's name, that draws `lag` places apart are independent; as `assert_independent` takes them.

    For each lag, of disjoint pairs of randomised PIT values: a G-test on the square; and whether their sum, modulo 1,
    and their difference are spread evenly, which a number used again, or mirrored, is not.
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
    """Pairs (i, i + lag) along the rows, no place in two of them, so that the pairs are independent."""
    length = values.shape[1]
    if not 1 <= lag < length:
        raise ParameterError.single("lags", lag, f"must be from 1 to the length of a row less 1 ({length - 1})")
    starts = np.flatnonzero(np.arange(length - lag) % (2 * lag) < lag)
    return values[:, starts].ravel(), values[:, starts + lag].ravel()


def _square_test(first: Array, second: Array) -> float:
    bins = int(min(MAX_BINS, math.isqrt(int(len(first) / MIN_EXPECTED))))
    if bins < 2:
        raise ParameterError.single("draws", len(first), "must make at least 80 pairs")
    cells = bin_of(first, bins) * bins + bin_of(second, bins)
    return independence_test(np.bincount(cells, minlength=bins * bins).reshape(bins, bins))
