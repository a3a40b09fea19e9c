"""Parse long JSON in parts of some thousand characters, so that other threads get the GIL in between.

json.loads keeps the GIL from the first character to the last, however long the text is. Here the standard library
parses short parts of the text, and Python code joins their values. A part of an array ends at a comma. If it is an
array by itself, once it is in brackets, then its values are the next values of the array, wherever that comma was
found: if it was inside a string or an inner value, the part in brackets is not JSON. The same holds for the members of
objects.

The error of a text that is not JSON is that of json.loads, which is given the text from the last good value on, behind
the brackets that are open there. A text that cannot be cut well is parsed as a whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

Hooks = dict[str, Any]
"""Keyword arguments of json.loads."""

_PART = 1 << 14
_STRING_PART = 1 << 16
_MAX_DEPTH = 8
_STEP = 64
"""Characters that the standard library parses in the time of one step here."""
_SPACE = re.compile(r"[ \t\n\r]*")
_CLOSERS = {"[": "],", "{": "},", '"': '",'}


class _UncutError(Exception):
    """The text cannot be parsed in parts, or not without much more work."""


def loads_in_parts(text: str, hooks: Hooks, between_parts: Callable[[], None] = lambda: None) -> Any:
    """Return `json.loads(text, **hooks)`, or raise its error. Call `between_parts` before each part of a long text.

    object_pairs_hook, which must be among the hooks, returns dict(pairs) unless a name is repeated. Only the depth at
    which nested values raise RecursionError may differ by a few levels.
    """
    if len(text) > _PART:
        walk = _Text(text, hooks, between_parts)
        try:
            return walk.document()
        except ValueError:
            error = walk.error()
        except (_UncutError, RecursionError):
            error = None
        if error is not None:
            raise error
    return json.loads(text, **hooks)


class _Text:
    """A JSON text that is walked from its start.

    Positions are indices of characters. A method that reads something returns its value and the position behind it.
    """

    def __init__(self, text: str, hooks: Hooks, between_parts: Callable[[], None]) -> None:
        self._text = text
        self._between_parts = between_parts
        self._decoder = json.JSONDecoder(**hooks)
        self._budget = len(text) // 16 + 2 * _PART
        self._open: list[str] = []
        self._last = ""
        self._last_end = 0

    def document(self) -> Any:
        """Return the value of the text. Raise ValueError if it is not JSON."""
        value, end = self._value(self._after_space(0), 0)
        self._settle("[]", end)
        if self._after_space(end) != len(self._text):
            raise ValueError("extra data")
        return value

    def error(self) -> json.JSONDecodeError | None:
        """Return the error of json.loads after `document` has raised ValueError; None if it is not to be found."""
        outer = "".join("[" if bracket == "[" else '{"":' for bracket in self._open[:-1])
        before = outer + "".join(self._open[-1:]) + self._last
        if not before:
            return None
        try:
            self._decoder.decode(before + self._text[self._last_end :])
        except json.JSONDecodeError as error:
            return json.JSONDecodeError(error.msg, self._text, error.pos - len(before) + self._last_end)
        except (ValueError, RecursionError):
            pass
        return None

    def _enter(self, bracket: str, position: int) -> None:
        """Note that an array or an object is open, whose first element or member begins at a position."""
        self._open.append(bracket)
        self._settle("", position)

    def _settle(self, last: str, position: int) -> None:
        """Set the end of the last complete value, and the text that replaces it when `error` parses the rest."""
        self._last, self._last_end = last, position

    def _value(self, start: int, depth: int) -> tuple[Any, int]:
        first = self._text[start : start + 1]
        if first == '"':
            return self._string(start)
        if first in ("[", "{") and depth < _MAX_DEPTH:
            return self._array(start + 1, depth) if first == "[" else self._object(start + 1, depth)
        return self._decoder.raw_decode(self._text, start)

    def _array(self, position: int, depth: int) -> tuple[list[Any], int]:
        values: list[Any] = []
        self._enter("[", position)
        position = self._after_space(position)
        if self._text.startswith("]", position):
            self._open.pop()
            return values, position + 1
        size = _PART
        while True:
            position = self._after_space(position)
            cut = self._element_cut(position, size)
            part = self._part("[", position, cut, "]")
            if part:
                values += part
                position = cut
                size = min(2 * size, _PART)
            else:
                value, position = self._value(position, depth + 1)
                values.append(value)
                size = max(size // 4, _STEP)
            self._settle("[]", position)
            position, is_end = self._after_mark(position, "]")
            if is_end:
                return values, position

    def _object(self, position: int, depth: int) -> tuple[dict[str, Any], int]:
        members: dict[str, Any] = {}
        num_members, size = 0, _PART
        self._enter("{", position)
        position = self._after_space(position)
        if self._text.startswith("}", position):
            self._open.pop()
            return members, position + 1
        while True:
            position = self._after_space(position)
            cut = self._member_cut(position, size)
            part = self._part("{", position, cut, "}")
            if part:
                position = cut
                size = min(2 * size, _PART)
            else:
                name, value, position = self._member(position, depth)
                part = {name: value}
                size = max(size // 4, _STEP)
            members.update(part)
            num_members += len(part)
            if len(members) < num_members:  # a name is repeated
                raise _UncutError
            self._settle('"":[]', position)
            position, is_end = self._after_mark(position, "}")
            if is_end:
                return members, position

    def _member(self, position: int, depth: int) -> tuple[str, Any, int]:
        if not self._text.startswith('"', position):
            raise ValueError("no name")
        name, position = self._string(position)
        position = self._after_space(position)
        if not self._text.startswith(":", position):
            raise ValueError("no colon")
        value, position = self._value(self._after_space(position + 1), depth + 1)
        return name, value, position

    def _string(self, start: int) -> tuple[str, int]:
        text, position = self._text, start + 1
        quote = text.find('"', position, position + _STRING_PART)
        if quote >= 0 and text[quote - 1] != "\\":
            return self._decoder.raw_decode(text, start)
        pieces: list[str] = []
        while True:
            self._between_parts()
            cut = self._string_cut(position)
            piece, num_read = self._decoder.raw_decode(f'"{text[position:cut]}"')
            if num_read < cut - position + 2:  # the string's own quote came first
                return "".join([*pieces, piece]), position + num_read - 1
            if cut == len(text):
                raise ValueError("no closing quote")
            if "\ud800" <= piece[-1] <= "\udbff":  # an escape, which may be the first of a pair
                piece, cut = piece[:-1], cut - len(r"\ud800")
            pieces.append(piece)
            position = cut

    def _string_cut(self, start: int) -> int:
        """Return a position that is not inside an escape."""
        cut = start + _STRING_PART
        if cut >= len(self._text):
            return len(self._text)
        last = self._text.rfind("\\", cut - len(r"\ud800"), cut)
        if last < 0:
            return cut
        before = self._text[start : last + 1]
        num_backslashes = len(before) - len(before.rstrip("\\"))
        return last + 1 - num_backslashes % 2

    def _element_cut(self, start: int, size: int) -> int:
        """Return a position behind elements of an array, probably, at most `size` on; `start` if none is seen."""
        text, end = self._text, start + size
        closer = _CLOSERS.get(text[start : start + 1])
        if closer is None:
            for mark in ('"', "[", "{", "]"):
                found = text.find(mark, start, end)
                end = end if found < 0 else found
            return end if text.startswith("]", end) else max(start, text.rfind(",", start, end))
        cut = text.rfind(closer, start, end)
        while cut > 0 and text[cut - 1] == "\\":
            cut = text.rfind(closer, start, cut)
        return max(start, cut + 1)

    def _member_cut(self, start: int, size: int) -> int:
        """Return a position behind members of an object, probably, at most `size` on; `start` if none is seen."""
        end = start + size
        for mark in "[{":
            found = self._text.find(mark, start, end)
            end = end if found < 0 else found
        return max(start, *(self._text.rfind(mark, start, end) for mark in (', "', ',"')))

    def _part(self, opener: str, start: int, end: int, closer: str) -> Any:
        """Return the values from start to end as an array or a dict; None if they are not whole values."""
        self._spend(_STEP)
        if start == end:
            return None
        self._between_parts()
        try:
            part = self._decoder.decode(opener + self._text[start:end] + closer)
        except json.JSONDecodeError:
            self._spend(end - start)
            return None
        if not isinstance(part, list | dict):  # a name is repeated
            raise _UncutError
        return part

    def _spend(self, num_chars: int) -> None:
        """Bound the work that parsing the text as a whole would not have."""
        self._budget -= num_chars
        if self._budget < 0:
            raise _UncutError

    def _after_mark(self, position: int, closer: str) -> tuple[int, bool]:
        """Read a comma or the closing bracket; return the position behind it, and True for the bracket."""
        position = self._after_space(position)
        mark = self._text[position : position + 1]
        if mark not in (",", closer):
            raise ValueError("no comma")
        if mark == closer:
            self._open.pop()
        return position + 1, mark == closer

    def _after_space(self, position: int) -> int:
        match = _SPACE.match(self._text, position)
        return position if match is None else match.end()
