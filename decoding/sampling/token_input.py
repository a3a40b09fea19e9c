"""Token ids and grammar masks from callers, as objects of Python, numpy and torch."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decoding.errors import LogitsError, ParameterError
from decoding.sampling import dlpack
from decoding.validation import INT32_MAX, PART, checked_token_ids

_MASK_RULES = {
    1: "must be a contiguous one-dimensional uint32 or int32 array, or None",
    2: "must be a two-dimensional uint32 or int32 array with contiguous rows, one mask per row of logits, or None",
}


def checked_prompt(name: str, value: Any) -> tuple[tuple[int, ...], NDArray[np.int32]]:
    """Return token ids as plain ints and as int32. Raise ParameterError naming the first that is not a token id."""
    is_vector = isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "iu" and len(value) > 0
    if is_vector and value.min() >= 0 and value.max() <= INT32_MAX:
        return tuple(value.tolist()), value.astype(np.int32)
    if isinstance(value, (list, tuple)) and value:
        numbers = _as_int32(value)
        if numbers is not None and numbers.min() >= 0:
            return tuple(value), numbers
    ids = checked_token_ids(name, value)  # slower, and names what is wrong
    return ids, np.frombuffer(array("i", ids), np.int32)


def _as_int32(ids: list[Any] | tuple[Any, ...]) -> NDArray[np.int32] | None:
    """Return plain ints as int32; None if one does not fit, or has another type."""
    numbers = array("i")
    for first in range(0, len(ids), PART):
        part = ids[first : first + PART]
        if set(map(type, part)) != {int}:
            return None
        try:
            numbers.extend(part)
        except OverflowError:
            return None
    return np.frombuffer(numbers, np.int32)


def mask_of(name: str, words: Any, ndim: int) -> NDArray[np.uint32]:
    """Return a mask over the same memory as uint32. Raise ParameterError if it has another number of axes."""
    try:
        mask = words if isinstance(words, np.ndarray) else dlpack.array_of(words)
    except LogitsError as error:
        raise ParameterError.single(name, words, f"{_MASK_RULES[ndim]} ({error})") from None
    is_mask = mask.dtype in (np.uint32, np.int32) and mask.ndim == ndim
    if not is_mask or (mask.size and mask.strides[-1] != mask.itemsize) or (ndim == 1 and not mask.flags.c_contiguous):
        raise ParameterError.single(name, words, _MASK_RULES[ndim])
    return mask.view(np.uint32)
