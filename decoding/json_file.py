"""Reading the JSON files of a model folder, which may be anything: huge, cut off, nested a million deep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_MAX_BYTES = 1 << 28  # an index of 100,000 tensors has 10 MB


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in the file at `path`.

    Raises ValueError whose text is the rule that the file breaks; the caller adds the path and its own error
    type.
    """
    data = _read(path)
    try:
        value = json.loads(data)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"must be a JSON object, not {type(value).__name__}")
    return value


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise ValueError("must be a regular file")
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"must have at most {_MAX_BYTES:,} bytes")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None
