"""Weights of the tokens that are kept, and the quantities that truncation and draw derive from them."""

from __future__ import annotations

import math

import numpy as np

from decoding.reference.row import Array
from decoding.sampling.stages import CUT_LOG2

CUT = CUT_LOG2 * math.log(2.0)
"""Exponent, relative to the largest kept, below which a weight is zero by definition."""


def relative(exponents: Array) -> Array:
    """Return exponents minus their maximum, float64; dropped tokens stay -inf."""
    return np.asarray(np.subtract(exponents, exponents.max(), dtype=np.float64))


def weights(exponents: Array) -> Array:
    """Return exp(x), the unnormalised probabilities: 1 for the largest, and 0 below the cut."""
    x = relative(exponents)
    return np.where(x >= CUT, np.exp(x), 0.0)


def probabilities(exponents: Array) -> Array:
    """Return exp(x) over the sum of the weights, also for tokens below the cut, to compare with thresholds."""
    return np.asarray(np.exp(relative(exponents)) / weights(exponents).sum())


def mean_exponent(exponents: Array) -> float:
    """Return the mean of the relative exponents under their own distribution, sum(w * x) / sum(w) <= 0."""
    mass, x = weights(exponents), relative(exponents)
    return float(np.dot(mass, np.where(mass > 0.0, x, 0.0)) / mass.sum())


def entropy(exponents: Array) -> float:
    """Return -sum(p * ln p), in nats, as ln(sum(w)) - sum(w * x) / sum(w), both terms >= 0."""
    return math.log(weights(exponents).sum()) - mean_exponent(exponents)
