"""Stage temperature: quadratic smoothing, then the temperature, static or dynamic.

From here on `row.logits` holds exponents: the weight of a token is exp(exponent), 1 for the best token of the whole
row. A greedy row is a point, so later stages have nothing to drop.
"""

from __future__ import annotations

import math

import numpy as np

from decoding.params import SamplingParams
from decoding.reference.row import Array, Row, total_order
from decoding.reference.weights import entropy
from decoding.sampling.stages import GREEDY_TEMPERATURE
from decoding.validation import to_float32


def apply_temperature(row: Row) -> None:
    """Divide exponents by T: in `row.whole` those of all tokens, in `row.logits` those of the kept ones."""
    kept = row.kept
    if to_float32(row.params.smoothing_factor) > 0.0 and not is_greedy(row.params):
        row.ranked = smoothed(row.params, row.ranked)
        row.order = total_order(row.ranked)
        row.whole = row.ranked.astype(np.float64)
    exponents = np.where(kept, row.whole, -np.inf)
    row.entropy_ratio = normalised_entropy(exponents)
    row.temperature = temperature_at(row.params, row.entropy_ratio)
    row.whole = tempered(row.whole, row.temperature, row.order)
    row.logits = tempered(exponents, row.temperature, row.order)


def is_greedy(params: SamplingParams) -> bool:
    """Return True if the temperature is static and almost 0, so that only the total order matters."""
    return to_float32(params.dynatemp_range) == 0.0 and to_float32(params.temperature) < GREEDY_TEMPERATURE


def smoothed(params: SamplingParams, logits: Array) -> Array:
    """Return d = l - max, smoothed: d**2 * (s*f*d - k*f), k = (3 - curve) / 2, s = (curve - 1) / 2; float32.

    kalomaze 2024 (text-generation-webui, pull requests 5403 and 5551). Monotone for a curve from 1 to 3, but rounding
    makes near values equal; so it is defined in float32, as the edits are: d, d * d, s*f*d - k*f (one fused
    multiply-add) and their product, each rounded once. Tokens whose value overflows are dropped.
    """
    f, curve = to_float32(params.smoothing_factor), to_float32(params.smoothing_curve)
    quadratic, cubic = np.float32(-f * (3.0 - curve) / 2.0), np.float32(f * (curve - 1.0) / 2.0)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        d = logits - logits.max()
        bracket = (np.float64(cubic) * d + np.float64(quadratic)).astype(np.float32)
        return np.where(d > -np.inf, (d * d) * bracket, np.float32(-np.inf))


def temperature_at(params: SamplingParams, ratio: float) -> float:
    """Return the temperature, given the ratio of the entropy to its maximum, 0 to 1.

    Without a range it is static. With a range (llama.cpp's llama_sampler_temp_ext, after kalomaze 2023):
    Tmin + (Tmax - Tmin) * ratio**exponent between Tmin = max(0, T - range) and Tmax = T + range.
    """
    static, spread = to_float32(params.temperature), to_float32(params.dynatemp_range)
    if spread == 0.0:
        return static
    low, high = max(0.0, static - spread), static + spread
    return low + (high - low) * math.pow(ratio, to_float32(params.dynatemp_exponent))


def normalised_entropy(exponents: Array) -> float:
    """Return entropy / ln(number of tokens that are not dropped); 0 for a single token."""
    num_tokens = int((exponents > -np.inf).sum())
    return 0.0 if num_tokens == 1 else min(1.0, entropy(exponents) / math.log(num_tokens))


def tempered(exponents: Array, temperature: float, order: Array) -> Array:
    """Return exponents / T; below GREEDY_TEMPERATURE the limit, a point on the first kept token of the order."""
    if temperature >= GREEDY_TEMPERATURE:
        return exponents / temperature
    point = np.full_like(exponents, -np.inf)
    point[order[exponents[order] > -np.inf][0]] = 0.0
    return point
