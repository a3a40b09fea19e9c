"""The GGUF container, versions 2 and 3: metadata and the directory of tensors, read by pieces.

A file is a header, key-value pairs (the metadata), a directory (name, dimensions, type and offset of each tensor), and
the tensors' bytes, each at a multiple of the alignment. It may come from anywhere, so nothing in it is trusted: counts
and lengths are compared with the rest of the file before anything is allocated, and every tensor must lie inside the
file and apart from the others. Tensor bytes are not read here.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from decoding.errors import CheckpointError, shown
from decoding.models.gguf_types import OTHER_TYPES, TENSOR_TYPES, TensorType
from decoding.models.model_file import ModelFile

Bytes: TypeAlias = NDArray[np.uint8]
Value: TypeAlias = "int | float | bool | str | NDArray[Any] | list[str]"

_MAX_METADATA = 1 << 26  # bytes before the tensors; the largest known have 16 million
_MAX_KEYS = 1 << 14  # a file has about 40
_MAX_STRINGS = 3 << 18  # in all arrays; the largest vocabulary that we know of has 777,050, merges included
_MAX_TENSORS = 1 << 16
_MAX_KEY = (1 << 16) - 1  # bytes; the format's own rule, as is the next
_MAX_NAME = 64
_MAX_DIMS = 4
_MAX_ALIGNMENT = 1 << 20
_DEFAULT_ALIGNMENT = 32
_READ_AHEAD = 1 << 20  # bytes
_ALIGNMENT = "general.alignment"

_LENGTH = struct.Struct("<Q")
_BOOL, _STRING, _ARRAY = 7, 8, 9
_NUMBERS = {
    number: np.dtype(code)
    for number, code in {
        0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", _BOOL: "?", 10: "<u8", 11: "<i8", 12: "<f8"
    }.items()
}  # fmt: skip
"""Types of metadata values that have a fixed size, by their code in the file."""


class TensorInfo(NamedTuple):
    """A tensor's entry in the directory.

    shape: rows first (the file lists dimensions the other way round).
    offset: of its first byte in the file.
    """

    name: str
    kind: TensorType
    shape: tuple[int, ...]
    offset: int

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensor in the file."""
        return math.prod(self.shape[:-1]) * self.kind.row_bytes(self.shape[-1])


class Metadata(Mapping[str, Value]):
    """The key-value pairs of a file: numbers, booleans and strings; arrays as numpy arrays or lists of strings.

    Arrays of strings are decoded on each access, because decoded they take far more memory than in the file.
    """

    def __init__(self, path: Path, values: Mapping[str, Value | _Strings]) -> None:
        self.path = path
        self._values = dict(values)

    def __getitem__(self, key: str) -> Value:
        """Return the value; CheckpointError if it is an array with a string that is no UTF-8."""
        value = self._values[key]
        if isinstance(value, _Strings):
            return value.decode(self.path, key)
        return value

    def __iter__(self) -> Iterator[str]:
        """Return the keys in the order of the file."""
        return iter(self._values)

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._values)


