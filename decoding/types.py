"""Type aliases that several layers share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

FinishReason: TypeAlias = Literal["stop", "length", "error"]
"""The reason why a sequence ended: a stop string, stop id or EOS; max_tokens or the context; an error in its logits."""

LogprobsMode: TypeAlias = Literal["raw", "penalized", "scaled", "final"]
"""The distribution of reported log-probabilities (docs/semantics.md, section 5)."""

RepetitionScope: TypeAlias = Literal["prompt+output", "output"]
"""The tokens to which the multiplicative repetition penalty applies; an int instead means the last N tokens."""

TokenSequence: TypeAlias = str | Sequence[int]
"""A sequence of tokens: text, which needs a tokenizer, or token ids."""

Prompt: TypeAlias = str | Sequence[int]
"""One prompt: text, or token ids taken as they are."""

PLessRule: TypeAlias = Literal["plain", "norm"]
"""The threshold of p_less: the collision probability, or the relaxed one (docs/semantics.md, section 3)."""

LOGPROBS_MODES: tuple[LogprobsMode, ...] = ("raw", "penalized", "scaled", "final")
REPETITION_SCOPES: tuple[RepetitionScope, ...] = ("prompt+output", "output")
P_LESS_RULES: tuple[PLessRule, ...] = ("plain", "norm")
