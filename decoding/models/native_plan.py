"""The native forward pass, as thin wrappers of the compiled module: a plan, the KV cache, one step.

Arrays that a plan points to live as long as the plan. Shapes and types are those of csrc/decoding.h, which has the
meaning of every field.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from decoding.errors import KernelError, ParameterError
from decoding.models.native_call import aligned_bytes, check, pointer
from decoding.models.native_matrix import PackedMatrix
from decoding.models.native_names import ACTIVATION_NUMBERS, NORM_KINDS, WEIGHT_TYPES
from decoding.sampling.kernel.decode_steps import DecodeSteps, StepsAhead
from decoding.sampling.kernel.library import ffi, lib
from decoding.sampling.kernel.threads import ThreadPool

Floats: TypeAlias = NDArray[np.float32]
Integers: TypeAlias = NDArray[np.int32]

KV_BLOCK: int = lib.DECODING_KV_BLOCK
"""Tokens per block of the KV cache."""


def enable_amx() -> bool:
    """Use Intel AMX for quantised weights from now on, if processor and system have it; return True if they do.

    Logits have the same bits with and without it.
    """
    return bool(lib.decoding_enable_amx())


class PlanNorm(NamedTuple):
    """A norm of a plan. kind: a key of NORM_KINDS. weight [size]; bias [size] or None."""

    kind: str
    weight: Floats
    eps: float
    bias: Floats | None = None

    def fill(self, struct: Any) -> None:
        """Write the norm to a decoding_norm."""
        struct.kind, struct.size, struct.eps = NORM_KINDS[self.kind], self.weight.size, self.eps
        struct.weight, struct.bias = pointer(self.weight, "float"), pointer(self.bias, "float")


class PlanLayer(NamedTuple):
    """One layer, as decoding_layer of csrc/decoding.h. A norm may be None; rope -1 and window 0 mean none."""

    qkv: PackedMatrix
    output: PackedMatrix
    up: PackedMatrix
    down: PackedMatrix
    scale: float
    rope: int = -1
    window: int = 0
    attention_norm: PlanNorm | None = None
    query_norm: PlanNorm | None = None
    key_norm: PlanNorm | None = None
    attention_out_norm: PlanNorm | None = None
    mlp_norm: PlanNorm | None = None
    mlp_out_norm: PlanNorm | None = None

    def fill(self, struct: Any) -> None:
        """Write the layer to a decoding_layer."""
        for name, value in self._asdict().items():
            if hasattr(value, "fill"):
                value.fill(getattr(struct, name))
            elif value is not None:
                setattr(struct, name, value)


class Plan:
    """A network for decoding_forward. Keeps all of its arrays alive."""

    def __init__(
        self,
        *,
        vocab_size: int,
        hidden_size: int,
        intermediate_size: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        activation: str,
        gated: bool,
        embedding: NDArray[Any],
        embedding_type: str,
        layers: Sequence[PlanLayer],
        norm: PlanNorm | None,
        head: PackedMatrix,
        parallel_residual: bool = False,
        rope_pairs: Sequence[int] = (),
        attention_cap: float = 0.0,
        logits_cap: float = 0.0,
        embedding_scale: float = 1.0,
        residual_scale: float = 1.0,
        logits_scale: float = 1.0,
        positions: Floats | None = None,
    ) -> None:
        """Write the plan; KernelError if the parts do not fit each other.

        activation: a key of ACTIVATION_NUMBERS.
        embedding: [vocab_size, hidden_size] in the storage type `embedding_type`, or blocks [vocab_size, bytes] of a
        quantised type, at any address.
        rope_pairs: per rotary table, the number of pairs of a head that it rotates.
        positions: learned position embeddings [num_positions, hidden_size].
        """
        self.num_ropes, self.vocab_size = len(rope_pairs), vocab_size
        self._pairs = np.array(rope_pairs, np.int32)
        self._kept = (embedding, positions, norm, head, tuple(layers))
        matrices = [matrix for layer in layers for matrix in (layer.qkv, layer.output, layer.up, layer.down)]
        self.num_weight_bytes = sum(matrix.num_bytes for matrix in (*matrices, head))
        self._layers = ffi.new("decoding_layer[]", len(layers))
        for struct, layer in zip(self._layers, layers, strict=True):
            layer.fill(struct)
        self.struct = plan = ffi.new("decoding_plan *")
        plan.struct_size = ffi.sizeof("decoding_plan")
        plan.vocab_size, plan.hidden_size, plan.intermediate_size = vocab_size, hidden_size, intermediate_size
        plan.num_heads, plan.num_kv_heads, plan.head_dim = num_heads, num_kv_heads, head_dim
        plan.num_layers, plan.layers = len(layers), self._layers
        plan.activation, plan.gated, plan.parallel_residual = ACTIVATION_NUMBERS[activation], gated, parallel_residual
        plan.num_ropes, plan.rope_pairs = len(rope_pairs), pointer(self._pairs, "int32_t")
        plan.attention_cap, plan.logits_cap = attention_cap, logits_cap
        plan.embedding_scale, plan.residual_scale, plan.logits_scale = embedding_scale, residual_scale, logits_scale
        plan.embedding_type, plan.embedding = WEIGHT_TYPES[embedding_type], pointer(embedding, "char")
        plan.embedding_stride = embedding.strides[0]
        if positions is not None:
            plan.positions, plan.num_positions = pointer(positions, "float"), len(positions)
        if norm is not None:
            norm.fill(plan.norm)
        head.fill(plan.head)
        self.kv_block_bytes: int = lib.decoding_kv_block_size(plan)
        if self.kv_block_bytes == 0:
            raise KernelError("the native forward pass refused a plan: its sizes, norms or matrices do not fit")


class KVPool:
    """The memory of a KV cache: `num_blocks` blocks of KV_BLOCK tokens for all layers of a plan."""

    def __init__(self, plan: Plan, num_blocks: int) -> None:
        """Reserve address space, which takes memory only where blocks are used."""
        self.num_blocks = num_blocks
        self.block_bytes = plan.kv_block_bytes
        self.memory = aligned_bytes(num_blocks * self.block_bytes).reshape(num_blocks, self.block_bytes)

    def copy_block(self, source: int, target: int) -> None:
        """Copy the keys and values of one block to another."""
        self.memory[target] = self.memory[source]


class Step(NamedTuple):
    """The arguments of one step: decoding_forward_batch of csrc/decoding.h. Integer arrays are int32 and contiguous.

    rotary: for each rotary table the addresses of the tokens' rows, uintp [num_ropes, total]; the rows are kept alive
    by the caller.
    """

    token_ids: Integers
    num_new: Integers
    start: Integers
    block_tables: Sequence[Integers]
    logits_tokens: Integers
    rotary: NDArray[np.uintp] | None = None


def _table_addresses(tables: Sequence[Integers]) -> tuple[Integers, NDArray[np.uintp]]:
    """Return copies of the tables, one after another, and their addresses."""
    flat = np.ascontiguousarray(np.concatenate(tables), np.int32)
    lengths = np.fromiter(map(len, tables), np.uintp, len(tables))
    return flat, np.uintp(flat.ctypes.data) + np.uintp(4) * (np.cumsum(lengths, dtype=np.uintp) - lengths)


class Forward:
    """decoding_forward with a workspace of its own. Used by one thread at a time."""

    def __init__(self, plan: Plan, threads: ThreadPool | None = None) -> None:
        """threads: None for the calling thread alone."""
        self.plan = plan
        self._threads = threads
        self._workspace = np.empty(0, np.uint8)
        self._batch = batch = ffi.new("decoding_forward_batch *")
        batch.struct_size = ffi.sizeof("decoding_forward_batch")
        batch.num_workers = 1 if threads is None else threads.num_threads
        if threads is not None:
            batch.parallel_for, batch.host = ffi.addressof(lib, "dk_thread_pool_run"), threads.pool

    def __call__(self, step: Step, cache: KVPool) -> Floats:
        """Compute one step and return its logits, float32 [num_logits, vocab_size]; KernelError if it fails."""
        logits, kept = self._fill(step, cache)
        check(lib.decoding_forward(self.plan.struct, self._batch))
        del kept  # alive until here
        return logits

    def steps(self, step: Step, cache: KVPool, ahead: StepsAhead) -> DecodeSteps:
        """Return decoding steps that begin with this one, which has a new token and a row of logits per sequence.

        The arrays of `step` are updated as the steps run. Nothing else may run here before they are done.
        """
        logits, kept = self._fill(step, cache)
        return DecodeSteps(
            self.plan.struct,
            self._batch,
            logits,
            ahead,
            token_ids=step.token_ids,
            start=step.start,
            rotary=step.rotary,
            kept=(step, cache, kept),
        )

    def _fill(self, step: Step, cache: KVPool) -> tuple[Floats, object]:
        """Fill in the batch; return memory for its logits, and what the batch points to besides the arguments."""
        batch, num_logits = self._batch, len(step.logits_tokens)
        logits = np.empty((num_logits, self.plan.vocab_size), np.float32)
        flat, tables = _table_addresses(step.block_tables)
        self._reserve(len(step.token_ids), num_logits)
        batch.num_sequences = len(step.num_new)
        batch.num_new, batch.start = pointer(step.num_new, "int32_t"), pointer(step.start, "int32_t")
        batch.block_tables = pointer(tables, "int32_t *")
        batch.token_ids = pointer(step.token_ids, "int32_t")
        batch.rotary = pointer(step.rotary, "float *")
        batch.num_logits, batch.logits_tokens = num_logits, pointer(step.logits_tokens, "int32_t")
        batch.logits, batch.logits_stride = pointer(logits, "float"), self.plan.vocab_size
        batch.kv_cache, batch.num_blocks = pointer(cache.memory, "char"), cache.num_blocks
        return logits, (flat, tables)

    def _reserve(self, num_tokens: int, num_logits: int) -> None:
        """Make the workspace large enough."""
        batch = self._batch
        size = lib.decoding_forward_workspace_size(self.plan.struct, num_tokens, num_logits, batch.num_workers)
        if size == 0:
            raise ParameterError.single("token_ids", num_tokens, "must be a number of tokens that memory can hold")
        if size > self._workspace.size:
            self._workspace = aligned_bytes(size)
        batch.workspace, batch.workspace_size = pointer(self._workspace, "char"), self._workspace.size


def rotary_table(frequencies: Floats, attention_factor: float, first_position: int, num_positions: int) -> Floats:
    """Return rows [num_positions, 2 * pairs] of [cos, sin] for the positions from first_position on.

    frequencies: radians per position of each pair, float32 [pairs].
    """
    frequencies = np.ascontiguousarray(frequencies, np.float32)
    table = np.empty((num_positions, 2 * frequencies.size), np.float32)
    check(
        lib.decoding_rotary_table(
            pointer(frequencies, "float"),
            frequencies.size,
            attention_factor,
            first_position,
            num_positions,
            pointer(table, "float"),
        )
    )
    return table
