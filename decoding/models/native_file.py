"""A plan as one flat file, for programs in C and other languages: csrc/example_forward.c reads it.

Numbers have 4 bytes, little-endian; there are no offsets and no padding but the embedding's. In this order:

* "DKPL", version 1
* integers: vocab_size, hidden_size, intermediate_size, num_heads, num_kv_heads, head_dim, num_layers, activation,
  gated, parallel_residual, num_ropes, embedding_type, num_positions
* floats: attention_cap, logits_cap, embedding_scale, residual_scale, logits_scale
* each rotary table: pairs, attention_factor (float), frequencies (floats [pairs])
* the embedding [vocab_size, hidden_size] in its type, padded to 4 bytes
* positions, floats [num_positions, hidden_size]
* each layer: its norms and matrices in the order of decoding_layer; rope, window, scale (float)
* the last norm, the head

A norm: kind, size, eps (float), has_bias, weight, bias. A matrix: type, num_outputs, num_inputs, has_bias, panels,
bias. Constants are those of csrc/decoding.h.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from decoding.models.native_plan import Plan
from decoding.sampling.kernel.library import ffi, lib

_INTEGERS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_heads", "num_kv_heads", "head_dim", "num_layers",
    "activation", "gated", "parallel_residual", "num_ropes", "embedding_type", "num_positions",
)  # fmt: skip
_FLOATS = ("attention_cap", "logits_cap", "embedding_scale", "residual_scale", "logits_scale")
_NORMS = ("attention_norm", "query_norm", "key_norm", "attention_out_norm", "mlp_norm", "mlp_out_norm")
_MATRICES = ("qkv", "output", "up", "down")


def write_plan(
    file: BinaryIO,
    plan: Plan,
    frequencies: Sequence[NDArray[np.float32]] = (),
    attention_factors: Sequence[float] = (),
) -> None:
    """Write a plan and the frequencies of its rotary tables.

    frequencies: of each table, radians per position, float32 [pairs]. attention_factors: one per table.
    """
    struct = plan.struct
    file.write(b"DKPL")
    _write_integers(file, 1, *(getattr(struct, name) for name in _INTEGERS))
    _write_floats(file, *(getattr(struct, name) for name in _FLOATS))
    for table, factor in zip(frequencies, attention_factors, strict=True):
        _write_integers(file, len(table))
        _write_floats(file, factor, *table)
    _write_embedding(file, struct)
    for index in range(struct.num_layers):
        layer = struct.layers[index]
        for name in _NORMS:
            _write_norm(file, getattr(layer, name))
        for name in _MATRICES:
            _write_matrix(file, getattr(layer, name))
        _write_integers(file, layer.rope, layer.window)
        _write_floats(file, layer.scale)
    _write_norm(file, struct.norm)
    _write_matrix(file, struct.head)


def _write_integers(file: BinaryIO, *numbers: int) -> None:
    file.write(np.array(numbers, "<i4").tobytes())


def _write_floats(file: BinaryIO, *numbers: float) -> None:
    file.write(np.array(numbers, "<f4").tobytes())


def _write_memory(file: BinaryIO, pointer: Any, num_bytes: int) -> None:
    """Write memory; nothing for null."""
    if pointer != ffi.NULL:
        file.write(ffi.buffer(ffi.cast("char *", pointer), num_bytes))


def _write_embedding(file: BinaryIO, struct: Any) -> None:
    row_bytes = struct.hidden_size * (4 if struct.embedding_type == lib.DECODING_FLOAT32 else 2)
    start = ffi.cast("char *", struct.embedding)
    for row in range(struct.vocab_size):
        _write_memory(file, start + row * struct.embedding_stride, row_bytes)
    file.write(bytes(-struct.vocab_size * row_bytes % 4))
    _write_memory(file, struct.positions, 4 * struct.num_positions * struct.hidden_size)


def _write_norm(file: BinaryIO, norm: Any) -> None:
    _write_integers(file, norm.kind, norm.size)
    _write_floats(file, norm.eps)
    _write_integers(file, norm.bias != ffi.NULL)
    _write_memory(file, norm.weight, 4 * norm.size)
    _write_memory(file, norm.bias, 4 * norm.size)


def _write_matrix(file: BinaryIO, matrix: Any) -> None:
    _write_integers(file, matrix.type, matrix.num_outputs, matrix.num_inputs, matrix.bias != ffi.NULL)
    size = lib.decoding_packed_size(matrix.type, matrix.num_outputs, matrix.num_inputs)
    _write_memory(file, matrix.panels, size)
    _write_memory(file, matrix.bias, 4 * matrix.num_outputs)
