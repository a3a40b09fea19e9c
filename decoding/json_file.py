"""Read the JSON files of a model folder, which may be hostile: huge, cut off, nested a million deep.

Parsed JSON takes up to a hundred times the memory of its text, so both are bounded: the bytes, and the values.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from decoding.errors import shown

_MAX_BYTES = 1 << 24  # an index of 100,000 tensors has 10 MB
_MAX_VALUES = 1 << 19  # ... and 100,000 values, the header of 60,000 tensors half a million


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in the file at `path`.

    Raise ValueError whose text is the rule that the file breaks; the caller adds the path and its own error type.
    """
    return parse_json_object(read_regular_file(path, _MAX_BYTES))


def parse_json_object(data: bytes) -> dict[str, Any]:
    """Return the JSON object in `data`. Raise ValueError with the rule that it breaks, such as a repeated name.

    NaN and Infinity count as numbers: published configs have them.
    """
    check_num_values(data, _MAX_VALUES)
    try:
        value = json.loads(data, object_pairs_hook=_object_of)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except _RepeatedNameError:
        raise
    except ValueError as error:
        raise ValueError(f"is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"must be a JSON object, not {type(value).__name__}")
    return value


def read_regular_file(path: Path, max_bytes: int) -> bytes:
    """Return all bytes of a regular file. Raise ValueError for anything else, or a file that is too large."""
    try:
        if not path.is_file():
            raise ValueError("must be a regular file")
        if path.stat().st_size > max_bytes:
            raise ValueError(f"must have at most {max_bytes:,} bytes")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None


def check_num_values(data: bytes, max_values: int) -> None:
    """Raise ValueError if JSON text may hold more values than `max_values`, by its commas and brackets."""
    if sum(data.count(mark) for mark in (b",", b"[", b"{")) > max_values:
        raise ValueError(f"must have at most {max_values:,} values")


class _RepeatedNameError(ValueError):
    """A name that an object has twice."""


def repeated_name(pairs: list[tuple[str, Any]]) -> str | None:
    """Return a name that is more than once in the pairs of a JSON object; None if there is none."""
    counts = Counter(name for name, _ in pairs)
    return counts.most_common(1)[0][0] if len(counts) < len(pairs) else None


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    repeated = repeated_name(pairs)
    if repeated is not None:
        raise _RepeatedNameError(f"has the name {shown(repeated)} twice in one object")
    return dict(pairs)
