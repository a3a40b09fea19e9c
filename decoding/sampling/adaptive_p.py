"""Adaptive-p's state: the decaying average of the drawn tokens' probabilities, and the target that follows from it.

Plain float64 arithmetic in a fixed order, without libm, so that a sequence's targets are the same on every platform.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

from decoding.params import SamplingParams
from decoding.validation import to_float32

_LN2 = 0.6931471805599453
_NUM_TERMS = 20
"""Terms of the series of exp on [-ln 2, 0]; the next one is below 2**-70."""


class Average(NamedTuple):
    """The sum of the drawn probabilities, each weighted by the decay to the power of its age, and of the weights."""

    weighted_sum: float
    total_weight: float


def first_average(params: SamplingParams) -> Average:
    """Return the average before the first token: the target, as if earlier tokens had had that probability."""
    target, decay = _numbers(params)
    return Average(target, 1.0) if decay == 1.0 else Average(target / (1.0 - decay), 1.0 / (1.0 - decay))


def next_average(params: SamplingParams, average: Average, surprise: float) -> Average:
    """Return the average after a token of this surprise, -log2 of its probability before adaptive-p."""
    _, decay = _numbers(params)
    if decay == 1.0:  # the past weighs infinitely more than a token
        return average
    return Average(
        _power_of_half(surprise) + decay * average.weighted_sum,
        1.0 + decay * average.total_weight,
    )


def center_of(params: SamplingParams, average: Average) -> float:
    """Return the probability that the next token should be near: 2 * target - average, clipped to 0 and 1."""
    target, _ = _numbers(params)
    return min(1.0, max(0.0, 2.0 * target - average.weighted_sum / average.total_weight))


def _numbers(params: SamplingParams) -> tuple[float, float]:
    return to_float32(cast(float, params.adaptive_p_target)), to_float32(params.adaptive_p_decay)


def _power_of_half(exponent: float) -> float:
    """Return 2**-exponent for an exponent >= 0."""
    if exponent > 1000.0:
        return 0.0
    whole = math.floor(exponent)
    x = -(exponent - whole) * _LN2
    series = 1.0
    for k in range(_NUM_TERMS, 0, -1):
        series = 1.0 + x / k * series
    return math.ldexp(series, -whole)
