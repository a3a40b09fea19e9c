"""Types of the model as the engine sees it (the interface itself is decoding.models.batch)."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from decoding.models.batch import Model

Logits: TypeAlias = NDArray[np.float32]
"""Rows of logits [rows, vocab], or one row [vocab]."""

AnyModel: TypeAlias = Model[Any]
"""A model whose cache only it looks into."""


class ModelShape(Protocol):
    """The part of a model's config that the engine reads."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def max_position_embeddings(self) -> int: ...
    @property
    def bos_token_id(self) -> int | None: ...
    @property
    def eos_token_ids(self) -> tuple[int, ...]: ...
