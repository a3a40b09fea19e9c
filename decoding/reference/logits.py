"""Stages finite_check to logit_bias: from the model's logits to the row before the masks.

These stages edit a handful of tokens, and their results decide every tie, so they are defined in float32,
each operation rounded once; the kernel and this file agree to the bit. The stages after the masks are defined
in real arithmetic, computed here in float64.

A token is banned where its logit is -inf, and stays banned: no penalty or bias touches it again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from decoding.errors import EmptySupportError, NonFiniteLogitsError
from decoding.reference.dry import dry_penalties
from decoding.reference.row import Row
from decoding.sampling.stages import Rule


def apply_finite_check(row: Row) -> None:
    """Raise NonFiniteLogitsError for NaN and +inf; -inf is a valid ban, and `on_nonfinite="mask"` reads NaN as -inf."""
    logits = np.array(row.logits, dtype=np.float32)
    if row.on_nonfinite == "mask":
        logits[np.isnan(logits)] = -np.inf
    bad = np.isnan(logits) | (logits == np.inf)
    if bad.any():
        raise NonFiniteLogitsError(row.index, int(np.argmax(bad)), "finite_check")
    row.logits = logits
    require_support(row, "finite_check")


def apply_raw_snapshot(row: Row) -> None:
    """Leave the row unchanged: raw log-probabilities are those of the row at this stage, which `stage_rows` keeps."""


def apply_repetition_penalty(row: Row) -> None:
    """Set l to l / r if l > 0, otherwise l * r, for each distinct token of the scope (Keskar et al. 2019, CTRL)."""
    r = np.float32(row.params.repetition_penalty)
    seen = Counter(row.repetition_scope)
    _edit(row, "repetition_penalty", seen, lambda logit, _: logit / r if logit > 0 else logit * r)


def apply_frequency_presence(row: Row) -> None:
    """Subtract count * f + p for each token generated so far (OpenAI API, frequency and presence penalty).

    Under Rule.PENALTIES_IN_SCOPE for each token in the scope of the repetition penalty, counted there (llama.cpp).
    """
    f, p = np.float32(row.params.frequency_penalty), np.float32(row.params.presence_penalty)
    counted = row.repetition_scope if Rule.PENALTIES_IN_SCOPE in row.profile.rules else row.output_token_ids
    _edit(row, "frequency_presence", Counter(counted), lambda logit, count: logit - (np.float32(count) * f + p))


def apply_dry(row: Row) -> None:
    """Subtract `dry_penalties` from the tokens that would continue a repetition."""
    _edit(row, "dry", dry_penalties(row.params, row.context), lambda logit, penalty: logit - penalty)


def apply_context_frequency_penalty(row: Row) -> None:
    """Subtract count * c from each token, where count is its occurrences in prompt and output."""
    c = np.float32(row.params.context_frequency_penalty)
    counts = Counter(row.context)
    _edit(row, "context_frequency_penalty", counts, lambda logit, count: logit - np.float32(count) * c)


def apply_logit_bias(row: Row) -> None:
    """Add the bias, l + bias; -100 is a bias like any other, not a ban."""
    biases = dict(row.params.logit_bias)
    _edit(row, "logit_bias", biases, lambda logit, bias: logit + np.float32(bias))


def require_support(row: Row, stage: str) -> None:
    """Raise EmptySupportError with the name of the stage if every token is banned."""
    if not row.kept.any():
        raise EmptySupportError(row.index, stage)


def _edit(row: Row, stage: str, amounts: Mapping[int, Any], edit: Callable[[np.float32, Any], np.float32]) -> None:
    """Replace each logit that is not banned by `edit(logit, amount)`; it must stay finite."""
    logits = row.logits.copy()
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        for token_id, amount in sorted(amounts.items()):
            if logits[token_id] > -np.inf:
                logits[token_id] = edit(logits[token_id], amount)
                if not np.isfinite(logits[token_id]):
                    raise NonFiniteLogitsError(row.index, token_id, stage)
    row.logits = logits
