"""Pack stored matrices into the panels that the native forward pass reads, with several threads.

Weights stay in their storage type; those in bfloat16 take 12 bits each, without loss, if the kernel can code them so
(csrc/simd/coded_bfloat16.h). Queries, keys and values may have different ones, as in the k-quant mixes of
llama.cpp, and so may gate and up: they become a chain of matrices. A matrix whose parts cannot be chained, or whose
type the kernel does not know, is converted to float32, which represents the values of all types exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from decoding.errors import CheckpointError, UnsupportedModelError
from decoding.models.native_matrix import CODED, PANEL, PackedMatrix, UncodableError, packed_size
from decoding.models.native_names import BLOCKS
from decoding.models.tensors import physical_memory, require_memory
from decoding.models.weights import Block, Norms, StoredMatrix, StoredPart, Weights

Progress: TypeAlias = Callable[[int, int], object]
"""Called with (chunks packed, chunks in all)."""

TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", **{name.upper(): name for name in BLOCKS}}
"""Storage types that the kernel computes with, and their names in native_names.WEIGHT_TYPES."""

_CACHE_LINE = 64  # bytes
_HUGE_PAGE = 1 << 21
_CHUNK_BYTES = 1 << 20  # of a matrix that one task packs


class _Chunk(NamedTuple):
    """Outputs `first` to `after` - 1 of a part of a matrix; the part begins at output `offset` of the matrix."""

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
    chains = [chain for block in weights.blocks for chain in _chains(block)]
    chains.append([weights.head])
    packed = _allocate(chains)
    pairs = [pair for chain, links in zip(chains, packed, strict=True) for pair in zip(chain, links, strict=True)]
    uncodable = _run([chunk for pair in pairs for chunk in _chunks(*pair)], num_threads, progress)
    again = [pair for pair in pairs if pair[1] in uncodable]
    for _, matrix in again:
        matrix.store_plain()
    _run([chunk for pair in again for chunk in _chunks(*pair)], num_threads)
    matrices = (links[0] for links in packed)
    blocks = tuple(_block(matrices, block.norms) for block in weights.blocks)
    return Weights(weights.embedding, weights.positions, blocks, weights.norm, next(matrices))


def _chains(block: Block[StoredMatrix]) -> Iterator[list[StoredMatrix]]:
    """Yield the matrices of a layer; qkv and up as one matrix for each storage type, if that is possible."""
    yield _split(block.qkv)
    yield [block.output]
    yield _split(block.up)
    yield [block.down]


def _split(matrix: StoredMatrix) -> list[StoredMatrix]:
    """Return the parts of a matrix, with neighbours of the same type joined.

    The matrix is one part if they do not fit the rules of `decoding_matrix.rest`: all or none quantised, whole panels.
    """
    runs = [tuple(parts) for _, parts in groupby(matrix.parts, lambda part: part.tensor.dtype)]
    sizes = [sum(part.num_outputs for part in run) for run in runs]
    if len({TYPES.get(part.tensor.dtype) in BLOCKS for part in matrix.parts}) > 1:
        return [matrix]
    if matrix.transposed or any(size % PANEL for size in sizes[:-1]):
        return [matrix]
    biases = [None] * len(runs) if matrix.bias is None else np.split(matrix.bias, np.cumsum(sizes[:-1]))
    return [matrix._replace(parts=run, bias=bias) for run, bias in zip(runs, biases, strict=True)]


def _block(matrices: Iterator[PackedMatrix], norms: Norms) -> Block[PackedMatrix]:
    return Block(next(matrices), next(matrices), next(matrices), next(matrices), norms)


def _allocate(chains: list[list[StoredMatrix]]) -> list[list[PackedMatrix]]:
    """Return unwritten panels for all matrices, side by side in memory that the system may put on huge pages.

    Small pages cost more TLB misses, up to a tenth of the speed.
    """
    sizes = [[_size(matrix) for matrix in chain] for chain in chains]
    total = sum(map(sum, sizes))
    try:
        if total > physical_memory():
            raise MemoryError
        memory = np.empty(total + _HUGE_PAGE, np.uint8)
    except MemoryError:
        rule = f"needs {total:,} bytes of memory for its weights, more than is available"
        raise CheckpointError(chains[-1][0].parts[0].tensor.path, None, rule) from None
    begin = -memory.ctypes.data % _HUGE_PAGE
    packed = []
    for chain, bytes_of in zip(chains, sizes, strict=True):
        ends = np.cumsum(bytes_of) + begin
        packed.append(_linked(chain, [memory[end - size : end] for end, size in zip(ends, bytes_of, strict=True)]))
        begin = int(ends[-1])
    return packed


def _linked(chain: list[StoredMatrix], panels: list[NDArray[np.uint8]]) -> list[PackedMatrix]:
    """Return the matrices of a chain, each with the next one as its rest."""
    links: list[PackedMatrix] = []
    for matrix, memory in zip(reversed(chain), reversed(panels), strict=True):
        rest = links[-1] if links else None
        size = (matrix.num_outputs, matrix.num_inputs)
        links.append(PackedMatrix(_type(matrix), *size, matrix.bias, rest=rest, panels=memory))
    return links[::-1]


def _type(matrix: StoredMatrix) -> str:
    stored = TYPES.get(matrix.storage, "float32")
    has_whole_panels = all(part.num_outputs % PANEL == 0 for part in matrix.parts[:-1])
    can_be_coded = has_whole_panels and packed_size(CODED, matrix.num_outputs, matrix.num_inputs) > 0
    return CODED if stored == "bfloat16" and can_be_coded else stored


def _size(matrix: StoredMatrix) -> int:
    """Return the bytes of a matrix's panels, in whole cache lines."""
    tensor = matrix.parts[0].tensor
    require_memory(sum(part.tensor.num_bytes for part in matrix.parts), tensor)
    size = packed_size(_type(matrix), matrix.num_outputs, matrix.num_inputs)
    if size == 0:
        shape = [matrix.num_outputs, matrix.num_inputs]
        raise UnsupportedModelError(f"{tensor.path}: {tensor.name}: a matrix of shape {shape} is not implemented")
    return size + -size % _CACHE_LINE


