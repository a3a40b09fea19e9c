"""THE order of the pipeline from logits to token, as data.

The float64 reference loops over `PIPELINE`; the C kernel's stage numbers (DECODING_STAGE_* in decoding.h) and the
table in docs/semantics.md are tested against it. A stage's name is the same word everywhere: `apply_<name>` in the
reference, DECODING_STAGE_<NAME> in C, `stage` in errors.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of the pipeline: its number (shared with C), its name, and the parameters that drive it."""

    number: int
    name: str
    parameters: tuple[str, ...]


PIPELINE: tuple[Stage, ...] = (
    Stage(0, "finite_check", ()),
    Stage(1, "raw_snapshot", ("logprobs", "best_of")),
    Stage(2, "repetition_penalty", ("repetition_penalty", "repetition_penalty_scope")),
    Stage(3, "frequency_presence", ("frequency_penalty", "presence_penalty")),
    Stage(4, "context_frequency_penalty", ("context_frequency_penalty",)),
    Stage(5, "logit_bias", ("logit_bias",)),
    Stage(7, "hard_masks", ("allowed_token_ids", "banned_token_ids", "min_tokens")),
    Stage(8, "temperature", ("temperature",)),
    Stage(9, "top_k", ("top_k",)),
    Stage(10, "top_p", ("top_p",)),
    Stage(11, "min_p", ("min_p",)),
    Stage(12, "cut", ()),
    Stage(13, "draw", ("seed",)),
)
"""Number 6 is kept free for custom processors, which run between bias and masks on a dense copy of the row."""

STAGE_NAMES: dict[int, str] = {stage.number: stage.name for stage in PIPELINE}

GREEDY_TEMPERATURE = 2.0**-20
"""Below this temperature the distribution is a point: stages 8 to 12 are skipped."""

CUT_LOG2 = -40
"""Weights below 2**CUT_LOG2 of the largest are zero by definition."""
