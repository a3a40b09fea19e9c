"""Tests of goodness of fit and of independence.

Each returns a p-value: the probability of data at least as extreme, if the hypothesis holds. Chi-square is scipy's (the
extra `testing`). Bounds that hold for every n, and pooling, are here, because scipy does not have them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

MIN_EXPECTED = 20.0
"""Minimum expected draws per cell of a G-test. With Williams' correction the statistic is then chi-square to 0.1 %."""

MAX_BINS = 1024

_KEY = 20_240_517


def g_test(counts: Array, probabilities: Array) -> float:
    """Return the p-value of the G-test (Sokal and Rohlf, "Biometry") that counts [cells] fit probabilities.

    Cells are pooled from the least likely up until each expects MIN_EXPECTED draws. The likelihood ratio is used,
    not Pearson's X^2, because its far tail is accurate, and this p-value is compared with very small numbers.
    """
    observed, expected = _pooled(counts, probabilities / probabilities.sum() * counts.sum())
    if len(expected) < 2:
        return 1.0
    seen = observed > 0
    g = 2 * float((observed[seen] * np.log(observed[seen] / expected[seen])).sum())
    degrees = len(expected) - 1
    williams = 1 + (float((1 / expected).sum()) - 1 / expected.sum()) / (6 * degrees)  # the mean of G / degrees
    return chi_square_survival(g / williams, degrees)


def largest_deviation_test(counts: Array, probabilities: Array) -> float:
    """Return an upper bound of the p-value of the most deviating of counts [cells] that should fit probabilities.

    For each cell, pooled as in `g_test`, Chernoff's bound of the binomial tail, exp(-n * KL(count / n, p)); times two
    tails and the number of cells. It finds one wrong token among thousands, which the sum of a G-test hides.
    """
    n = counts.sum()
    observed, expected = _pooled(counts, probabilities / probabilities.sum() * n)
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = np.where(observed > 0, observed * np.log(observed / expected), 0.0)
        outside = np.where(observed < n, (n - observed) * np.log((n - observed) / (n - expected)), 0.0)
    return min(1.0, 2 * len(expected) * math.exp(-float((inside + outside).max())))


def independence_test(table: Array) -> float:
    """Return the p-value of the G-test that rows and columns of a table of counts [rows, columns] are independent."""
    total = table.sum()
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True) / total
    seen = table > 0
    g = 2 * float((table[seen] * np.log(table[seen] / expected[seen])).sum())
    rows, columns = ((table.sum(axis=axis) > 0).sum() for axis in (1, 0))
    degrees = int((rows - 1) * (columns - 1))
    return chi_square_survival(g, degrees) if degrees else 1.0


def uniformity_test(values: Array) -> float:
    """Return an upper bound of the p-value of the Kolmogorov-Smirnov test that values [n] are uniform in [0, 1).

    Massart's inequality (1990), 2 * exp(-2 * n * D^2): it holds for every n, and for small values it is exact to the
    first term of Kolmogorov's series.
    """
    n = len(values)
    ordered = np.sort(values)
    steps = np.arange(n + 1) / n
    distance = max(float((steps[1:] - ordered).max()), float((ordered - steps[:-1]).max()))
    return min(1.0, 2 * math.exp(-2 * n * distance**2))


def bins_test(values: Array) -> float:
    """Return the p-value of the G-test that values [n] are uniform in [0, 1), in up to 1024 bins of equal width."""
    num_bins = int(min(MAX_BINS, len(values) // MIN_EXPECTED))
    if num_bins < 2:
        return 1.0
    return g_test(binned(values, num_bins), np.full(num_bins, 1 / num_bins))


def binned(values: Array, num_bins: int) -> Array:
    """Count the values in [0, 1] in each of `num_bins` bins of equal width: int64 [num_bins]."""
    return np.bincount(bin_of(values, num_bins), minlength=num_bins)


def bin_of(values: Array, num_bins: int) -> Array:
    """Return the bin of each value in [0, 1]."""
    return np.minimum((values * num_bins).astype(np.int64), num_bins - 1)


def randomised_pit(draws: Array, probabilities: Array, order: Array | None = None) -> Array:
    """Map draws to numbers that are uniform in [0, 1] if the draws come from the distribution: float64 [n].

    The randomised probability integral transform (Smith 1985): F(x - 1) + V * p(x), with V uniform. V comes from a
    generator with a fixed key, so that the same draws give the same numbers.

    draws: token ids [n]. probabilities: [vocab], or [n, vocab] where each draw has a distribution of its own.
    order: the order of the tokens in which F is summed, of the same shape; None is by id.
    """
    shared = probabilities.ndim == 1
    if order is None:
        columns = draws
    else:
        probabilities = np.take_along_axis(probabilities, order, axis=-1)
        inverse = np.argsort(order, axis=-1)
        columns = inverse[draws] if shared else inverse[np.arange(len(draws)), draws]
    at = columns if shared else (np.arange(len(draws)), columns)
    within = np.random.Generator(np.random.Philox(key=_KEY)).random(len(draws))
    cumulative = np.cumsum(probabilities, axis=-1)
    total = cumulative[-1] if shared else cumulative[:, -1]
    return np.asarray((cumulative[at] - (1 - within) * probabilities[at]) / total)


def holm(p_values: Mapping[str, float], alpha: float) -> list[str]:
    """Return the hypotheses that are rejected at the family-wise error rate alpha (Holm 1979)."""
    rejected = []
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        if p_values[name] > alpha / (len(p_values) - rank):
            break
        rejected.append(name)
    return rejected


def chi_square_survival(statistic: float, degrees: int) -> float:
    """Return P(X >= statistic) for chi-square with `degrees` of freedom."""
    from scipy.stats import chi2  # here, because importing it takes longer than everything else in this package

    return float(chi2.sf(statistic, degrees))


def _pooled(counts: Array, expected: Array) -> tuple[Array, Array]:
    """Return observed and expected counts of pooled cells. Cells with enough expected draws are not pooled."""
    order = np.argsort(expected, kind="stable")
    counts, expected = counts[order].astype(np.float64), expected[order]
    num_small = int(np.searchsorted(expected, MIN_EXPECTED))
    cumulative = np.cumsum(expected[:num_small])
    starts, index = [], 0
    while index < num_small:
        starts.append(index)
        reached = (cumulative[index - 1] if index else 0.0) + MIN_EXPECTED
        index = int(np.searchsorted(cumulative, reached * (1 - 1e-12))) + 1
    if starts and index > num_small:  # the last pool is not full: add it to its larger neighbour
        joins_previous = num_small == len(expected) and len(starts) > 1
        starts = starts[:-1] if joins_previous else starts
        num_small += not joins_previous and num_small < len(expected)
    edges = [*starts, *range(num_small, len(expected))]
    return np.add.reduceat(counts, edges), np.add.reduceat(expected, edges)
