"""backend="native": the forward pass of the C library (csrc/forward) behind a model's interface."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decoding.errors import KernelError, ParameterError, UnsupportedModelError
from decoding.models.batch import ForwardBatch
from decoding.models.config import ModelConfig
from decoding.models.kv_cache import NativeKVCache
from decoding.models.model_base import ModelBase
from decoding.models.packing import Progress, pack_weights
from decoding.models.plan import Plan
from decoding.models.rope import Frequencies
from decoding.models.weights import StoredMatrix, Weights
from decoding.sampling.kernel.library import ffi, lib, status_message


class NativeModel(ModelBase):
    """A model computed by the C library; one thread uses it at a time.

    The bits of logits depend on the weights, the tokens and their positions alone: not on the rest of the batch, on
    chunks, threads or the instruction set. Weights stay in their storage type, the embedding in its file.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights[StoredMatrix],
        files: Sequence[Path] = (),
        *,
        num_threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Pack the weights and start the threads."""
        super().__init__(config, compute_table, files)
        self._pool = ThreadPool(num_threads)
        self._plan = Plan(config, pack_weights(weights, self._pool.num_threads, progress), self._rotary)
        self._block_bytes = int(lib.decoding_kv_block_size(self._plan.pointer))
        if self._block_bytes == 0:
            raise UnsupportedModelError(f"{weights.embedding.path}: the sizes of this model are not implemented")
        self._workspace = np.empty(0, np.uint8)
        self._batch = ffi.new("decoding_forward_batch *", {"struct_size": ffi.sizeof("decoding_forward_batch")})

    @property
    def num_threads(self) -> int:
        """Threads that share the work of one forward pass."""
        return self._pool.num_threads

    def new_cache(self, num_blocks: int) -> NativeKVCache:
        """Return an empty cache."""
        return NativeKVCache(num_blocks, self._block_bytes)

    def forward(self, batch: ForwardBatch, cache: NativeKVCache) -> NDArray[np.float32]:
        """Compute the new tokens and leave their keys and values in the cache.

        Returns logits [num_logits, vocab]. Weights that make a number overflow give NaN or infinite logits. Raises
        ParameterError or ContextLengthError for a batch that does not fit the model or the cache.
        """
        if cache.block_bytes != self._block_bytes:
            raise ParameterError.single("cache", cache, "must be a cache of this model")
        batch.check_shapes(self.config)
        logits = np.empty((len(batch.logits_tokens), self.config.vocab_size), np.float32)
        status = self._run(batch, cache, logits)
        if status != lib.DECODING_OK:
            batch.check(self.config, cache.num_blocks)
            raise KernelError(f"the forward pass refused a batch: {status_message(status)}")
        return logits

    def _run(self, batch: ForwardBatch, cache: NativeKVCache, logits: NDArray[np.float32]) -> int:
        """Describe the batch to C and compute it; returns the status."""
        rotary, tables = self._rotary_addresses(batch)
        flat = np.concatenate(batch.block_tables, dtype=np.int32, casting="same_kind")
        lengths = [len(table) for table in batch.block_tables]
        table_addresses = flat.ctypes.data + 4 * (np.cumsum(lengths) - lengths)
        token_ids, num_new, start, logits_tokens = (
            np.ascontiguousarray(array, np.int32)
            for array in (batch.token_ids, batch.num_new, batch.start, batch.logits_tokens)
        )
        workspace = self._sized_workspace(len(token_ids), len(logits_tokens))
        call = self._batch
        call.num_sequences = len(num_new)
        call.num_new = _ints(num_new)
        call.start = _ints(start)
        call.block_tables = ffi.from_buffer("int32_t *[]", table_addresses)
        call.token_ids = _ints(token_ids)
        call.rotary = ffi.from_buffer("float *[]", rotary) if rotary.size else ffi.NULL
        call.num_logits = len(logits_tokens)
        call.logits_tokens = _ints(logits_tokens)
        call.logits = ffi.cast("float *", logits.ctypes.data)
        call.logits_stride = self.config.vocab_size
        call.kv_cache = ffi.cast("void *", cache.address)
        call.num_blocks = cache.num_blocks
        call.workspace = ffi.cast("void *", workspace.ctypes.data)
        call.workspace_size = workspace.size
        call.num_workers, call.parallel_for, call.host = self._pool.arguments
        return int(lib.decoding_forward(self._plan.pointer, call))

    def _rotary_addresses(self, batch: ForwardBatch) -> tuple[NDArray[np.intp], Any]:
        """Return the address of each token's row in each rotary table, [ropes, total], and the tables."""
        addresses = np.empty((len(self._rotary.ropes), len(batch.token_ids)), np.intp)
        kept = list(self._rotary.rows(batch))
        for index, pieces in enumerate(kept):
            for tokens, table, offsets in pieces:
                addresses[index, tokens] = table.ctypes.data + table.strides[0] * offsets
        return addresses, kept

    def _sized_workspace(self, num_tokens: int, num_logits: int) -> NDArray[np.uint8]:
        """Return memory for the intermediate results of such a batch; kept, as fresh memory is slow."""
        size = lib.decoding_forward_workspace_size(self._plan.pointer, num_tokens, num_logits, self.num_threads)
        if size > self._workspace.size:
            self._workspace = np.empty(int(size), np.uint8)
        return self._workspace


def _ints(array: NDArray[np.int32]) -> Any:
    return ffi.from_buffer("int32_t[]", array)


def compute_table(
    frequencies: Frequencies, attention_factor: float, first_position: int, num_positions: int
) -> NDArray[np.float32]:
    """Return rows of a rotary table for consecutive positions, with the same bits on every machine."""
    frequencies = np.ascontiguousarray(frequencies, np.float32)
    table = np.empty((num_positions, 2 * len(frequencies)), np.float32)
    lib.decoding_rotary_table(
        ffi.from_buffer("float[]", frequencies),
        len(frequencies),
        attention_factor,
        first_position,
        num_positions,
        ffi.from_buffer("float[]", table),
    )
    return table
