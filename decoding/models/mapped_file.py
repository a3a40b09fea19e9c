"""A file mapped into memory: its pages are read when they are first used."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class MappedFile:
    """The bytes of a file, read-only.

    data: uint8 [file size].
    """

    def __init__(self, path: Path) -> None:
        """Map the file; OSError if it cannot be read, ValueError if it is empty."""
        self.path = path
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.data: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)

    def release(self, part: NDArray[np.uint8]) -> None:
        """Give the pages of a contiguous part back to the system, which reads them again when they are used."""
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        begin = part.ctypes.data - self.data.ctypes.data
        first = begin // mmap.PAGESIZE * mmap.PAGESIZE
        after = (begin + part.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if after > first:
            self._map.madvise(mmap.MADV_DONTNEED, first, after - first)
