"""Mirostat: a bound on surprise that adapts to a target and replaces the truncations."""

from __future__ import annotations

import numpy as np

from decoding.params import SamplingParams
from decoding.reference.row import Row
from decoding.reference.shape import zipf_size
from decoding.reference.truncation import keep, keep_first, kept_order
from decoding.reference.weights import probabilities, relative
from decoding.validation import to_float32


def apply_mirostat(row: Row) -> None:
    """Keep tokens with a surprise -log2(p) of at most mu bits, and at least the first of the total order (version 2).

    Version 1: the first k of the total order, k by an estimate of Zipf's exponent (see zipf_size), at least one. Basu
    et al. 2021, "Mirostat: a neural text decoding algorithm that directly controls perplexity"; both as in llama.cpp.
    The surprise of the drawn token, renormalised, moves mu: see next_mu.
    """
    if row.params.mirostat_tau is None:
        return
    mu = first_mu(row.params) if row.mirostat_mu is None else row.mirostat_mu
    if row.params.mirostat_version == 1:
        order = kept_order(row)
        if len(order) > 1:
            size = zipf_size(relative(row.logits)[order], len(row.logits), max(0.0, mu))
            keep_first(row, len(order) if size >= len(order) else max(1, int(size)))
        return
    with np.errstate(divide="ignore"):
        keep(row, -np.log2(probabilities(row.logits)) <= mu)


def first_mu(params: SamplingParams) -> float:
    """Return the bound for the first token, in bits: 2 * tau."""
    return 2.0 * to_float32(params.mirostat_tau or 0.0)


def next_mu(params: SamplingParams, mu: float, surprise: float) -> float:
    """Return the bound for the next token: mu - eta * (surprise - tau)."""
    return mu - to_float32(params.mirostat_eta) * (surprise - to_float32(params.mirostat_tau or 0.0))
