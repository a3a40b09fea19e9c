"""Stages top_h, p_less, min_k and tfs: truncations whose threshold follows from the shape of the distribution itself.

As in decoding.reference.truncation, each works on the distribution renormalised over what the stages before it kept.
"""

from __future__ import annotations

import math

import numpy as np

from decoding.reference.row import Array, Row
from decoding.reference.truncation import keep, keep_first, kept_order
from decoding.reference.weights import entropy, probabilities, relative, weights
from decoding.validation import to_float32


def apply_top_h(row: Row) -> None:
    """Keep the longest prefix of the total order whose own entropy, renormalised, is at most top_h * H.

    Potraghloo et al. 2025, "Top-H Decoding", algorithm 1: H is the entropy of all tokens kept so far. The entropy of a
    prefix grows with every token, so the search may stop at the first that exceeds the bound. One token has entropy 0.
    """
    share = to_float32(row.params.top_h)
    if share < 1.0:
        keep_first(row, max(1, int((_prefix_entropies(row) <= share * entropy(row.logits)).sum())))


def apply_p_less(row: Row) -> None:
    """Keep tokens with p >= sum(p**2), the probability that two draws are equal (Tan et al. 2025, "p-less sampling").

    In the rule "norm" the threshold is (n * sum(p**2) - 1) / (n - 1), n the number of tokens that are kept so far:
    0 for a flat distribution, 1 for a point.
    """
    if row.params.p_less is None or not (row.kept.sum() > 1):
        return
    p, num_tokens = probabilities(row.logits), int(row.kept.sum())
    collision = float((weights(row.logits) ** 2).sum() / weights(row.logits).sum() ** 2)
    threshold = collision if row.params.p_less == "plain" else (num_tokens * collision - 1.0) / (num_tokens - 1.0)
    keep(row, p >= threshold * row.p_less_factor)


def apply_min_k(row: Row) -> None:
    """Keep the first k of the total order, k = max(k_cliff, k_fallback); logits are those before the temperature.

    Ding et al. 2026, "Min-k Sampling" (ACL): of the kept logits l, descending, k_cliff is the first i from 1 with the
    largest (l[i] - l[i + 1]) / i, and k_fallback = floor(min_k / R) with R = l[1] - l[n]. If R is 0, all are kept.
    """
    if row.params.min_k is None:
        return
    logits = row.ranked[kept_order(row)].astype(np.float64)
    spread = logits[0] - logits[-1]
    if spread == 0.0:
        return
    falls = (logits[:-1] - logits[1:]) / np.arange(1, len(logits))
    fallback = to_float32(row.params.min_k) / spread
    keep_first(row, max(int(falls.argmax()) + 1, len(logits) if fallback >= len(logits) else int(fallback)))


def apply_tfs(row: Row) -> None:
    """Keep the tokens up to the one where the curvature of the sorted probabilities reaches its share z.

    Bricken 2019, "Tail Free Sampling"; text-generation-webui's TailFreeLogitsWarper. With c[i] = |p[i] - 2 * p[i + 1] +
    p[i + 2]| over the sum of all such, the first 1 + k are kept, k the number of leading i with c[1] + ... + c[i] <= z.
    Fewer than three tokens, and a sum of 0, are left as they are. A difference p[i] - p[i + 1] is p[i + 1] times
    exp(rise) - 1, with the rise computed from the logits, so that equal steps of logits are equal here, too.
    """
    share, order = to_float32(row.params.tfs), kept_order(row)
    if share == 1.0 or len(order) < 3:
        return
    logits, mass = row.ranked[order].astype(np.float64), weights(row.logits)[order]
    rises = (logits[:-1] - logits[1:]) / (1.0 if math.isnan(row.temperature) else row.temperature)
    slopes = np.where(mass[1:] > 0.0, mass[1:] * np.expm1(np.where(mass[1:] > 0.0, rises, 0.0)), mass[:-1])
    curvature = np.cumsum(abs(slopes[:-1] - slopes[1:]))
    if curvature[-1] > 0.0:
        keep_first(row, 1 + int(np.searchsorted(curvature, share * curvature[-1], side="right")))


def _prefix_entropies(row: Row) -> Array:
    """Return the entropy of each prefix of the kept tokens, renormalised: ln(sum(w)) - sum(w * x) / sum(w)."""
    order = kept_order(row)
    mass, x = weights(row.logits)[order], relative(row.logits)[order]
    totals = np.cumsum(mass)
    return np.asarray(np.log(totals) - np.cumsum(np.where(mass > 0.0, mass * x, 0.0)) / totals)


def zipf_size(exponents: Array, vocab_size: int, mu: float) -> float:
    """Return mirostat 1's number of tokens for a surprise of mu bits, not rounded, of exponents in descending order.

    Basu et al. 2021, algorithm 1, as in llama.cpp: the exponent s of Zipf's law by least squares over the first 100
    tokens, then k = (e * 2**mu / (1 - N**-e))**(1 / s), e = s - 1. The limits at e = 0 and s = 0 are taken.
    """
    head = exponents[:100]
    steps = np.log(np.arange(2, len(head) + 1) / np.arange(1, len(head)))
    s = float(np.dot(steps, head[:-1] - head[1:]) / np.dot(steps, steps))
    y = (s - 1.0) * math.log(vocab_size)
    ratio = 1.0 + y / 2.0 + y * y / 12.0 if abs(y) < 1e-3 else (-y / math.expm1(-y) if y < 700.0 else y)
    log_base = math.log(ratio / math.log(vocab_size)) + mu * math.log(2.0)
    if s == 0.0:
        return math.inf if log_base > 0.0 else 1.0
    return math.exp(min(log_base / s, 700.0))
