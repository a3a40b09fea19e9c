"""The whole pipeline for one row: the definition of the kernel.

Written to be read, not to be fast. It shares only the order of the stages with the kernel.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from decoding.reference import draw, logits, masks, mirostat, reshape, shape, temperature, truncation, xtc
from decoding.reference.row import Array, Row, total_order
from decoding.reference.weights import relative
from decoding.sampling.stages import Stage
from decoding.types import LogprobsMode

APPLY: dict[str, Callable[[Row], None]] = {
    name.removeprefix("apply_"): function
    for module in (logits, masks, temperature, truncation, shape, xtc, mirostat, reshape, draw)
    for name, function in vars(module).items()
    if name.startswith("apply_")
}
"""`apply_<stage>` of every stage, by the stage's name."""


def sample_row(row: Row) -> Row:
    """Take `row` through all stages, in the order of its profile, and return it.

    Afterwards `row.stage_rows` has the row as each stage left it, `probabilities` is the distribution of the
    draw (float64 [vocab]), `token_id` the token, and `surprise` its value for mirostat and adaptive-p.

    Raises:
        NonFiniteLogitsError: NaN or +inf in the logits, or made by an edit.
        EmptySupportError: every token is banned.
    """
    for stage in row.profile.stages:
        if takes(row, stage):
            APPLY[stage.name](row)
        row.stage_rows[stage.name] = row.logits.copy()
    return row


def takes(row: Row, stage: Stage) -> bool:
    """Return True if the row runs the stage: with mirostat, all but the truncations."""
    return row.params.mirostat_tau is None or not stage.is_truncation


def log_softmax(exponents: Array) -> Array:
    """Return x - log(sum(exp(x))), float64 [vocab]; the maximum is subtracted first to avoid overflow."""
    x = relative(exponents)
    return np.asarray(x - np.log(np.exp(x).sum()))


def logprobs(row: Row, mode: LogprobsMode) -> Array:
    """Return the natural log-probability of every token in one of the four modes, float64 [vocab]."""
    spoken_of = {
        "raw": row.stage_rows["raw_snapshot"],
        "penalized": row.stage_rows["hard_masks"],
        "scaled": row.whole,
        "final": row.stage_rows["draw"],
    }
    return log_softmax(spoken_of[mode])


def ranking(row: Row, mode: LogprobsMode) -> Array:
    """Return token ids [vocab] in the total order that ranks and top-N of `mode` follow."""
    return total_order(ranked_logits(row, mode))


def ranked_logits(row: Row, mode: LogprobsMode) -> Array:
    """Return the row that `mode` ranks by: the input for raw, the row after hard_masks for the others."""
    return row.stage_rows["raw_snapshot" if mode == "raw" else "hard_masks"]


def rank(row: Row, mode: LogprobsMode, token_id: int) -> int:
    """Return 1 + the number of tokens before `token_id` in `ranking`."""
    return int(np.flatnonzero(ranking(row, mode) == token_id)[0]) + 1


def top_token_ids(row: Row, mode: LogprobsMode, num_top: int) -> Array:
    """Return the first `num_top` of `ranking` that are not banned."""
    order = ranking(row, mode)
    return order[ranked_logits(row, mode)[order] > -np.inf][:num_top]
