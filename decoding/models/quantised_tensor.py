"""`quantization="q8_0"` or "q4_0": the matrices of a checkpoint as if they were stored in that type.

Rows are quantised each time they are read, so that both backends compute with the same numbers. The embedding,
positions, norms and biases stay as they are stored. So does a matrix whose rows are not whole blocks of 32. With "q4_0"
the head is Q8_0, as in GGUF converters: its errors reach the logits directly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from decoding.errors import ParameterError
from decoding.models.gguf_types import TENSOR_TYPES
from decoding.models.quantise import BLOCK_SIZE, QUANTIZERS, quantize_rows
from decoding.models.tensors import Tensor
from decoding.models.weights import Block, StoredMatrix, StoredPart, Weights

QUANTIZATIONS = tuple(QUANTIZERS)
_FLOATS = ("F32", "F16", "BF16")
_TYPES = {kind.name: kind for kind in TENSOR_TYPES.values()}


class QuantisedTensor(Tensor):
    """A stored matrix of floating-point numbers, quantised when its rows are read."""

    def __init__(self, tensor: Tensor, kind: str, *, transposed: bool = False) -> None:
        """Describe a matrix. kind: a name in QUANTIZATIONS. transposed: it is stored as [inputs, outputs]."""
        self.name = tensor.name
        self.file = tensor.file
        self.dtype = kind.upper()
        self.shape = tensor.shape[::-1] if transposed else tensor.shape
        self._kind = kind
        self._tensor = tensor
        self._transposed = transposed

    @property
    def num_bytes(self) -> int:
        """Bytes of the quantised matrix."""
        return self.shape[0] * _TYPES[self.dtype].row_bytes(self.shape[1])

    def stored(self, index: slice | NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        """Return quantised rows, uint8 [rows, bytes per row]."""
        rows = self._tensor[slice(None)].T[index] if self._transposed else self._tensor[index]
        try:
            return quantize_rows(self._kind, np.ascontiguousarray(rows))
        except ParameterError:
            raise self.error(f"has weights that are too large for quantization={self._kind!r}") from None

    def __getitem__(self, index: slice | NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Return the numbers that quantised rows stand for."""
        kind, blocks = _TYPES[self.dtype], self.stored(index)
        return kind.dequantize(blocks.reshape(-1, kind.block_bytes)).reshape(len(blocks), -1)

    def is_finite(self, rows: slice) -> bool:
        """Return True if no stored number of these rows is NaN or infinite."""
        if not self._transposed:
            return self._tensor.is_finite(rows)
        return rows.start > 0 or self._tensor.is_finite(slice(0, self._tensor.shape[0]))  # columns: all at once


def quantised(weights: Weights[StoredMatrix], kind: str) -> Weights[StoredMatrix]:
    """Return the weights with their matrices quantised.

    Raises ParameterError for an unknown type, for weights that are quantised already, and if there is no
    matrix whose rows are whole blocks.
    """
    if kind not in QUANTIZATIONS:
        raise _error(kind, f"must be None or one of {', '.join(map(repr, QUANTIZATIONS))}")
    blocks = tuple(_block(block, kind) for block in weights.blocks)
    changed = weights._replace(blocks=blocks, head=_matrix(weights.head, "q8_0", kind))
    if not any(isinstance(matrix.parts[0].tensor, QuantisedTensor) for matrix in _matrices(changed)):
        raise _error(kind, f"needs a matrix whose rows are a multiple of {BLOCK_SIZE} numbers; this model has none")
    return changed


def _matrices(weights: Weights[StoredMatrix]) -> list[StoredMatrix]:
    found = [matrix for block in weights.blocks for matrix in (block.qkv, block.output, block.up, block.down)]
    return [*found, weights.head]


def _block(block: Block[StoredMatrix], kind: str) -> Block[StoredMatrix]:
    qkv, output, up, down = (_matrix(matrix, kind, kind) for matrix in (block.qkv, block.output, block.up, block.down))
    return Block(qkv, output, up, down, block.norms)


def _matrix(matrix: StoredMatrix, kind: str, asked_for: str) -> StoredMatrix:
    """Return a matrix whose parts are quantised as `kind`; as it is stored if its rows are not whole blocks."""
    for part in matrix.parts:
        if part.tensor.dtype not in _FLOATS:
            raise _error(asked_for, f"must be None: {part.tensor.name} is {part.tensor.dtype} in the file already")
    if matrix.num_inputs % BLOCK_SIZE:
        return matrix
    parts = tuple(
        StoredPart(QuantisedTensor(tensor, kind, transposed=matrix.transposed), num_outputs, order)
        for tensor, num_outputs, order in matrix.parts
    )
    return matrix._replace(parts=parts, transposed=False)


def _error(kind: Any, rule: str) -> ParameterError:
    return ParameterError.single("quantization", kind, rule)
