"""Words that several floors share: the small closed vocabularies of the field, as types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

FinishReason: TypeAlias = Literal["stop", "length", "error"]
"""Why a sequence ended: a stop string, stop id or EOS; max_tokens or the context; its row of logits failed."""

LogprobsMode: TypeAlias = Literal["raw", "penalized", "scaled", "final"]
"""Which distribution log-probabilities speak of (docs/semantics.md, section 5)."""

RepetitionScope: TypeAlias = Literal["prompt+output", "output"]
"""Which tokens the multiplicative repetition penalty looks at; an int instead means the last N of them."""

TokenSequence: TypeAlias = str | Sequence[int]
"""Several tokens in a row: text (where there is a tokenizer), or token ids."""

Prompt: TypeAlias = str | Sequence[int]
"""One prompt: text, or token ids taken as they are."""

PLessRule: TypeAlias = Literal["plain", "norm"]
"""Which threshold p_less has: the collision probability, or the relaxed one (docs/semantics.md, section 3)."""

LOGPROBS_MODES: tuple[LogprobsMode, ...] = ("raw", "penalized", "scaled", "final")
REPETITION_SCOPES: tuple[RepetitionScope, ...] = ("prompt+output", "output")
P_LESS_RULES: tuple[PLessRule, ...] = ("plain", "norm")
