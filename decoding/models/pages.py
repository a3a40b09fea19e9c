"""Pages: a large array that takes memory where it is written to, and gives it back where it is told to."""

from __future__ import annotations

import math
import mmap

import numpy as np

from decoding.models.activations import Array

_FLAGS = getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANONYMOUS", 0) | getattr(mmap, "MAP_NORESERVE", 0)
_PER_PAGE = mmap.PAGESIZE // 4


class Pages:
    """A float32 array of zeros in memory of its own, page by page: address space costs nothing.

    A page (4 KiB on most machines) is taken when it is first written to. Where the system cannot take pages back
    (there is no madvise), `release` writes zeros and the memory stays.
    """

    def __init__(self, *shape: int) -> None:
        size = max(1, 4 * math.prod(shape))
        self._map = mmap.mmap(-1, size, flags=_FLAGS) if _FLAGS else mmap.mmap(-1, size)
        if hasattr(mmap, "MADV_NOHUGEPAGE"):  # a page of 2 MB would take memory for many sequences at once
            self._map.madvise(mmap.MADV_NOHUGEPAGE)
        self.array: Array = np.frombuffer(self._map, np.float32, math.prod(shape)).reshape(shape)

    @staticmethod
    def whole_pages(count: int, size: int) -> int:
        """The least count of rows of `size` numbers, `count` at least, that fills whole pages."""
        unit = _PER_PAGE // math.gcd(_PER_PAGE, size)
        return -(-count // unit) * unit

    def page_end(self, number: int) -> int:
        """Where the page ends that has the number before `number`."""
        return -(-number // _PER_PAGE) * _PER_PAGE

    def release(self, first: int, after: int) -> None:
        """Zero the numbers from `first` to `after`, counted through the whole array, and give back their pages."""
        flat = self.array.reshape(-1)
        first_page, after_page = -(-first // _PER_PAGE), after // _PER_PAGE
        if not hasattr(mmap, "MADV_DONTNEED") or first_page >= after_page:
            flat[first:after] = 0.0
            return
        flat[first : first_page * _PER_PAGE] = 0.0
        flat[after_page * _PER_PAGE : after] = 0.0
        self._map.madvise(mmap.MADV_DONTNEED, first_page * mmap.PAGESIZE, (after_page - first_page) * mmap.PAGESIZE)
