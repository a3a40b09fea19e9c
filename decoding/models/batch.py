"""The interface between the engine and a model: one step's batch, the KV cache, the model itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

BLOCK_SIZE = 16
"""Tokens per block of the KV cache."""

IntArray: TypeAlias = NDArray[np.int32]
Logits: TypeAlias = NDArray[np.float32]


class ForwardBatch(NamedTuple):
    """The new tokens of one forward pass, sequence after sequence.

    token_ids: int32 [total].
    num_new: int32 [sequences], each >= 1; new tokens per sequence.
    start: int32 [sequences]; tokens per sequence that are in the cache already.
    block_tables: per sequence, int32 block numbers, at least ceil((start + num_new) / BLOCK_SIZE).
    rope_lengths: int32 [sequences]; the token at position p takes the rotary factors of length
        max(rope_length, p + 1).
    logits_tokens: int32 [num_logits], ascending; indices into token_ids of the tokens whose logits are wanted.
    """

    token_ids: IntArray
    num_new: IntArray
    start: IntArray
    block_tables: Sequence[IntArray]
    rope_lengths: IntArray
    logits_tokens: IntArray


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


class KVCache(Protocol):
    """Keys and values in `num_blocks` blocks of BLOCK_SIZE tokens, `block_bytes` each."""

    @property
    def num_blocks(self) -> int: ...
    @property
    def block_bytes(self) -> int: ...
    def copy_block(self, source: int, target: int) -> None: ...


class Model(Protocol):
    """A model as the engine sees it.

    rope_border: a sequence that outgrows this length is recomputed from position 0 (LongRoPE); None: never.
    rope_regime: 0 for lengths whose rotary factors are those of short sequences; never decreases with the length.
        Keys of equal tokens are equal where the regimes are.
    forward: logits float32 [num_logits, vocab]; keys and values of all tokens go to the cache.
    """

    @property
    def config(self) -> ModelShape: ...
    @property
    def rope_border(self) -> int | None: ...
    def rope_regime(self, length: int) -> int: ...
    def new_cache(self, num_blocks: int) -> KVCache: ...
    def forward(self, batch: ForwardBatch, cache: KVCache) -> Logits: ...


# Names that the former forward pass imports.
Integers: TypeAlias = NDArray[np.integer[Any]]
Indices: TypeAlias = NDArray[np.intp]
Rows: TypeAlias = slice | Indices
Span: TypeAlias = Any
