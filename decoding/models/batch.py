"""ForwardBatch: the new tokens of one forward pass, and what a backend has to keep of a model and its cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from decoding.errors import ContextLengthError, ParameterError
from decoding.models.config import ModelConfig

Int32s: TypeAlias = NDArray[np.int32]
Indices: TypeAlias = NDArray[np.intp]

BLOCK_SIZE = 16
"""Tokens whose keys and values one block of the cache holds."""


class KVCache(Protocol):
    """Keys and values of tokens, in blocks of BLOCK_SIZE. Which block is whose is the caller's to know.

    block_bytes: memory that one block takes once it is used.
    """

    @property
    def num_blocks(self) -> int: ...
    @property
    def block_bytes(self) -> int: ...
    def copy_block(self, source: int, target: int) -> None: ...


Cache = TypeVar("Cache", bound=KVCache)


class Model(Protocol[Cache]):
    """A network that computes logits. One thread uses it at a time.

    rope_border: a sequence that grows beyond this length must be computed again from its first token, with
    `rope_lengths` of its new length; None if that never happens.
    """

    @property
    def config(self) -> ModelConfig: ...
    @property
    def rope_border(self) -> int | None: ...
    def rope_regime(self, length: int) -> int: ...
    def new_cache(self, num_blocks: int) -> Cache: ...
    def forward(self, batch: ForwardBatch, cache: Cache) -> NDArray[np.float32]: ...


@dataclass(slots=False, frozen=True, eq=False)
class ForwardBatch:
    """New tokens of several sequences: prompts, chunks of prompts, single decoding steps, mixed.

    token_ids: int32 [total], the new tokens, sequence after sequence.
    num_new: int32 [sequences], each >= 1; how many of the tokens are each sequence's.
    start: int32 [sequences]; how many tokens of its sequence the cache has already.
    block_tables: for each sequence the numbers of its blocks, int32, enough for its old and new tokens.
    rope_lengths: int32 [sequences]; the least length that chooses rotary factors that depend on a length. The token at
        position p has the factors of max(rope_length, p + 1).
    logits_tokens: int32 [num_logits], ascending; indices into token_ids of the tokens whose logits are wanted.
    """

    token_ids: Int32s
    num_new: Int32s
    start: Int32s
    block_tables: Sequence[Int32s]
    rope_lengths: Int32s
    logits_tokens: Int32s

    def check(self, config: ModelConfig, num_blocks: int) -> None:
        """Raise ParameterError or ContextLengthError unless the batch fits itself, the model and the cache."""
        self.check_shapes(config)
        _check_range("token_ids", self.token_ids, config.vocab_size)
        _check_range("logits_tokens", self.logits_tokens, len(self.token_ids))
        if (np.diff(self.logits_tokens) <= 0).any():
            raise ParameterError.single("logits_tokens", self.logits_tokens, "must be ascending")
        for table, end in zip(self.block_tables, self.ends, strict=True):
            _check_range("block_tables", table[: blocks_for(end)], num_blocks)

    def check_shapes(self, config: ModelConfig) -> None:
        """Raise unless sequences fit the context and their block tables, and all arrays have the right lengths."""
        sequences = len(self.num_new)
        if not 0 < sequences == len(self.start) == len(self.block_tables) == len(self.rope_lengths):
            rule = "num_new, start, block_tables and rope_lengths must have one entry per sequence"
            raise ParameterError.single("num_new", self.num_new, rule)
        counts = self.num_new.tolist()
        if min(counts) < 1 or sum(counts) != len(self.token_ids):
            raise ParameterError.single("num_new", counts, "must be >= 1 and sum to the number of tokens")
        if min(self.start.tolist()) < 0:
            raise ParameterError.single("start", self.start, "must be >= 0")
        if max(self.ends) > config.max_position_embeddings:
            raise ContextLengthError(max(self.ends), config.max_position_embeddings)
        for index, (table, end) in enumerate(zip(self.block_tables, self.ends, strict=True)):
            if len(table) < blocks_for(end):
                raise ParameterError.single(f"block_tables[{index}]", table, f"must have {blocks_for(end)} blocks")

    @cached_property
    def ends(self) -> list[int]:
        """Tokens of each sequence after this pass."""
        return [start + new for start, new in zip(self.start.tolist(), self.num_new.tolist(), strict=True)]

    @cached_property
    def positions(self) -> Indices:
        """The position of each new token in its sequence, [total]."""
        if len(self.token_ids) == len(self.num_new):
            return self.start.astype(np.intp)
        first = np.cumsum(self.num_new, dtype=np.intp) - self.num_new  # index of each sequence's first token
        positions: Indices = np.arange(len(self.token_ids)) + np.repeat(self.start - first, self.num_new)
        return positions

    @cached_property
    def token_lengths(self) -> Indices:
        """The length that chooses the rotary factors of each new token, [total]."""
        return np.maximum(np.repeat(self.rope_lengths, self.num_new), self.positions + 1)


def blocks_for(num_tokens: int) -> int:
    """Return how many blocks hold so many tokens."""
    return -(-num_tokens // BLOCK_SIZE)


def check_num_blocks(num_blocks: Any) -> int:
    """Return `num_blocks`; ParameterError unless it is an integer from 1 to 2^31 - 1."""
    if type(num_blocks) is not int or not 1 <= num_blocks < 2**31:
        raise ParameterError.single("num_blocks", num_blocks, f"must be an integer from 1 to {2**31 - 1:,}")
    return num_blocks


def _check_range(name: str, values: Int32s, end: int) -> None:
    if values.size and not 0 <= int(values.min()) <= int(values.max()) < end:
        wrong = values[(values < 0) | (values >= end)][0]
        raise ParameterError.single(name, int(wrong), f"must be from 0 to {end - 1:,}")
