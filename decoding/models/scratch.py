"""Scratch: arrays for intermediate results, used again in every layer and every pass."""

from __future__ import annotations

import math

import numpy as np

from decoding.models.activations import Array

_ALIGNMENT = 64  # bytes: a line of the cache, and the widest vector


def aligned(*shape: int) -> Array:
    """An uninitialised float32 array that begins on a line of the cache.

    On those that begin elsewhere, as numpy's own do, products are up to a tenth slower.
    """
    size = 4 * math.prod(shape)
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % _ALIGNMENT
    return memory[first : first + size].view(np.float32).reshape(shape)


class Scratch:
    """Uninitialised float32 arrays by name; what an array held is lost when its name is asked for again.

    Memory that is fresh from the operating system costs more than most of what is computed in it: it is zeroed page
    by page when it is first touched. It is given back when the model goes.
    """

    def __init__(self) -> None:
        self._arrays: dict[str, Array] = {}

    def __call__(self, name: str, *shape: int) -> Array:
        """An array of this shape."""
        size = math.prod(shape)
        array = self._arrays.get(name)
        if array is None or array.size < size:
            array = self._arrays[name] = aligned(size)
        return array[:size].reshape(shape)
