"""Compare draws with the distribution that they should come from."""

from __future__ import annotations

from typing import Any

import numpy as np

from decoding.errors import ParameterError
from decoding.testing.statistics import (
    Array,
    bins_test,
    g_test,
    holm,
    largest_deviation_test,
    randomised_pit,
    uniformity_test,
)

ALPHA = 1e-6
"""Probability that a correct sampler fails an assertion: once in a million runs."""


def assert_distribution(draws: Any, probabilities: Any, *, alpha: float = ALPHA) -> None:
    """Raise AssertionError unless `draws` can be draws from `probabilities`.

    A token of probability 0 must not occur at all. The rest is decided by the tests of `distribution_p_values`
    with one family-wise error rate (Holm). The verdict is a function of the draws: with a seeded sampler it is the same
    every time, and without seeds a correct sampler fails once in 1 / alpha runs.

    Its power grows with the number of draws n. It detects a wrong share of the mass of about 6 / sqrt(n), 0.5 % with a
    million draws, and tokens that are never drawn although about 30 draws of them are expected.

    Args:
        draws: token ids [n].
        probabilities: [vocab], or [n, vocab] if each draw has a distribution of its own; they need not sum to 1.
        alpha: probability that a correct sampler fails.
    """
    ids, distribution = checked_draws(draws, probabilities)
    chances = distribution[ids] if distribution.ndim == 1 else distribution[np.arange(len(ids)), ids]
    if not chances.all():
        wrong, times = np.unique(ids[chances == 0], return_counts=True)
        shown = ", ".join(f"{i} ({n} times)" for i, n in zip(wrong[:8].tolist(), times[:8].tolist(), strict=True))
        raise AssertionError(f"draws tokens of probability 0: {shown}")
    p_values = distribution_p_values(ids, distribution)
    fallen = holm(p_values, alpha)
    if fallen:
        found = ", ".join(f"{name} (p = {p_values[name]:.2g})" for name in fallen)
        message = f"{len(ids)} draws do not fit the distribution, at a family-wise error rate of {alpha:g}: {found}"
        raise AssertionError(message + _most_different(ids, distribution))


def distribution_p_values(draws: Any, probabilities: Any) -> dict[str, float]:
    """Return the p-values, by test, that `draws` come from `probabilities`, the arguments of `assert_distribution`.

    The tests are a G-test over tokens, rare ones pooled, and the largest deviation among them (neither if every draw
    has a distribution of its own); and on the randomised PIT values, which are uniform for a correct sampler, a
    Kolmogorov-Smirnov and a G-test, once with the tokens in order of id (which shows a search that ends beside its
    target) and once in order of probability (which shows a distribution too flat or too sharp).
    """
    ids, distribution = checked_draws(draws, probabilities)
    p_values = {}
    if distribution.ndim == 1:
        counts = np.bincount(ids, minlength=len(distribution))
        p_values["G-test over tokens"] = g_test(counts, distribution)
        p_values["largest deviation of a token"] = largest_deviation_test(counts, distribution)
    orders = {"id": None, "probability": np.argsort(-distribution, axis=-1, kind="stable")}
    for name, order in orders.items():
        values = randomised_pit(ids, distribution, order)
        p_values[f"Kolmogorov-Smirnov in order of {name}"] = uniformity_test(values)
        p_values[f"G-test in order of {name}"] = bins_test(values)
    return p_values


def checked_draws(draws: Any, probabilities: Any) -> tuple[Array, Array]:
    """Return draws as int64 and probabilities as float64; ParameterError if they are invalid or of different sizes."""
    ids, distribution = np.asarray(draws), np.asarray(probabilities, dtype=np.float64)
    if ids.ndim != 1 or len(ids) == 0 or not np.issubdtype(ids.dtype, np.integer):
        raise ParameterError.single("draws", draws, "must be token ids, integers [n], at least one")
    if distribution.ndim not in (1, 2) or (distribution.ndim == 2 and len(distribution) != len(ids)):
        raise ParameterError.single("probabilities", probabilities, "must be [vocab], or [n, vocab] for n draws")
    if not np.isfinite(distribution).all() or (distribution < 0).any() or not distribution.sum(axis=-1).all():
        raise ParameterError.single("probabilities", probabilities, "must be finite, >= 0, and not all 0")
    if ids.min() < 0 or ids.max() >= distribution.shape[-1]:
        wrong = int(ids.min() if ids.min() < 0 else ids.max())
        raise AssertionError(f"draws token {wrong}, which is not in the vocabulary of {distribution.shape[-1]}")
    return ids.astype(np.int64), distribution


def _most_different(ids: Array, distribution: Array) -> str:
    """Return a text about the tokens whose counts deviate most from the expected ones, in standard deviations."""
    expected = distribution / distribution.sum(axis=-1, keepdims=True)
    expected = expected * len(ids) if expected.ndim == 1 else expected.sum(axis=0)
    counts = np.bincount(ids, minlength=len(expected))
    off = np.argsort(-abs(counts - expected) / np.sqrt(np.maximum(expected, 1.0)), kind="stable")[:4]
    return "; furthest off: " + ", ".join(f"token {i} {counts[i]} times, expected {expected[i]:.1f}" for i in off)
