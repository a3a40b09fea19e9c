"""One row on its way through the pipeline, and the total order that decides every tie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from decoding.params import SamplingParams
from decoding.sampling.stages import PROFILES, Profile

Array: TypeAlias = NDArray[Any]


@dataclass(kw_only=True)
class Row:
    """One row on its way through the pipeline: its parameters, and the results of the stages so far.

    A stage is a function `apply_<name>(row)` that replaces `row.logits`, [vocab]: float32 up to the masks, float64
    after them, -inf for every token that is banned or was dropped. `stage_rows` has a copy of it after each stage.

    The row without any truncation, from the masks on, is kept beside it: `ranked`, float32, whose total order is
    `order`; and `whole`, its exponents relative to the largest, divided by `temperature` from the stage temperature on.
    A dynamic temperature follows from `entropy_ratio`. The result of the cut is in `before_reshaping`, float64.

    p_less_factor: a factor of p_less's threshold, 1 by definition; tests change it to find what rounding may decide.
    """

    logits: Array
    params: SamplingParams
    seed: int
    profile: Profile = PROFILES["openai"]
    stream: int = 0
    choice: int = 0
    prompt_token_ids: Sequence[int] = ()
    output_token_ids: Sequence[int] = ()
    eos_token_ids: Sequence[int] = ()
    mirostat_mu: float | None = None
    adaptive_p_center: float | None = None
    bitmask: Array | None = None
    num_valid_tokens: int | None = None
    on_nonfinite: Literal["raise", "mask"] = "raise"
    index: int = 0
    p_less_factor: float = 1.0

    stage_rows: dict[str, Array] = field(default_factory=dict)
    ranked: Array = field(default_factory=lambda: np.empty(0, np.float32))
    order: Array = field(default_factory=lambda: np.empty(0, np.int64))
    whole: Array = field(default_factory=lambda: np.empty(0))
    entropy_ratio: float = math.nan
    temperature: float = math.nan
    before_reshaping: Array = field(default_factory=lambda: np.empty(0))
    probabilities: Array = field(default_factory=lambda: np.empty(0))
    token_id: int = -1
    surprise: float = math.nan

    @property
    def kept(self) -> Array:
        """True for tokens that are neither banned nor dropped by the stages so far, bool [vocab]."""
        return np.asarray(self.logits > -np.inf)

    @property
    def context(self) -> list[int]:
        """Prompt and output, in order."""
        return [*self.prompt_token_ids, *self.output_token_ids]

    @property
    def repetition_scope(self) -> list[int]:
        """The tokens to which the repetition penalty applies."""
        scope = self.params.repetition_penalty_scope
        if scope == "output":
            return list(self.output_token_ids)
        return self.context if scope == "prompt+output" else self.context[-int(scope) :]


def total_order(logits: Array) -> Array:
    """Return token ids [vocab] in the order that decides ties: higher logit first, then lower id; -0.0 equals +0.0."""
    return np.argsort(-logits, kind="stable")
