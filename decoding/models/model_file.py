"""A file of a model, read by copying: nothing stays mapped, so later changes of the file do no harm."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from decoding.errors import CheckpointError

_MAX_SPAN = 4
"""Separate rows are read at once if that reads at most this many times their bytes."""


class Signature(NamedTuple):
    """The state of a file by its metadata. If it differs, the content may differ, too."""

    device: int
    inode: int
    num_bytes: int
    modified: int

    @classmethod
    def of(cls, path: Path) -> Signature:
        """Return the signature of the file at a path; CheckpointError if there is none."""
        try:
            return cls._of(path.stat())
        except OSError as error:
            raise CheckpointError(path, None, f"no longer exists ({error.strerror})") from None

    @classmethod
    def of_open_file(cls, descriptor: int) -> Signature:
        """Return the signature of an open file."""
        return cls._of(os.fstat(descriptor))

    @classmethod
    def _of(cls, status: os.stat_result) -> Signature:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def check_unchanged(path: Path, signature: Signature) -> None:
    """Raise CheckpointError if the file at a path is not, or not any more, the one with this signature."""
    if Signature.of(path) != signature:
        raise CheckpointError(path, None, "was changed after it had been opened; the model must be loaded again")


class ModelFile:
    """An open file. num_bytes: its size when it was opened; reading beyond a later, smaller size is an error."""

    def __init__(self, path: Path) -> None:
        """Open the file; OSError if it cannot be read, ValueError if it is empty."""
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._close = weakref.finalize(self, os.close, self._descriptor)
        self.signature = Signature.of_open_file(self._descriptor)
        self.num_bytes = self.signature.num_bytes
        if not self.num_bytes:
            raise ValueError("is empty")

    def read(self, begin: int, end: int) -> NDArray[np.uint8]:
        """Return the bytes from `begin` to `end`; CheckpointError if the file ends before."""
        data = np.empty(end - begin, np.uint8)
        self.read_into(data, begin)
        return data

    def read_into(self, data: NDArray[np.uint8], begin: int) -> None:
        """Fill contiguous memory with the bytes from `begin` on; CheckpointError if the file ends before."""
        room, done = memoryview(data), 0  # type: ignore[arg-type]  # numpy 1.26 and Python 3.11 have no stubs for it
        while done < len(room):
            num_read = os.preadv(self._descriptor, [room[done:]], begin + done)
            if num_read == 0:
                raise CheckpointError(
                    self.path, None, f"ends at byte {begin + done:,}: it was cut off after it had been opened"
                )
            done += num_read

    def rows(self, begin: int, row_bytes: int, num_rows: int, index: slice | NDArray[np.integer]) -> NDArray[np.uint8]:
        """Return rows of a table, uint8 [rows, row_bytes].

        begin: of the table in the file. row_bytes: of each row. num_rows: of the table.
        index: a slice of rows, or their numbers.
        """
        if isinstance(index, slice):
            first, after, step = index.indices(num_rows)
            if step == 1:
                after = max(first, after)
                return self.read(begin + first * row_bytes, begin + after * row_bytes).reshape(-1, row_bytes)
            index = np.arange(first, after, step)
        numbers = np.where(index < 0, index + num_rows, index)
        if not len(numbers):
            return np.empty((0, row_bytes), np.uint8)
        first, after = int(numbers.min()), int(numbers.max()) + 1
        if first < 0 or after > num_rows:
            raise IndexError(f"rows from {first} to {after - 1} of a table of {num_rows}")
        if after - first <= _MAX_SPAN * len(numbers):
            span = self.read(begin + first * row_bytes, begin + after * row_bytes).reshape(-1, row_bytes)
            chosen: NDArray[np.uint8] = span[numbers - first]
            return chosen
        rows = np.empty((len(numbers), row_bytes), np.uint8)
        for row, number in zip(rows, numbers.tolist(), strict=True):
            self.read_into(row, begin + number * row_bytes)
        return rows

    def columns(self, begin: int, row_bytes: int, num_rows: int, columns: slice) -> NDArray[np.uint8]:
        """Return a slice of the bytes of every row, uint8 [num_rows, bytes]; `columns` counts bytes."""
        found = np.empty((num_rows, columns.stop - columns.start), np.uint8)
        for number, row in enumerate(found):
            self.read_into(row, begin + number * row_bytes + columns.start)
        return found
