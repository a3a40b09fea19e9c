"""Packing: stored matrices into the panels that the native forward pass reads, by several threads.

Weights stay in their storage type. A matrix whose parts have different types, or one that the kernel does not know, is
converted to float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from decoding.errors import CheckpointError, UnsupportedModelError
from decoding.models.native_plan import PackedMatrix, packed_size
from decoding.models.tensors import Tensor, physical_memory, require_memory
from decoding.models.weights import Block, Norms, StoredMatrix, StoredPart, Weights

Progress: TypeAlias = Callable[[int, int], object]
"""Called with (chunks packed, chunks in all)."""

TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Storage types that the kernel computes with, and their names there (native_plan.WEIGHT_TYPES)."""

_CACHE_LINE = 64  # bytes
_HUGE_PAGE = 1 << 21
_CHUNK_BYTES = 1 << 20  # of a matrix that one task packs
_PANEL = 16


class _Chunk(NamedTuple):
    """Outputs `first` to `after` of a part, whose first output is the matrix's output `offset`."""

    packed: PackedMatrix
    part: StoredPart
    transposed: bool
    order: NDArray[np.intp] | None
    offset: int
    first: int
    after: int


def pack_weights(
    weights: Weights[StoredMatrix], num_threads: int, progress: Progress | None = None
) -> Weights[PackedMatrix]:
    """Return the weights with all matrices packed; CheckpointError if a value is not finite or memory is missing."""
    stored = [matrix for block in weights.blocks for matrix in (block.qkv, block.output, block.up, block.down)]
    stored.append(weights.head)
    packed = _allocate(stored)
    chunks = [chunk for pair in zip(stored, packed, strict=True) for chunk in _chunks(*pair)]
    _run(chunks, num_threads, progress)
    matrices = iter(packed)
    blocks = tuple(_block(matrices, block.norms) for block in weights.blocks)
    return Weights(weights.embedding, weights.positions, blocks, weights.norm, next(matrices))


def _block(matrices: Iterator[PackedMatrix], norms: Norms) -> Block[PackedMatrix]:
    return Block(next(matrices), next(matrices), next(matrices), next(matrices), norms)


def _allocate(stored: list[StoredMatrix]) -> list[PackedMatrix]:
    """Return unwritten panels for all matrices, side by side in memory that the system may put on huge pages.

    Small pages have to be looked up more often, which costs up to a tenth of the speed.
    """
    sizes = [_size(matrix) for matrix in stored]
    total = sum(sizes)
    try:
        if total > physical_memory():
            raise MemoryError
        memory = np.empty(total + _HUGE_PAGE, np.uint8)
    except MemoryError:
        rule = f"needs {total:,} bytes of memory for its weights, which are not there"
        raise CheckpointError(stored[-1].parts[0].tensor.path, None, rule) from None
    begin = -memory.ctypes.data % _HUGE_PAGE
    packed = []
    for size, matrix in zip(sizes, stored, strict=True):
        panels = memory[begin : begin + size]
        packed.append(PackedMatrix(_type(matrix), matrix.num_outputs, matrix.num_inputs, matrix.bias, panels=panels))
        begin += size
    return packed


def _type(matrix: StoredMatrix) -> str:
    return TYPES.get(matrix.storage, "float32")


def _size(matrix: StoredMatrix) -> int:
    """Return the bytes of a matrix's panels, in whole cache lines."""
    tensor = matrix.parts[0].tensor
    require_memory(sum(part.tensor.raw.nbytes for part in matrix.parts), tensor)
    size = packed_size(_type(matrix), matrix.num_outputs, matrix.num_inputs)
    if size == 0:
        shape = [matrix.num_outputs, matrix.num_inputs]
        raise UnsupportedModelError(f"{tensor.path}: {tensor.name}: a matrix of shape {shape} is not implemented")
    return size + -size % _CACHE_LINE


def _chunks(matrix: StoredMatrix, packed: PackedMatrix) -> Iterator[_Chunk]:
    """Yield the tasks that together pack a matrix."""
    step = max(1, _CHUNK_BYTES * matrix.num_outputs // (_PANEL * packed.panels.nbytes)) * _PANEL
    offset = 0
    for part in matrix.parts:
        order = None if part.order is None else part.order()
        for first in range(0, part.num_outputs, step):
            yield _Chunk(packed, part, matrix.transposed, order, offset, first, min(first + step, part.num_outputs))
        offset += part.num_outputs


def _run(chunks: list[_Chunk], num_threads: int, progress: Progress | None) -> None:
    """Pack all chunks; the first error ends it."""
    with ThreadPoolExecutor(num_threads, thread_name_prefix="decoding-pack") as pool:
        futures = [pool.submit(_pack, chunk) for chunk in chunks]
        try:
            for done, future in enumerate(futures, 1):
                future.result()
                if progress is not None:
                    progress(done, len(futures))
        finally:
            pool.shutdown(cancel_futures=True)


def _pack(chunk: _Chunk) -> None:
    """Check the numbers of one chunk and pack it."""
    chunk.packed.put(chunk.offset + chunk.first, _rows(chunk))


def _rows(chunk: _Chunk) -> NDArray[Any]:
    """Return the finite weights of a chunk, [outputs, inputs], in the type of the panels; a view if they lie so."""
    tensor, place = chunk.part.tensor, slice(chunk.first, chunk.after)
    source = place if chunk.order is None else chunk.order[place]
    if chunk.transposed:
        if chunk.first == 0:  # a chunk is some columns of all rows
            tensor.require_finite(slice(0, tensor.shape[0]))
        return np.ascontiguousarray(_stored(tensor)[:, source].T)
    tensor.require_finite(place)  # the chunks of a part together look at each row once, whatever the order
    is_stored_so = TYPES.get(tensor.dtype) == chunk.packed.weight_type
    return _stored(tensor)[source] if is_stored_so else tensor[source]


def _stored(tensor: Tensor) -> NDArray[Any]:
    """Return a matrix of floating-point numbers as they are stored, bfloat16 as uint16; a view of the file."""
    return tensor.raw.view(f"u{tensor.raw.shape[1] // tensor.shape[1]}")
