"""Stages top_k to top_a, and the cut: they decide which tokens may be drawn.

Each stage works on the distribution renormalised over what the stages before it kept, and keeps at least the first of
that in the total order (under Rule.KEEP_TIES: with all tokens equal to it). In a profile whose temperature comes later,
the distribution is that of temperature 1.
"""

from __future__ import annotations

import math

import numpy as np

from decoding.reference.row import Array, Row
from decoding.reference.weights import CUT, entropy, mean_exponent, probabilities, relative, weights
from decoding.sampling.stages import Rule
from decoding.validation import to_float32


def apply_top_k(row: Row) -> None:
    """Keep the first k of the total order (Fan et al. 2018); ties at the k-th go to the lower ids.

    Under Rule.KEEP_TIES all ties stay (transformers' TopKLogitsWarper, vLLM).
    """
    k, order = row.params.top_k, kept_order(row)
    if k is not None and k < len(order):
        keep_first(row, k + (_num_tied(row, order, k - 1) if Rule.KEEP_TIES in row.profile.rules else 0))


def apply_top_p(row: Row) -> None:
    """Keep the shortest prefix of the total order with at least the share p of the mass (Holtzman et al. 2020).

    The token that crosses p stays; p = 0 keeps one token, p = 1 is off. Under Rule.TOP_P_EXCEEDS the mass must be above
    p (SGLang); under Rule.TOP_P_TIES every token that is equal to the last one stays (mlx-lm).
    """
    p, rules, order = to_float32(row.params.top_p), row.profile.rules, kept_order(row)
    if p < 1.0:
        mass = np.cumsum(weights(row.logits)[order])
        last = int(np.searchsorted(mass, p * mass[-1], side="right" if Rule.TOP_P_EXCEEDS in rules else "left"))
        keep_first(row, last + 1 + (_num_tied(row, order, last) if Rule.TOP_P_TIES in rules else 0))


def apply_min_p(row: Row) -> None:
    """Keep tokens with prob >= min_p * max prob, compared as l - max >= log(min_p) (Nguyen et al. 2024)."""
    min_p = to_float32(row.params.min_p)
    if min_p > 0.0:
        keep(row, relative(row.logits) >= math.log(min_p))


def apply_typical_p(row: Row) -> None:
    """Keep tokens whose surprise is nearest to the entropy, until their mass reaches p (Meister et al. 2023).

    The distance |-ln p - H| is |x - mean(x)| in exponents; equal ones follow the total order. p = 0 keeps one token,
    1 is off. Under Rule.TYPICAL_EXCEEDS the mass must be above p (llama.cpp); under Rule.KEEP_TIES every token as near
    as the last one stays (transformers' TypicalLogitsWarper).
    """
    p, rules = to_float32(row.params.typical_p), row.profile.rules
    if p == 1.0:
        return
    order = kept_order(row)
    distance = abs(relative(row.logits)[order] - mean_exponent(row.logits))
    nearest = np.argsort(distance, kind="stable")
    mass = np.cumsum(weights(row.logits)[order][nearest])
    last = int(np.searchsorted(mass, p * mass[-1], side="right" if Rule.TYPICAL_EXCEEDS in rules else "left"))
    near = np.arange(len(order)) <= last
    if Rule.KEEP_TIES in rules:
        near = distance[nearest] <= distance[nearest[last]]
    keep(row, np.isin(np.arange(len(row.logits)), order[nearest[near]]))


def apply_top_n_sigma(row: Row) -> None:
    """Keep tokens with exponents of at least max - n * sigma, sigma the standard deviation (Tang et al. 2024).

    Both are computed over all tokens that are not banned, including those that earlier stages dropped.
    """
    if row.params.top_n_sigma is not None:
        spread = to_float32(row.params.top_n_sigma) * float(np.std(row.whole[row.whole > -np.inf]))
        keep(row, row.whole >= -spread)


def apply_epsilon_cutoff(row: Row) -> None:
    """Keep tokens with p >= epsilon (Hewitt et al. 2022, "Truncation Sampling as Language Model Desmoothing")."""
    epsilon = to_float32(row.params.epsilon_cutoff)
    if epsilon > 0.0:
        keep(row, probabilities(row.logits) >= epsilon)


def apply_eta_cutoff(row: Row) -> None:
    """Keep tokens with p >= min(eta, sqrt(eta) * exp(-entropy)) (Hewitt et al. 2022; transformers' EtaLogitsWarper)."""
    eta = to_float32(row.params.eta_cutoff)
    if eta > 0.0:
        keep(row, probabilities(row.logits) >= min(eta, math.sqrt(eta) * math.exp(-entropy(row.logits))))


def apply_top_a(row: Row) -> None:
    """Keep tokens with p >= a * (largest p)**2 (BlinkDL 2022, RWKV-LM; text-generation-webui)."""
    a = to_float32(row.params.top_a)
    if a > 0.0:
        p = probabilities(row.logits)
        keep(row, p >= a * p.max() ** 2)


def apply_cut(row: Row) -> None:
    """Drop weights below 2**-40 of the largest kept: zero by definition, the only rounding that drops tokens."""
    keep(row, relative(row.logits) >= CUT)
    row.before_reshaping = row.logits


def keep_first(row: Row, num_tokens: int) -> None:
    """Keep the first `num_tokens` of the kept tokens, in the total order."""
    row.logits = row.logits.copy()
    row.logits[kept_order(row)[num_tokens:]] = -np.inf


def keep(row: Row, wanted: Array) -> None:
    """Keep the tokens of `wanted`, bool [vocab]; if none would be left, the first of the total order."""
    if not (wanted & row.kept).any():
        order = kept_order(row)
        ties = _num_tied(row, order, 0) if Rule.KEEP_TIES in row.profile.rules else 0
        keep_first(row, 1 + ties)
    else:
        row.logits = np.where(wanted, row.logits, -np.inf)


def kept_order(row: Row) -> Array:
    """Return the ids of the kept tokens, in the total order."""
    return row.order[row.kept[row.order]]


def _num_tied(row: Row, order: Array, place: int) -> int:
    """Return the number of tokens after this index that are equal to the token there."""
    values = row.ranked[order]
    return int((values[place + 1 :] == values[place]).sum())
