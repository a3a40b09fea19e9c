"""Stages 0 to 7: from the model's logits to the row that temperature sees.

These stages edit a handful of tokens, and their results decide every tie, so they are defined in float32,
each operation rounded once; the kernel and this file agree to the bit. Everything after them is real
arithmetic, for which float64 stands here.

A stage is a function `apply_<name>(row)` that replaces `row.logits`. A token is banned where its logit is
-inf, and stays banned: no penalty or bias touches it again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from decoding.errors import EmptySupportError, NonFiniteLogitsError
from decoding.params import SamplingParams

Array: TypeAlias = NDArray[Any]


@dataclass(kw_only=True)
class Row:
    """One row on its way through the pipeline: what was asked, and what the stages have made of it so far.

    `logits` is [vocab]: float32 up to the masks, float64 from temperature on, -inf for every token that is
    banned or was dropped. `stage_rows` keeps a copy of it as each stage left it.
    """

    logits: Array
    params: SamplingParams
    seed: int
    stream: int = 0
    choice: int = 0
    prompt_token_ids: Sequence[int] = ()
    output_token_ids: Sequence[int] = ()
    eos_token_ids: Sequence[int] = ()
    bitmask: Array | None = None
    num_valid_tokens: int | None = None
    on_nonfinite: Literal["raise", "mask"] = "raise"
    index: int = 0

    stage_rows: dict[str, Array] = field(default_factory=dict)
    order: Array = field(default_factory=lambda: np.empty(0, np.int64))
    probabilities: Array = field(default_factory=lambda: np.empty(0))
    token_id: int = -1

    @property
    def kept(self) -> Array:
        """Which tokens, bool [vocab], are neither banned nor dropped by the stages so far."""
        return np.asarray(self.logits > -np.inf)


def total_order(logits: Array) -> Array:
    """Token ids [vocab] in the order of every tie: higher logit first, then lower id; -0.0 equals +0.0."""
    return np.argsort(-logits, kind="stable")


def apply_finite_check(row: Row) -> None:
    """-inf is a legal ban; NaN and +inf are errors, but `on_nonfinite="mask"` reads NaN as -inf."""
    logits = np.array(row.logits, dtype=np.float32)
    if row.on_nonfinite == "mask":
        logits[np.isnan(logits)] = -np.inf
    bad = np.isnan(logits) | (logits == np.inf)
    if bad.any():
        raise NonFiniteLogitsError(row.index, int(np.argmax(bad)), "finite_check")
    row.logits = logits
    _require_support(row, "finite_check")


def apply_raw_snapshot(row: Row) -> None:
    """Raw log-probabilities are those of the row as it is here; `stage_rows` is the snapshot."""


def apply_repetition_penalty(row: Row) -> None:
    """Once per distinct token of the scope: l / r where l > 0, else l * r (Keskar et al. 2019, CTRL, 4.1)."""
    r = np.float32(row.params.repetition_penalty)
    seen = Counter(_repetition_scope(row))
    _edit(row, "repetition_penalty", seen, lambda logit, _: logit / r if logit > 0 else logit * r)


def apply_frequency_presence(row: Row) -> None:
    """For each token generated so far: l - (count * f + p) (OpenAI API, frequency and presence penalty)."""
    f, p = np.float32(row.params.frequency_penalty), np.float32(row.params.presence_penalty)
    counts = Counter(row.output_token_ids)
    _edit(row, "frequency_presence", counts, lambda logit, count: logit - (np.float32(count) * f + p))


def apply_context_frequency_penalty(row: Row) -> None:
    """For each token of prompt and output, by its occurrences in both: l - count * c."""
    c = np.float32(row.params.context_frequency_penalty)
    counts = Counter([*row.prompt_token_ids, *row.output_token_ids])
    _edit(row, "context_frequency_penalty", counts, lambda logit, count: logit - np.float32(count) * c)


def apply_logit_bias(row: Row) -> None:
    """Add the bias, l + bias; -100 is a bias like any other, not a ban."""
    biases = dict(row.params.logit_bias)
    _edit(row, "logit_bias", biases, lambda logit, bias: logit + np.float32(bias))


def apply_hard_masks(row: Row) -> None:
    """What must not be drawn becomes -inf; last of the edits, so that nothing revives a banned token."""
    params, vocab_size = row.params, len(row.logits)
    allowed = np.ones(vocab_size, dtype=bool)
    if params.allowed_token_ids is not None:
        allowed[:] = False
        allowed[list(params.allowed_token_ids)] = True
    allowed[list(params.banned_token_ids)] = False
    if len(row.output_token_ids) < params.min_tokens:
        allowed[list(params.stop_token_ids)] = False
        allowed[[] if params.ignore_eos else list(row.eos_token_ids)] = False
    if row.bitmask is not None:
        allowed &= unpack_bitmask(row.bitmask, vocab_size)
    if row.num_valid_tokens is not None:
        allowed[row.num_valid_tokens :] = False
    row.logits = np.where(allowed, row.logits, np.float32(-np.inf))
    _require_support(row, "hard_masks")


def unpack_bitmask(bitmask: Array, vocab_size: int) -> Array:
    """Unpack uint32 [ceil(vocab_size / 32)] to bool [vocab_size]: token i is bit i % 32 of word i // 32."""
    token_ids = np.arange(vocab_size)
    bits = bitmask.astype(np.uint32)[token_ids // 32] >> (token_ids % 32).astype(np.uint32)  # [vocab_size]
    return np.asarray(bits & 1 == 1)


def _repetition_scope(row: Row) -> list[int]:
    scope, history = row.params.repetition_penalty_scope, [*row.prompt_token_ids, *row.output_token_ids]
    if scope == "output":
        return list(row.output_token_ids)
    return history if scope == "prompt+output" else history[-int(scope) :]


def _edit(row: Row, stage: str, amounts: Mapping[int, float], edit: Callable[[np.float32, float], np.float32]) -> None:
    """Replace each logit that is not banned by `edit(logit, amount)`; it must stay finite."""
    logits = row.logits.copy()
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        for token_id, amount in sorted(amounts.items()):
            if logits[token_id] > -np.inf:
                logits[token_id] = edit(logits[token_id], amount)
                if not np.isfinite(logits[token_id]):
                    raise NonFiniteLogitsError(row.index, token_id, stage)
    row.logits = logits


def _require_support(row: Row, stage: str) -> None:
    if not row.kept.any():
        raise EmptySupportError(row.index, stage)
