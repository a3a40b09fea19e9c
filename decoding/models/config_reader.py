"""ConfigFile: a JSON file of a checkpoint, each value of which is checked for its type and range."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from decoding.errors import CheckpointError, ModelNotFoundError, UnsupportedModelError, shown
from decoding.json_file import read_json_object

_MAX_INTEGER = 2**31 - 1
_MAX_REAL = float(np.finfo(np.float32).max)
_MIN_POSITIVE = float(np.finfo(np.float32).tiny)  # what is smaller loses its digits


class ConfigFile:
    """A JSON object and where it came from, with typed access.

    `defaults` are used for absent keys. A key with null counts as absent, too, except for the `optional_*` readers,
    which return None for it, whatever the default. Reading a key marks it as understood, for
    `refuse_unread` and `refuse_others`.
    """

    def __init__(self, path: Path, values: Mapping[str, Any], prefix: str = "") -> None:
        self.path = path
        self._values = values
        self._prefix = prefix
        self._defaults: Mapping[str, Any] = {}
        self._read: set[str] = set()

    @classmethod
    def read(cls, path: Path) -> ConfigFile:
        """Read `path`; ModelNotFoundError if it is missing, CheckpointError if it is not a JSON object."""
        if not os.path.lexists(path):  # a link to nowhere is there, and broken
            raise ModelNotFoundError(f"{path.parent}: no {path.name} in this folder")
        try:
            return cls(path, read_json_object(path))
        except ValueError as error:
            raise CheckpointError(path, None, str(error)) from None

    def with_defaults(self, **defaults: Any) -> ConfigFile:
        """Return this file with default values for keys that it does not have."""
        self._defaults = defaults
        return self

    def error(self, key: str, rule: str) -> CheckpointError:
        """Return the error that says that this file's `key` breaks `rule`."""
        name = self._prefix + key
        value = self._values.get(key)
        return CheckpointError(self.path, name if value is None else f"{name}={shown(value)}", rule)

    def unsupported(self, key: str, rule: str) -> UnsupportedModelError:
        """Return the error that says that this file's `key` needs a feature that is not implemented."""
        return UnsupportedModelError(f"{self.path}: {self._prefix}{key}={shown(self._values.get(key))}: {rule}")

    def get(self, key: str) -> Any:
        """Return the value in the file, unchecked; None if it is absent or null."""
        self._read.add(key)
        return self._values.get(key)

    def says(self, key: str) -> bool:
        """Return True if the file has a value for `key` that is not null."""
        return self.get(key) is not None

    def has(self, key: str) -> bool:
        """Return True if the file or its defaults have a value for `key` that is not null."""
        return self.says(key) or self._defaults.get(key) is not None

    def integer(self, key: str, default: int | None = None, *, least: int = 1, most: int = _MAX_INTEGER) -> int:
        """Return an integer from `least` to `most`; without a default the key must be there."""
        value = self._value(key, default)
        if type(value) is not int or not least <= value <= most:
            raise self.error(key, f"must be an integer from {least} to {most:,}")
        return value

    def optional_integer(self, key: str) -> int | None:
        """Return the integer, or None if the file has null, or neither the key nor a default for it."""
        return None if self._says_none(key) else self.integer(key)

    def real(self, key: str, default: float | None = None) -> float:
        """Return a finite number that float32 can hold."""
        value = self._value(key, default)
        if type(value) not in (int, float) or not abs(value) <= _MAX_REAL:
            raise self.error(key, "must be a finite number (in float32)")
        return float(value)

    def positive_real(self, key: str, default: float | None = None) -> float:
        """Return a finite number above 0 that float32 can hold."""
        value = self._value(key, default)
        if not _is_positive(value):
            raise self.error(key, "must be a finite number above 0 (in float32)")
        return float(value)

    def optional_positive_real(self, key: str) -> float | None:
        """Return the number, or None if the file has null, or neither the key nor a default for it."""
        return None if self._says_none(key) else self.positive_real(key)

    def boolean(self, key: str, default: bool | None = None) -> bool:
        """Return True or False."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self.error(key, "must be true or false")
        return value

    def string(self, key: str, default: str | None = None) -> str:
        """Return a string; without a default the key must be there."""
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self.error(key, "must be a string")
        return value

    def choice(self, key: str, known: Iterable[str], default: str | None = None) -> str:
        """Return a string that is one of `known`; UnsupportedModelError for any other."""
        value = self.string(key, default)
        if value not in known:
            raise self.unsupported(key, f"must be one of {', '.join(map(repr, sorted(known)))}")
        return value

    def mapping(self, key: str) -> dict[str, Any]:
        """Return the JSON object under `key`; an empty one if it is absent."""
        value = self._value(key, {})
        if not isinstance(value, dict):
            raise self.error(key, "must be a JSON object")
        return value

    def section(self, key: str) -> ConfigFile:
        """Return a section of the file as a ConfigFile, whose errors name `key` too."""
        return ConfigFile(self.path, self.mapping(key), f"{self._prefix}{key}.")

    def strings(self, key: str) -> list[str] | None:
        """Return a list of strings; None if the key is absent."""
        value = self.get(key)
        if value is not None and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            raise self.error(key, "must be a list of strings")
        return value

    def positive_reals(self, key: str, length: int) -> tuple[float, ...]:
        """Return a list of `length` finite numbers above 0."""
        values = self._value(key, None)
        if not isinstance(values, list) or len(values) != length or not all(map(_is_positive, values)):
            raise self.error(key, f"must be a list of {length} finite numbers above 0 (in float32)")
        return tuple(map(float, values))

    def token_ids(self, key: str, vocab_size: int, unasked: Collection[int] = ()) -> tuple[int, ...]:
        """Return one id or a list of ids, each below `vocab_size`, as a tuple; () if the key is absent.

        One of `unasked` that is not below it counts as absent, too.
        """
        value = self._value(key, [])
        if type(value) is int and value >= vocab_size and value in unasked:
            return ()
        ids = value if isinstance(value, list) else [value]
        if not all(type(token_id) is int and 0 <= token_id < vocab_size for token_id in ids):
            raise self.error(key, f"must be a token id, or a list of them, from 0 to vocab_size-1={vocab_size - 1}")
        return tuple(dict.fromkeys(ids))

    def refuse_unread(self, neutral: Mapping[str, tuple[Any, ...]]) -> None:
        """Raise UnsupportedModelError if an unread key of `neutral` has a value that would change the result.

        `neutral` maps keys that change the result of some architecture to the values that change nothing (null never
        does).
        """
        for key in sorted(neutral.keys() - self._read):
            value = self._values.get(key)
            if value is not None and value not in neutral[key]:
                raise self.unsupported(key, "is not implemented for this model_type")

    def refuse_others(self, harmless: Mapping[str, tuple[Any, ...]], rule: str) -> None:
        """Raise UnsupportedModelError for any unread key, unless it is null or one of its `harmless` values."""
        for key in sorted(self._values.keys() - self._read):
            value = self._values[key]
            if value is not None and value not in harmless.get(key, ()):
                raise self.unsupported(key, rule)

    def _says_none(self, key: str) -> bool:
        self._read.add(key)
        return self._values.get(key, self._defaults.get(key)) is None

    def _value(self, key: str, default: Any) -> Any:
        self._read.add(key)
        for source in (self._values, self._defaults):
            if source.get(key) is not None:
                return source[key]
        if default is None:
            raise self.error(key, "is missing")
        return default


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and _MIN_POSITIVE <= value <= _MAX_REAL
