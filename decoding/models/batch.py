"""The interface between the engine and a model: one step's batch, the KV cache, the model itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from decoding.errors import ContextLengthError, ParameterError

if TYPE_CHECKING:
    from decoding.sampling.kernel import DrawnSteps, StepsAhead
    from decoding.sampling.sampler import Sampler
    from decoding.sampling.state import SamplingState

IntArray: TypeAlias = NDArray[np.int32]
Logits: TypeAlias = NDArray[np.float32]
Indices: TypeAlias = NDArray[np.intp]

BLOCK_SIZE = 16
"""Number of tokens whose keys and values a block of the cache holds."""


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
    """A model as the engine sees it. One thread uses it at a time.

    rope_border: a sequence that outgrows this length is recomputed from position 0 (LongRoPE); None: never.
    rope_regime: number of the rotary factors for a length; 0 for those of short sequences, never decreasing.
        Equal tokens have equal keys if their regimes are equal.
    forward: logits float32 [num_logits, vocab]; keys and values of all tokens go to the cache.
    """

    @property
    def config(self) -> ModelShape: ...
    @property
    def rope_border(self) -> int | None: ...
    def rope_regime(self, length: int) -> int: ...
    def new_cache(self, num_blocks: int) -> KVCache: ...
    def forward(self, batch: ForwardBatch, cache: KVCache) -> Logits: ...


@runtime_checkable
class StepsModel(Model, Protocol):
    """A model that can run decoding steps in a row, with a sampler's draws between its forward passes.

    max_steps: how many steps in a row such a batch may take at most, >= 1.
    decode: forward, a draw for each sequence, and so on with the drawn tokens; the bits are those of single steps. The
        batch has one token per sequence, whose row of logits is wanted, and block tables with room for the tokens of
        all steps. Its token_ids and start are updated to the newest tokens. One state per sequence.
    """

    def max_steps(self, num_sequences: int) -> int: ...
    def decode(
        self, batch: ForwardBatch, cache: KVCache, sampler: Sampler, states: list[SamplingState], ahead: StepsAhead
    ) -> DrawnSteps: ...


@dataclass(slots=False, frozen=True, eq=False)
class ForwardBatch:
    """The new tokens of one forward pass, sequence after sequence: prompts, chunks of prompts, decoding steps.

    token_ids: int32 [total], the new tokens, sequence after sequence.
    num_new: int32 [sequences], each >= 1; the number of new tokens of each sequence.
    start: int32 [sequences]; the number of tokens of each sequence that the cache has already.
    block_tables: for each sequence the numbers of its blocks, int32, enough for its old and new tokens.
    rope_lengths: int32 [sequences]; minimum length for rotary factors that depend on a length. The token at
        position p has the factors of max(rope_length, p + 1).
    logits_tokens: int32 [num_logits], ascending; indices into token_ids of the tokens whose logits are wanted.
    """

    token_ids: IntArray
    num_new: IntArray
    start: IntArray
    block_tables: Sequence[IntArray]
    rope_lengths: IntArray
    logits_tokens: IntArray

    def check(self, config: ModelShape, num_blocks: int) -> None:
        """Raise ParameterError or ContextLengthError unless the arrays fit each other, the model and the cache."""
        self.check_shapes(config)
        _check_range("token_ids", self.token_ids, config.vocab_size)
        _check_range("logits_tokens", self.logits_tokens, len(self.token_ids))
        if (np.diff(self.logits_tokens) <= 0).any():
            raise ParameterError.single("logits_tokens", self.logits_tokens, "must be ascending")
        for table, end in zip(self.block_tables, self.ends, strict=True):
            _check_range("block_tables", table[: blocks_for(end)], num_blocks)

    def check_shapes(self, config: ModelShape) -> None:
        """Raise an error unless lengths of arrays agree, and sequences fit the context and their blocks."""
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
        """Return the number of tokens of each sequence after this pass."""
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
    """Return the number of blocks that hold `num_tokens` tokens."""
    return -(-num_tokens // BLOCK_SIZE)


def check_num_blocks(num_blocks: Any) -> int:
    """Return `num_blocks`; ParameterError unless it is an integer from 1 to 2^31 - 1."""
    if type(num_blocks) is not int or not 1 <= num_blocks < 2**31:
        raise ParameterError.single("num_blocks", num_blocks, f"must be an integer from 1 to {2**31 - 1:,}")
    return num_blocks


def _check_range(name: str, values: IntArray, end: int) -> None:
    if values.size and not 0 <= int(values.min()) <= int(values.max()) < end:
        wrong = values[(values < 0) | (values >= end)][0]
        raise ParameterError.single(name, int(wrong), f"must be from 0 to {end - 1:,}")
