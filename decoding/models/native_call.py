"""Calls into the compiled forward pass: their status, and memory that they read and write."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from decoding.errors import KernelError
from decoding.sampling.kernel.library import ffi, lib, status_message

_ALIGNMENT = 64


def check(status: int) -> None:
    """Raise KernelError if the status of a call is not DECODING_OK."""
    if status != lib.DECODING_OK:
        raise KernelError(f"the native forward pass refused its arguments: {status_message(status)}")


def aligned_bytes(size: int) -> NDArray[np.uint8]:
    """Return an uninitialised array of `size` bytes that begins at a multiple of 64 bytes."""
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    offset = -memory.ctypes.data % _ALIGNMENT
    return memory[offset : offset + size]


def pointer(array: NDArray[Any] | None, c_type: str) -> Any:
    """Return a pointer to the first element of a contiguous array; null for None."""
    return ffi.NULL if array is None else ffi.from_buffer(f"{c_type}[]", array)  # faster than array.ctypes
