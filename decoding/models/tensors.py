"""Named tensors in the files of a model, in any format: the source that weights are loaded from."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from decoding.errors import CheckpointError, shown
from decoding.models.model_file import ModelFile, check_unchanged

Shape: TypeAlias = tuple[int, ...]

_MAX_NAME = 200
_ROWS = 64  # read at a time, so that they are still in the CPU's cache when they are checked


class Tensor(ABC):
    """A tensor in its file, not read yet; indexing reads rows along the first axis as float32.

    name: in its file.
    dtype: storage type: "F32", "F16", "BF16", or the name of a quantised type.
    begin: of its bytes in the file.
    row_bytes: bytes of a row along the first axis; of a quantised vector, its whole size.
    """

    name: str
    file: ModelFile
    dtype: str
    shape: Shape
    begin: int
    row_bytes: int

    @property
    def path(self) -> Path:
        """The file."""
        return self.file.path

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensor as it is stored."""
        return self.shape[0] * self.row_bytes

    def stored(self, index: slice | NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        """Return rows along the first axis as they are stored, uint8 [rows, bytes per row]."""
        return self.file.rows(self.begin, self.row_bytes, self.shape[0], index)

    def stored_columns(self, columns: slice) -> NDArray[np.uint8]:
        """Return columns of a matrix of plain numbers as they are stored, uint8 [rows, bytes]."""
        size = self.row_bytes // self.shape[1]
        place = slice(columns.start * size, columns.stop * size)
        return self.file.columns(self.begin, self.row_bytes, self.shape[0], place)

    @abstractmethod
    def __getitem__(self, index: slice | NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Return rows along the first axis (numbers of a vector), in memory of their own."""

    def is_finite(self, rows: slice) -> bool:
        """Return True if no number of these rows is NaN or infinite."""
        values = self[rows]
        return bool(np.isfinite(values.min()) and np.isfinite(values.max()))  # both pass NaN on

    def require_finite(self, rows: slice) -> None:
        """Raise CheckpointError if a number of these rows is NaN or infinite."""
        for first in range(rows.start, rows.stop, _ROWS):
            if not self.is_finite(slice(first, min(first + _ROWS, rows.stop))):
                raise self.error("has values that are NaN or infinite")

    def read(self) -> NDArray[np.float32]:
        """Return the whole tensor; CheckpointError if a value is not finite or there is not the memory."""
        require_memory(4 * int(np.prod(self.shape, dtype=object)), self)
        self.require_finite(slice(0, self.shape[0]))
        return self[slice(0, self.shape[0])]

    def error(self, rule: str) -> CheckpointError:
        """Return the error that says that this tensor breaks `rule`."""
        return CheckpointError(self.path, label(self.name), rule)


class TensorSource:
    """The tensors of a model by name, from one file or several.

    Opening a source reads headers only. `check` compares names, shapes and types with those of the architecture,
    so that no allocation depends on unchecked values of a config.
    """

    folder: Path
    files: tuple[Path, ...]
    _tensors: dict[str, Tensor]

    def check(
        self, expected: Iterable[tuple[str, Shape]], optional: Mapping[str, Shape], harmless: re.Pattern[str]
    ) -> None:
        """Raise CheckpointError unless the stored tensors are the expected (name, shape) pairs and no others.

        Tensors in `optional` may be there as well; tensors whose name matches `harmless` are ignored. `expected`
        may be lazy: the first missing tensor ends the iteration. The error names file, tensor and rule.
        """
        names = set()
        for name, shape in expected:
            if name not in self._tensors:
                raise CheckpointError(self.files[0], name, "is missing; the config asks for it")
            self._check_tensor(self._tensors[name], shape)
            names.add(name)
        for name in sorted(self._tensors.keys() - names):
            if name in optional:
                self._check_tensor(self._tensors[name], optional[name])
            elif not harmless.search(name):
                raise self._tensors[name].error("is not a tensor of this architecture and config")

    def _check_tensor(self, tensor: Tensor, shape: Shape) -> None:
        if tensor.shape != shape:
            raise tensor.error(f"has shape {list(tensor.shape)}; the config asks for {list(shape)}")

    def check_unchanged(self) -> None:
        """Raise CheckpointError if a file has changed since it was opened, because tensors may be of two models."""
        for file in {tensor.file for tensor in self._tensors.values()}:
            check_unchanged(file.path, file.signature)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]


def require_memory(num_bytes: int, tensor: Tensor) -> None:
    """Raise CheckpointError if the machine has less memory, whatever a sparse file claims."""
    if num_bytes > physical_memory():
        raise tensor.error(f"needs {num_bytes:,} bytes of memory, more than this machine has")


def physical_memory() -> int:
    """Return the machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def label(name: str) -> str:
    """Return a tensor's name as errors show it: as it is, if it is short and printable."""
    return name if name.isprintable() and len(name) <= _MAX_NAME else shown(name)