class GGUFFile:
    """One file: its metadata, its tensors by name, and its bytes on demand.

    Raises CheckpointError naming file, field, value and rule.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = _opened(path)
        cursor = _Cursor(self.file)
        num_tensors, num_keys = _read_header(cursor)
        self.metadata = Metadata(path, _read_metadata(cursor, num_keys))
        alignment = _alignment(self.metadata)
        entries = [_read_entry(cursor, index) for index in range(num_tensors)]
        start = -(-cursor.position // alignment) * alignment
        self.tensors = _placed(path, entries, start, alignment, self.file.num_bytes)

    def raw(self, name: str) -> Bytes:
        """Return the bytes of a tensor, uint8 [rows, bytes per row]."""
        info = self.tensors[name]
        stored = self.file.read(info.offset, info.offset + info.num_bytes)
        return stored.reshape(-1, info.kind.row_bytes(info.shape[-1]))


def read_metadata(path: Path) -> Metadata:
    """Return the metadata of a file, whatever its tensors are; CheckpointError if they cannot be read."""
    cursor = _Cursor(_opened(path))
    _, num_keys = _read_header(cursor)
    return Metadata(path, _read_metadata(cursor, num_keys))


class _Cursor:
    """A position in the file, which stays within the file and within the size that metadata may have.

    The file is read up to the position, into memory that is committed as it is used.
    """

    def __init__(self, file: ModelFile) -> None:
        self.path = file.path
        self._file = file
        self.end = min(file.num_bytes, _MAX_METADATA)
        self._data = np.empty(self.end, np.uint8)
        self._num_read = 0
        self._bytes = memoryview(self._data)  # type: ignore[arg-type]  # numpy 1.26 and Python 3.11 have no stubs for it
        self.position = 0
        self.num_strings = 0

    def error(self, field: str, rule: str) -> CheckpointError:
        """Return the error of a `field` that breaks `rule`."""
        return CheckpointError(self.path, field, rule)

    def skip(self, size: int, field: str) -> int:
        """Move on by `size` bytes, which must be there; return where they begin."""
        begin = self.position
        if size > self.end - begin:
            room = f"the file has {self._file.num_bytes - begin:,} more"
            if self.end == _MAX_METADATA < self._file.num_bytes:
                room = f"all before the tensors must fit in {_MAX_METADATA:,}"
            raise self.error(field, f"needs {size:,} bytes from byte {begin:,} on; {room}")
        self.position = begin + size
        self._read(self.position)
        return begin

    def _read(self, end: int) -> None:
        """Read the file up to `end` at least."""
        if end > self._num_read:
            after = min(self.end, max(end, self._num_read + _READ_AHEAD))
            self._file.read_into(self._data[self._num_read : after], self._num_read)
            self._num_read = after

    def unpack(self, code: str, field: str) -> Any:
        """Return the next number, in a format of `struct`."""
        return struct.unpack_from(code, self._bytes, self.skip(struct.calcsize(code), field))[0]

    def text(self, field: str, max_bytes: int = _MAX_METADATA) -> str:
        """Return the next string."""
        size = self.unpack("<Q", field)
        if size > max_bytes:
            raise self.error(field, f"has {size:,} bytes; must have at most {max_bytes:,}")
        begin = self.skip(size, field)
        return self._decode(begin, size, field)

    def numbers(self, dtype: np.dtype[Any], count: int, field: str) -> NDArray[Any]:
        """Return the next `count` numbers."""
        begin = self.skip(count * dtype.itemsize, field)
        return np.frombuffer(self._bytes, dtype, count, begin)

    def strings(self, count: int, field: str) -> _Strings:
        """Move on over `count` strings."""
        self.num_strings += count
        if count * 8 > self.end - self.position or self.num_strings > _MAX_STRINGS:
            rule = f"must fit in the file, and all such arrays together must have at most {_MAX_STRINGS:,}"
            raise self.error(field, f"has {count:,} strings; {rule}")
        begin = position = self.position
        for _ in range(count):
            if position + 8 <= self.end:
                self._read(position + 8)
                position += 8 + _LENGTH.unpack_from(self._bytes, position)[0]
        self.skip(position - begin, field)
        return _Strings(self._bytes, begin, count)

    def _decode(self, begin: int, size: int, field: str) -> str:
        try:
            return str(self._bytes[begin : begin + size], "utf-8")
        except UnicodeDecodeError:
            raise self.error(field, "must be UTF-8") from None


class _Strings(NamedTuple):
    """An array of strings in the file, whose lengths have been checked."""

    bytes: memoryview
    begin: int
    size: int

    def decode(self, path: Path, key: str) -> list[str]:
        texts, position = [], self.begin
        for index in range(self.size):
            begin = position + 8
            position = begin + _LENGTH.unpack_from(self.bytes, position)[0]
            try:
                texts.append(str(self.bytes[begin:position], "utf-8"))
            except UnicodeDecodeError:
                value = shown(self.bytes[begin:position].tobytes())
                raise CheckpointError(path, f"{key}[{index}]={value}", "must be UTF-8") from None
        return texts


def _opened(path: Path) -> ModelFile:
    """Return the file, open."""
    try:
        if not path.is_file():
            raise CheckpointError(path, None, "must be a regular file" if path.exists() else "is missing")
        if path.stat().st_size == 0:
            raise CheckpointError(path, None, "is empty")
        return ModelFile(path)
    except OSError as error:
        raise CheckpointError(path, None, f"cannot be read ({error.strerror})") from None


def _read_header(cursor: _Cursor) -> tuple[int, int]:
    """Return the numbers of tensors and of key-value pairs."""
    magic = struct.pack("<I", cursor.unpack("<I", "magic"))
    if magic != b"GGUF":
        raise cursor.error(f"magic={magic!r}", "must be b'GGUF'; this is no GGUF file")
    version = cursor.unpack("<I", "version")
    if version in (2 << 24, 3 << 24):
        raise cursor.error(f"version={version >> 24}", "is big-endian; must be little-endian")
    if version not in (2, 3):
        raise cursor.error(f"version={version}", "must be 2 or 3; convert the model again")
    counts = []
    for field, most in (("tensor_count", _MAX_TENSORS), ("metadata_kv_count", _MAX_KEYS)):
        count = cursor.unpack("<Q", field)
        if count > most:
            raise cursor.error(f"{field}={count}", f"must be at most {most:,}")
        counts.append(count)
    return counts[0], counts[1]


def _read_metadata(cursor: _Cursor, num_keys: int) -> dict[str, Value | _Strings]:
    values: dict[str, Value | _Strings] = {}
    for index in range(num_keys):
        key = cursor.text(f"key number {index}", _MAX_KEY)
        if not key.isprintable() or not key:
            raise cursor.error(f"key number {index}={shown(key)}", "must be printable text, and not empty")
        if key in values:
            raise cursor.error(shown(key), "occurs twice; a key must be unique")
        values[key] = _read_value(cursor, key)
    return values


def _read_value(cursor: _Cursor, key: str) -> Value | _Strings:
    key = shown(key)[1:-1]
    kind = cursor.unpack("<I", key)
    if kind == _STRING:
        return cursor.text(key)
    if kind in _NUMBERS:
        value: Value = _checked(cursor, key, cursor.numbers(_NUMBERS[kind], 1, key))[0].item()
        return value
    if kind != _ARRAY:
        raise cursor.error(key, f"has a value of type {kind}; must be one from 0 to 12")
    kind, count = cursor.unpack("<I", key), cursor.unpack("<Q", key)
    if kind == _STRING:
        return cursor.strings(count, key)
    if kind in _NUMBERS:
        return _checked(cursor, key, cursor.numbers(_NUMBERS[kind], count, key))
    rule = "is an array of arrays; must be of numbers, booleans or strings"
    raise cursor.error(key, rule if kind == _ARRAY else f"is an array of type {kind}; must be one from 0 to 12")


def _checked(cursor: _Cursor, key: str, values: NDArray[Any]) -> NDArray[Any]:
    """Return the values, which are 0 or 1 if they are booleans."""
    if values.dtype == np.bool_ and len(values) and values.view(np.uint8).max() > 1:
        raise cursor.error(key, "has a boolean that is neither 0 nor 1")
    return values


def _alignment(metadata: Metadata) -> int:
    value = metadata.get(_ALIGNMENT, _DEFAULT_ALIGNMENT)
    if type(value) is not int or not 1 <= value <= _MAX_ALIGNMENT or value & (value - 1):
        rule = f"must be a power of two from 1 to {_MAX_ALIGNMENT:,}"
        raise CheckpointError(metadata.path, f"{_ALIGNMENT}={shown(value)}", rule)
    return value


# The directory


def _read_entry(cursor: _Cursor, index: int) -> TensorInfo:
    """Return the next entry; its offset counts from the first byte of the tensors."""
    field = f"tensor number {index}"
    name = cursor.text(field, _MAX_NAME)
    if not name.isprintable() or not name:
        raise cursor.error(f"{field}={shown(name)}", "must have a printable name")
    num_dims = cursor.unpack("<I", name)
    if not 1 <= num_dims <= _MAX_DIMS:
        raise cursor.error(name, f"has {num_dims:,} dimensions; must have 1 to {_MAX_DIMS}")
    dims = [cursor.unpack("<Q", name) for _ in range(num_dims)]
    if 0 in dims:
        raise cursor.error(name, f"has dimensions {dims}; each must be at least 1")
    kind = _kind(cursor, name, cursor.unpack("<I", name))
    if dims[0] % kind.block_size:
        rule = f"must be a multiple of {kind.block_size}, the block size of {kind.name}"
        raise cursor.error(name, f"has rows of {dims[0]:,} numbers; {rule}")
    return TensorInfo(name, kind, tuple(reversed(dims)), cursor.unpack("<Q", name))


def _kind(cursor: _Cursor, name: str, number: int) -> TensorType:
    if number not in TENSOR_TYPES:
        known = ", ".join(kind.name for kind in TENSOR_TYPES.values())
        raise cursor.error(name, f"has type {OTHER_TYPES.get(number, number)}; must be one of {known}")
    return TENSOR_TYPES[number]


def _placed(path: Path, entries: list[TensorInfo], start: int, alignment: int, file_size: int) -> dict[str, TensorInfo]:
    """Return the entries by name, with offsets in the file; CheckpointError unless each has bytes of its own there."""
    tensors: dict[str, TensorInfo] = {}
    for name, kind, shape, offset in entries:
        info = TensorInfo(name, kind, shape, start + offset)
        if name in tensors:
            raise CheckpointError(path, name, "occurs twice; a tensor's name must be unique")
        if offset % alignment:
            raise CheckpointError(path, name, f"has offset {offset:,}; must be a multiple of the alignment {alignment}")
        if info.offset + info.num_bytes > file_size:
            where = f"has {info.num_bytes:,} bytes from byte {info.offset:,} on"
            raise CheckpointError(path, name, f"{where}; the file ends at {file_size:,}")
        tensors[name] = info
    for before, after in pairwise(sorted(tensors.values(), key=lambda info: info.offset)):
        if before.offset + before.num_bytes > after.offset:
            raise CheckpointError(path, after.name, f"overlaps {before.name}; each tensor must have bytes of its own")
    return tensors
