"""Stages 8 to 12: temperature and truncation, in float64.

After temperature `row.logits` holds the exponents of the weights: weight = exp(logit), 1 for the best token.
Every truncation keeps a prefix of `row.order`, the total order of the stage-7 logits; being taken before
temperature, that order has no ties that rounding made. A greedy row is a point from temperature on, so that
the stages after it have nothing to drop.
"""

from __future__ import annotations

import math

import numpy as np

from decoding.params import to_float32
from decoding.reference.logits import Array, Row, total_order
from decoding.stages import CUT_LOG2, GREEDY_TEMPERATURE

CUT = CUT_LOG2 * math.log(2.0)
"""Exponent below which a weight is zero by definition: no token with less is kept or has mass."""


def apply_temperature(row: Row) -> None:
    """(l - max) / T; below GREEDY_TEMPERATURE its limit, a point on the first of the total order."""
    row.order = total_order(row.logits)
    logits = row.logits.astype(np.float64)
    temperature = to_float32(row.params.temperature)
    if temperature < GREEDY_TEMPERATURE:
        row.logits = np.full_like(logits, -np.inf)
        row.logits[row.order[0]] = 0.0
    else:
        row.logits = (logits - logits.max()) / temperature


def apply_top_k(row: Row) -> None:
    """The k first of the total order, exactly (Fan et al. 2018): ties at the k-th go to the lower ids."""
    if row.params.top_k is not None:
        _keep_first(row, row.params.top_k)


def apply_top_p(row: Row) -> None:
    """The shortest prefix of the total order whose mass is at least p of what is left (Holtzman et al. 2020).

    The token that crosses p stays; p = 0 keeps one token, p = 1 is off.
    """
    p = to_float32(row.params.top_p)
    if p < 1.0:
        mass = np.cumsum(weights(row.logits)[row.order])
        _keep_first(row, int(np.searchsorted(mass, p * mass[-1])) + 1)


def apply_min_p(row: Row) -> None:
    """Tokens with prob >= min_p * max prob, compared as (l - max) / T >= log(min_p) (Nguyen et al. 2024)."""
    min_p = to_float32(row.params.min_p)
    if min_p > 0.0:
        row.logits = np.where(row.logits >= math.log(min_p), row.logits, -np.inf)


def apply_cut(row: Row) -> None:
    """Weights below 2**-40 of the largest are zero by definition: the only rounding that can drop a token."""
    row.logits = np.where(row.logits >= CUT, row.logits, -np.inf)


def weights(exponents: Array) -> Array:
    """exp, and zero below the cut: the unnormalised probabilities that mass is made of, float64 [vocab]."""
    return np.where(exponents >= CUT, np.exp(exponents), 0.0)


def _keep_first(row: Row, num_tokens: int) -> None:
    row.logits = row.logits.copy()
    row.logits[row.order[num_tokens:]] = -np.inf
