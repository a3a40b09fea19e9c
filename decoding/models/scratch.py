"""Memory: Scratch for intermediate results, used again in every layer and every pass, and Arena for weights."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from decoding.models.activations import Array

_ALIGNMENT = 64  # bytes: a line of the cache, and the widest vector
_HUGE_PAGE = 1 << 21
_BLOCK = 16 * _HUGE_PAGE


def aligned(*shape: int) -> Array:
    """An uninitialised float32 array that begins on a line of the cache.

    On those that begin elsewhere, as numpy's own do, products are up to a tenth slower.
    """
    size = 4 * math.prod(shape)
    return _memory(size, _ALIGNMENT).view(np.float32).reshape(shape)


def _memory(size: int, alignment: int) -> NDArray[np.uint8]:
    memory = np.empty(size + alignment, np.uint8)
    first = -memory.ctypes.data % alignment
    return memory[first : first + size]


class Arena:
    """Aligned arrays one after another in large blocks, which numpy asks the operating system to put on huge pages.

    Small matrices in pages of their own, of 4 kB, are read up to a tenth slower: each page has to be looked up.
    """

    def __init__(self) -> None:
        self._free = np.empty(0, np.uint8)

    def __call__(self, *shape: int) -> Array:
        """An uninitialised float32 array of this shape."""
        size = 4 * math.prod(shape)
        if size > len(self._free):
            self._free = _memory(max(size, _BLOCK), _HUGE_PAGE)
        array = self._free[:size].view(np.float32).reshape(shape)
        self._free = self._free[size + -size % _ALIGNMENT :]
        return array


class Scratch:
    """Uninitialised float32 arrays by name; what an array held is lost when its name is asked for again.

    Memory that is fresh from the operating system costs more than most of what is computed in it: it is zeroed page
    by page when it is first touched. It is given back when the model goes.
    """

    def __init__(self) -> None:
        self._arrays: dict[str, Array] = {}
        self._views: dict[str, Array] = {}  # what was last asked for under each name: mostly what is asked for next

    def __call__(self, name: str, *shape: int) -> Array:
        """An array of this shape."""
        view = self._views.get(name)
        if view is not None and view.shape == shape:
            return view
        size = math.prod(shape)
        array = self._arrays.get(name)
        if array is None or array.size < size:
            before = 0 if array is None else array.size
            array = self._arrays[name] = aligned(max(size, 2 * before))  # what grows once grows at every step
        view = self._views[name] = array[:size].reshape(shape)
        return view
