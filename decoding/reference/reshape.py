"""Stages adaptive_p and skew: they change the weights of the tokens that the cut kept, and drop none by a rule.

Weights of the result below 2**-40 of the largest are zero, as everywhere.
"""

from __future__ import annotations

import math

import numpy as np

from decoding.params import SamplingParams
from decoding.reference.row import Array, Row
from decoding.reference.weights import CUT, probabilities, relative, weights
from decoding.validation import to_float32

WIDTH, SHARPNESS = 0.3, 10.0
"""Constants of adaptive-p: the distance from the target at which the curve turns from a parabola into a line."""


def apply_adaptive_p(row: Row) -> None:
    """Replace exponents by those of `adapted`, largest for probabilities nearest to the target."""
    if row.params.adaptive_p_target is not None:
        row.logits = adapted(row, row.logits)


def apply_skew(row: Row) -> None:
    """Replace exponents by those of `skewed`, which moves the draw along the total order."""
    if to_float32(row.params.skew) != 0.0:
        row.logits = skewed(row, row.logits)


def reshaped(row: Row, exponents: Array) -> Array:
    """Return exponents [vocab] after the two stages, in the order of every profile."""
    if row.params.adaptive_p_target is not None:
        exponents = adapted(row, exponents)
    return skewed(row, exponents) if to_float32(row.params.skew) != 0.0 else exponents


def adapted(row: Row, exponents: Array) -> Array:
    """Return -10 * d**2 / (1 + d) with d = |p - center| / 0.3 (llama.cpp's adaptive-p sampler, pull request 17927).

    The center is 2 * target - average, within 0 and 1, and `average` is that of the drawn tokens' probabilities before
    this stage, with the decay as the weight of the past: see next_average.
    """
    center = first_center(row.params) if row.adaptive_p_center is None else row.adaptive_p_center
    distance = abs(probabilities(exponents) - center) / WIDTH
    return _cut(np.where(exponents > -np.inf, -SHARPNESS * distance**2 / (1.0 + distance), -np.inf))


def skewed(row: Row, exponents: Array) -> Array:
    """Return logarithms of F(i)**g - F(i - 1)**g with F cumulative along the total order, and g = exp(skew).

    It is the distribution of ExLlamaV2's draw: the inverse CDF, most likely token first, of u**exp(-skew). Computed as
    F(i - 1)**g * ((1 + p(i) / F(i - 1))**g - 1), which is free of cancellation.
    """
    return _cut(skew_logarithms(row, exponents))


def skew_logarithms(row: Row, exponents: Array) -> Array:
    """Return `skewed` before the cut, including the weights that the cut drops."""
    power = math.exp(to_float32(row.params.skew))
    order = row.order[exponents[row.order] > -np.inf]
    mass = weights(exponents)[order]
    before, total = np.cumsum(mass) - mass, mass.sum()
    logs = np.full(len(order), -np.inf)
    logs[0] = power * math.log(mass[0] / total)
    with np.errstate(divide="ignore"):
        steps = np.expm1(power * np.log1p(mass[1:] / before[1:]))
        logs[1:] = power * np.log(before[1:] / total) + np.log(steps)
    logarithms = np.full(len(exponents), -np.inf)
    logarithms[order] = logs
    return logarithms


def first_center(params: SamplingParams) -> float:
    """Return the center for the first token: the target itself."""
    return to_float32(params.adaptive_p_target or 0.0)


def next_average(params: SamplingParams, average: tuple[float, float], probability: float) -> tuple[float, float]:
    """Return weighted sum and total weight after a token: p + decay * sum, 1 + decay * total."""
    decay = to_float32(params.adaptive_p_decay)
    return probability + decay * average[0], 1.0 + decay * average[1]


def _cut(exponents: Array) -> Array:
    return np.where(relative(exponents) >= CUT, relative(exponents), -np.inf)
