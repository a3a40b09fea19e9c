"""Checks of single values for the whole package: integers, numbers, token ids, text.

A function here either answers a question about a value or raises ParameterError with the argument's name.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from operator import index
from typing import Any

from decoding.errors import ParameterError

INT32_MAX = 2**31 - 1
PART = 1 << 14
"""Elements of a long list, or characters of a long text, that are checked in one call that keeps the GIL (1 ms)."""


class RuleError(Exception):
    """A value breaks a rule. The text is the rule; the caller adds the parameter's name and the value."""


def to_float32(value: float) -> float:
    """Return the float32 nearest to `value`, as a float. Raise OverflowError if it is not finite."""
    rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return rounded


def is_integer(value: object) -> bool:
    """Return True for an integer of Python, numpy or another library (a torch scalar), but not for a bool."""
    if type(value) is int:
        return True
    if isinstance(value, Integral):
        return not isinstance(value, bool)
    return hasattr(value, "__index__") and hasattr(value, "dtype") and _is_index(value)


def _is_index(scalar: Any) -> bool:
    """Return True for an integer scalar of an array library."""
    try:
        return scalar.ndim == 0 and not str(scalar.dtype).endswith("bool") and isinstance(index(scalar), int)
    except (TypeError, AttributeError):
        return False


def is_real(value: object) -> bool:
    """Return True for a real number of Python, numpy or another library, but not for a bool."""
    return type(value) is float or (isinstance(value, Real) and not isinstance(value, bool))


def is_unicode(text: str) -> bool:
    """Return True if the text can be encoded, i.e. has no lone surrogates."""
    if text.isascii():
        return True
    try:
        for first in range(0, len(text), PART):
            text[first : first + PART].encode()
    except UnicodeEncodeError:
        return False
    return True


def elements_of(value: Any) -> list[Any] | None:
    """Return the elements of a sequence, an array or another iterable; None for text, bytes, mappings and scalars."""
    if isinstance(value, (str, bytes, Mapping)):
        return None
    try:
        return list(value.tolist() if hasattr(value, "tolist") else value)
    except TypeError:
        return None


def wrong_token_id(token_ids: Sequence[Any], vocab_size: int = INT32_MAX + 1) -> int | None:
    """Return the index of the first element that is not an integer from 0 to vocab_size - 1; None if all are."""
    plain = plain_token_ids(token_ids, vocab_size)
    return None if len(plain) == len(token_ids) else len(plain)


def plain_token_ids(token_ids: Sequence[Any], vocab_size: int = INT32_MAX + 1) -> list[int]:
    """Return the elements before the first that is not an integer from 0 to vocab_size - 1, as plain ints."""
    plain: list[int] = []
    for first in range(0, len(token_ids), PART):
        part = token_ids[first : first + PART]
        if set(map(type, part)) == {int} and min(part) >= 0 and max(part) < vocab_size:
            plain += part  # the usual case, without a loop in Python
            continue
        for token_id in part:
            if not is_integer(token_id) or not 0 <= token_id < vocab_size:
                return plain
            plain.append(int(token_id))
    return plain


def checked_token_ids(name: str, value: Any, vocab_size: int = INT32_MAX + 1) -> tuple[int, ...]:
    """Return token ids as plain ints. Raise ParameterError, with the index of the first element that is not one."""
    ids = elements_of(value)
    if ids is None:
        raise ParameterError.single(name, value, "must be a sequence of token ids")
    plain = plain_token_ids(ids, vocab_size)
    if len(plain) < len(ids):
        raise ParameterError.single(f"{name}[{len(plain)}]", ids[len(plain)], token_id_rule(vocab_size))
    return tuple(plain)


def checked_token_id(name: str, value: Any, vocab_size: int = INT32_MAX + 1) -> int:
    """Return one token id as a plain int. Raise ParameterError if it is not one of the vocabulary."""
    if wrong_token_id([value], vocab_size) is not None:
        raise ParameterError.single(name, value, token_id_rule(vocab_size))
    return int(value)


def token_id_rule(vocab_size: int = INT32_MAX + 1) -> str:
    """Return the rule that a token id of a vocabulary of this size obeys."""
    return f"must be a token id: an integer from 0 to {vocab_size - 1:,}"


def checked_integer(name: str, value: Any, low: int, high: int) -> int:
    """Return an integer as a plain int. Raise ParameterError if it is not an integer from low to high."""
    if not is_integer(value) or not low <= value <= high:
        raise ParameterError.single(name, value, f"must be an integer from {low:,} to {high:,}")
    return int(value)
