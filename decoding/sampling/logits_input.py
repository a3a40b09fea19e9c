"""Logits from callers: numpy arrays, buffers, other libraries' tensors. All become arrays over the same memory.

Nothing is read here, and only rows whose elements are not contiguous are copied. Errors in them are raised before the
kernel sees an address.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decoding.errors import LogitsError
from decoding.sampling import dlpack, ort_value

FLOAT32, FLOAT16, BFLOAT16 = np.dtype(np.float32), np.dtype(np.float16), np.dtype(np.uint16)
"""Element types, in native byte order. numpy has no bfloat16, so its bits are passed as uint16."""

_DTYPES = (FLOAT32, FLOAT16, BFLOAT16)

_KINDS = "must be a numpy array (and not a masked one), or have the buffer protocol, __dlpack__ or __array_interface__"


def matrix_of(logits: object, vocab_size: int) -> NDArray[Any]:
    """Return the logits as an array [rows, vocab_size] of FLOAT32, FLOAT16 or BFLOAT16, each row contiguous.

    logits: [rows, vocab_size], or [vocab_size] for one row: a numpy array (of ml_dtypes.bfloat16, too), anything with
    the buffer protocol, or with DLPack or __array_interface__ and memory that the CPU can read (torch, JAX), or an
    OrtValue of onnxruntime. Rows that are not contiguous, such as a field of an array of records, are copied.
    Raises LogitsError with the rule that the logits break.
    """
    array = logits if type(logits) is np.ndarray else _array_of(logits)
    if array.dtype not in _DTYPES:
        array = _bits_of(array)
    shape = array.shape
    if len(shape) == 2 and shape[1] == vocab_size and array.flags.c_contiguous:
        return array
    if len(shape) == 1 and shape[0] == vocab_size and array.flags.c_contiguous:
        return array[None]  # [1, vocab]
    return _checked_rows(array, vocab_size)


def _checked_rows(array: NDArray[Any], vocab_size: int) -> NDArray[Any]:
    if array.ndim not in (1, 2) or array.shape[-1] != vocab_size:
        raise LogitsError(
            f"logits.shape={array.shape}: must be [rows, {vocab_size}] (vocab_size), or [{vocab_size}] for one row"
        )
    matrix = np.atleast_2d(array)  # [rows, vocab]
    if matrix.strides[1] != matrix.itemsize and vocab_size > 1 and len(matrix):
        return np.ascontiguousarray(matrix)
    if len(matrix) > 1 and 0 < abs(matrix.strides[0]) < vocab_size * matrix.itemsize:
        raise LogitsError(
            f"logits.strides={array.strides}: rows must not overlap, unless all rows are the same one (stride 0)"
        )
    return matrix


def _array_of(logits: object) -> NDArray[Any]:
    """Return an array over the memory of another object, by the first protocol that it supports."""
    if isinstance(logits, np.ndarray) and not isinstance(logits, np.ma.MaskedArray):
        return logits.view(np.ndarray)
    if isinstance(logits, np.ndarray):
        raise LogitsError(f"logits={type(logits).__name__}: {_KINDS}")
    if hasattr(logits, "__dlpack__"):
        array = _of_torch(logits)
        return dlpack.array_of(logits) if array is None else array
    if hasattr(logits, "element_type") and hasattr(logits, "data_ptr"):
        return ort_value.array_of(logits)
    try:
        buffer: object = memoryview(logits)  # type: ignore[arg-type]
    except TypeError:
        buffer = logits
        if not hasattr(logits, "__array_interface__"):
            raise LogitsError(f"logits={type(logits).__name__}: {_KINDS}") from None
    try:
        return np.asarray(buffer)
    except (ValueError, TypeError, BufferError) as error:
        raise LogitsError(f"logits={type(logits).__name__}: must describe an array ({error})") from error


def _of_torch(tensor: Any) -> NDArray[Any] | None:
    """Return an array over a torch tensor, in a fifth of the time that torch needs to export it by DLPack.

    None if torch cannot make an array of it; the error of DLPack then names the reason.
    """
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(tensor, torch.Tensor) or tensor.requires_grad:
        return None
    try:
        is_bfloat16 = tensor.dtype is torch.bfloat16
        array: NDArray[Any] = (tensor.view(torch.int16) if is_bfloat16 else tensor).numpy()
    except (RuntimeError, TypeError):
        return None
    return array.view(BFLOAT16) if is_bfloat16 else array


def _bits_of(array: NDArray[Any]) -> NDArray[Any]:
    """Return the bits of ml_dtypes.bfloat16, for which the buffer protocol has no format; other types are refused."""
    if array.dtype.name == "bfloat16":
        return array.view(BFLOAT16)
    raise LogitsError(
        f"logits.dtype={array.dtype}: must be float32, float16 or bfloat16 (or bfloat16's bits as uint16),"
        " in native byte order"
    )


def as_float32(array: NDArray[Any]) -> NDArray[np.float32]:
    """Return the values as float32, which is exact for float16 and bfloat16. float32 arrays are not copied."""
    if array.dtype == BFLOAT16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32, copy=False)