def _chunks(matrix: StoredMatrix, packed: PackedMatrix) -> Iterator[_Chunk]:
    """Yield the tasks that together pack a matrix."""
    step = max(1, _CHUNK_BYTES * matrix.num_outputs // (PANEL * packed.panels.nbytes)) * PANEL
    offset = 0
    for part in matrix.parts:
        order = None if part.order is None else part.order()
        for first in range(0, part.num_outputs, step):
            yield _Chunk(packed, part, matrix.transposed, order, offset, first, min(first + step, part.num_outputs))
        offset += part.num_outputs


def _run(chunks: list[_Chunk], num_threads: int, progress: Progress | None = None) -> set[PackedMatrix]:
    """Pack all chunks and return the matrices that cannot be coded; the first error ends it."""
    uncodable = set()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="decoding-pack") as pool:
        futures = [pool.submit(_pack, chunk) for chunk in chunks]
        try:
            for done, (chunk, future) in enumerate(zip(chunks, futures, strict=True), 1):
                if not future.result():
                    uncodable.add(chunk.packed)
                if progress is not None:
                    progress(done, len(futures))
        finally:
            pool.shutdown(cancel_futures=True)
    return uncodable


def _pack(chunk: _Chunk) -> bool:
    """Check the numbers of one chunk and pack it; return False if they cannot be coded."""
    rows = _rows(chunk)
    try:
        chunk.packed.put(chunk.offset + chunk.first, rows)
    except UncodableError:
        return False
    return True


def _rows(chunk: _Chunk) -> NDArray[Any]:
    """Return the finite weights of a chunk in the type of the panels: [outputs, inputs], or blocks [outputs, bytes]."""
    tensor, place = chunk.part.tensor, slice(chunk.first, chunk.after)
    if chunk.transposed:
        if chunk.first == 0:  # a chunk is some columns of all rows
            tensor.require_finite(slice(0, tensor.shape[0]))
        return _columns(chunk)
    source = place if chunk.order is None else chunk.order[place]
    tensor.require_finite(place)  # the chunks of a part together look at each row once, whatever the order
    if TYPES.get(tensor.dtype) != chunk.packed.row_type:
        return tensor[source]
    stored = tensor.stored(source)
    return stored if chunk.packed.weight_type in BLOCKS else _numbers(stored, tensor.shape[1])


def _columns(chunk: _Chunk) -> NDArray[Any]:
    """Return the weights of a chunk of a matrix that is stored as [inputs, outputs]: [outputs, inputs]."""
    numbers = np.arange(chunk.first, chunk.after) if chunk.order is None else chunk.order[chunk.first : chunk.after]
    first, after = int(numbers.min()), int(numbers.max()) + 1
    stored = _numbers(chunk.part.tensor.stored_columns(slice(first, after)), after - first)
    return np.ascontiguousarray(stored[:, numbers - first].T)


def _numbers(stored: NDArray[np.uint8], num_inputs: int) -> NDArray[Any]:
    """Return rows of floating-point numbers as integers of their size (bfloat16 has no type of its own)."""
    return stored.view(f"u{stored.shape[1] // num_inputs}")
