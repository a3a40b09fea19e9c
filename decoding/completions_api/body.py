"""Parse JSON bodies of requests: strictly, within bounds, and so that an error can name the field."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from typing import Any

from decoding.completions_api.errors import ApiError, given_name
from decoding.completions_api.json_parts import Hooks, loads_in_parts
from decoding.completions_api.settings import Limits
from decoding.errors import shown
from decoding.json_file import repeated_name

_MAX_VALUES = Limits().json_values
_MOST_DIGITS = 4000
_PART = 1 << 18
"""Bytes that are decoded, or whose marks are counted, in one call that keeps the GIL (a millisecond)."""


class HugeInteger:
    """Stands for an integer with more digits than Python reads. No domain accepts it, so its field is named."""

    def __init__(self, digits: str) -> None:
        self._num_digits = len(digits.lstrip("-"))

    def __repr__(self) -> str:
        return f"<an integer of {self._num_digits} digits>"


class NotJson:
    """Stands for NaN, Infinity or -Infinity, which JSON does not have. No domain accepts it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


class RepeatedName:
    """Stands for an object with a name twice, which is ambiguous. No domain accepts it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return "<an object with a name twice>"


def parse_object(
    data: bytes, max_values: int = _MAX_VALUES, between_parts: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Return the JSON object in a request's body, which is UTF-8 and has at most `max_values` values.

    between_parts: called before each part of a long body, of which there is one in about 16,000 characters.

    A byte order mark at its start is left out.

    Values that no field can take (NaN, 6,000 digits, an object with a name twice) become objects of their own type, so
    that the field's check names the field. Raise ApiError (400) for everything else that is wrong.
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        _check_num_values(data, max_values)
        value = _parse(_decoded(data), between_parts)
    except UnicodeDecodeError as error:
        raise _invalid_json(f"must be UTF-8 (byte {error.start} is not)") from None
    except RecursionError:
        raise _invalid_json("is nested too deeply") from None
    except ValueError as error:
        raise _invalid_json(str(error)) from None
    if isinstance(value, RepeatedName):
        raise _invalid_json(f"has the name {shown(value.name)} twice in one object", given_name(value.name))
    if not isinstance(value, dict):
        raise _invalid_json(f"must be a JSON object, not {_kind(value)}")
    return value


def _check_num_values(data: bytes, max_values: int) -> None:
    """Raise ValueError if JSON has more values, before each takes a hundred times the memory of its text."""
    if sum(_num_marks(data, first, first + _PART) for first in range(0, len(data), _PART)) <= max_values:
        return
    num_quotes = num_marks = 0
    rest = b""
    for first in range(0, len(data), _PART):
        part = rest + data[first : first + _PART]
        cut = len(part) - (len(part) - len(part.rstrip(b"\\"))) % 2  # not inside an escape
        part, rest = part[:cut], part[cut:]
        plain = part.replace(b"\\\\", b"").replace(b'\\"', b"")  # the quotes that are left begin and end strings
        between = plain.split(b'"')
        num_marks += sum(_num_marks(one) for one in between[num_quotes % 2 :: 2])
        num_quotes += len(between) - 1
        if num_quotes > 4 * max_values or num_marks > max_values:
            raise ValueError(f"must have at most {max_values:,} values")


def _num_marks(data: bytes, first: int = 0, end: int | None = None) -> int:
    """Count the bytes that precede values, including such bytes within strings."""
    return sum(data.count(mark, first, end) for mark in (b",", b"[", b"{"))


def _decoded(data: bytes) -> str:
    """Return `data.decode()`, made in parts if it is long."""
    if len(data) <= _PART:
        return data.decode()
    decoder = codecs.getincrementaldecoder("utf-8")()
    starts = range(0, len(data), _PART)
    try:
        return "".join([decoder.decode(data[first : first + _PART], first == starts[-1]) for first in starts])
    except UnicodeDecodeError:
        return data.decode()  # whose error has the position in all of the data


def _parse(text: str, between_parts: Callable[[], None]) -> Any:
    try:
        return loads_in_parts(text, _HOOKS, between_parts)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not valid JSON ({error})") from None
    except ValueError:  # more digits than int() takes; a hook for every integer would be too slow for the others
        return json.loads(text, **_HOOKS, parse_int=_integer)


def _integer(digits: str) -> int | HugeInteger:
    return int(digits) if len(digits) <= _MOST_DIGITS else HugeInteger(digits)


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any] | RepeatedName:
    repeated = repeated_name(pairs)
    return dict(pairs) if repeated is None else RepeatedName(repeated)


_HOOKS: Hooks = {"object_pairs_hook": _object_of, "parse_constant": NotJson}


def contains_not_json(value: Any) -> bool:
    """Return True if a value, at any depth, has something that no field can take."""
    open_values = [value]
    while open_values:
        one = open_values.pop()
        if isinstance(one, NotJson | HugeInteger | RepeatedName):
            return True
        if isinstance(one, dict):
            open_values += one.values()
        elif isinstance(one, list):
            open_values += one
    return False


def _kind(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _invalid_json(rule: str, param: str | None = None) -> ApiError:
    return ApiError(400, f"body: {rule}", param=param, code="invalid_json")
