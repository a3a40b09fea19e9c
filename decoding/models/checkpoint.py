"""Safetensors files, one or sharded: checked as a whole first, read as float32 afterwards, straight from the file."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from decoding.errors import CheckpointError, ModelNotFoundError, shown
from decoding.json_file import parse_json_object
from decoding.models.config_reader import ConfigFile
from decoding.models.scratch import Arena

Shape: TypeAlias = tuple[int, ...]

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_STORAGE: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
_SHARD_NAME = re.compile(r"[^/\\\0]{1,200}\.safetensors")
_MAX_SHARDS = 1 << 14  # the largest models we know of have a few hundred
_MAX_HEADER = 1 << 24  # 100,000 tensors take about two thirds
_MAX_NAME = 200
_ROWS = 64  # read at a time: few enough to stay in a cache until they are in their place
_OTHER_FORMATS = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".gguf", ".h5", ".msgpack", ".onnx"}


class Tensor:
    """A tensor as it lies in its file (mapped, not read); indexing reads rows of it as float32."""

    def __init__(self, path: Path, data: NDArray[np.uint8], dtype: str, shape: Shape, begin: int) -> None:
        self.path = path
        self.dtype = dtype
        self.shape = shape
        self._data = data  # the file's bytes after the header
        self._begin = begin

    @cached_property
    def _values(self) -> NDArray[Any]:
        values = np.frombuffer(self._data, _STORAGE[self.dtype], math.prod(self.shape), self._begin)
        return values.reshape(self.shape)

    def __getitem__(self, index: slice | NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Rows along the first axis, in memory of their own."""
        values = self._values[index]
        if self.dtype == "BF16":  # the upper half of a float32
            values = np.left_shift(values, np.uint32(16), dtype=np.uint32).view(np.float32)
        rows: NDArray[np.float32] = np.array(values, np.float32)
        return rows


class Checkpoint:
    """The tensors of a model folder: `model.safetensors`, or the shards that its index names.

    Opening reads headers only. `check` compares every name, shape and dtype with what the architecture wants,
    so that nothing is allocated on the word of a config; `read` and `rows` convert.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._arena = Arena()
        shards = _weight_files(folder)
        self.files = tuple(shards)
        self._tensors: dict[str, Tensor] = {}
        for path, listed in shards.items():
            tensors = _open(path)
            if listed is not None and listed != tensors.keys():
                name = min(listed ^ tensors.keys())
                raise CheckpointError(path, _label(name), f"must be in this shard and in {_INDEX}, or in neither")
            self._tensors.update(tensors)

    def check(
        self, expected: Iterable[tuple[str, Shape]], optional: Mapping[str, Shape], harmless: re.Pattern[str]
    ) -> None:
        """Hold the stored tensors against (name, shape) pairs: all there, each as it must be, no others.

        Tensors in `optional` may be there as well; what matches `harmless` is not looked at. `expected` may be lazy:
        it is left at the first tensor that is missing. Raises CheckpointError naming file, tensor and rule.
        """
        names = set()
        for name, shape in expected:
            if name not in self._tensors:
                raise CheckpointError(self.files[0], name, "is missing; the config asks for it")
            self._check_tensor(name, shape)
            names.add(name)
        for name in sorted(self._tensors.keys() - names):
            if name in optional:
                self._check_tensor(name, optional[name])
            elif not harmless.search(name):
                raise self.error(name, "is no tensor of this architecture and config")

    def _check_tensor(self, name: str, shape: Shape) -> None:
        stored = self._tensors[name]
        if stored.dtype not in _STORAGE:
            raise self.error(name, f"has dtype {stored.dtype}; must be one of {', '.join(_STORAGE)}")
        if stored.shape != shape:
            raise self.error(name, f"has shape {list(stored.shape)}; the config asks for {list(shape)}")

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def tensor(self, name: str) -> Tensor:
        """The tensor as it is stored; its name must have passed `check`."""
        return self._tensors[name]

    def read(self, name: str) -> NDArray[np.float32]:
        """A whole tensor; CheckpointError where a value is NaN or infinite, or where there is not the memory for it."""
        out = self.allocate(name, *self._tensors[name].shape)
        for place, rows in self.rows(name):
            out[place] = rows
        return out

    def allocate(self, name: str, *shape: int) -> NDArray[np.float32]:
        """An array for what is read from `name`: no larger than memory, whatever a sparse file claims."""
        num_bytes = 4 * math.prod(shape)
        try:
            if num_bytes > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
                raise MemoryError
            return self._arena(*shape)
        except MemoryError:
            raise self.error(name, f"needs {num_bytes:,} bytes of memory, which are not there") from None

    def rows(self, name: str, order: NDArray[np.intp] | None = None) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """The rows of a tensor, in `order` or as they are, a few at a time, each time with their places.

        Raises CheckpointError where a value is NaN or infinite.
        """
        tensor = self._tensors[name]
        for first in range(0, tensor.shape[0], _ROWS):
            place = slice(first, min(first + _ROWS, tensor.shape[0]))
            rows = tensor[place if order is None else order[place]]
            if not (np.isfinite(rows.min()) and np.isfinite(rows.max())):  # both pass NaN on
                raise self.error(name, "has values that are NaN or infinite")
            yield place, rows

    def error(self, name: str, rule: str) -> CheckpointError:
        """The error that says that tensor `name` breaks `rule`."""
        return CheckpointError(self._tensors[name].path, _label(name), rule)


def _label(name: str) -> str:
    """A tensor's name as an error shows it: the file's own word, unless that would not fit a line of text."""
    return name if name.isprintable() and len(name) <= _MAX_NAME else shown(name)


def digest_files(paths: Iterable[Path]) -> str:
    """Hex digest (BLAKE2b, 128 bits) of the contents of the files, in order."""
    total = hashlib.blake2b(digest_size=16)
    for path in paths:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "blake2b").digest())
    return total.hexdigest()


def _weight_files(folder: Path) -> dict[Path, set[str] | None]:
    """The weight files, each with the names that the index puts there; None where there is no index."""
    if os.path.lexists(folder / _SINGLE):  # a link to nowhere is a file that is missing
        return {folder / _SINGLE: None}
    if not os.path.lexists(folder / _INDEX):
        raise ModelNotFoundError(f"{folder}: neither {_SINGLE} nor {_INDEX} in this folder{_other_formats(folder)}")
    index = ConfigFile.read(folder / _INDEX)
    shards: dict[str, set[str]] = {}
    for name, shard in index.mapping("weight_map").items():
        if not isinstance(shard, str) or not _SHARD_NAME.fullmatch(shard) or not shard.isprintable():
            rule = "must be the name of a .safetensors file beside the index"
            raise CheckpointError(index.path, f"weight_map[{shown(name)}]={shown(shard)}", rule)
        shards.setdefault(shard, set()).add(name)
        if len(shards) > _MAX_SHARDS:
            raise index.error("weight_map", f"must name at most {_MAX_SHARDS:,} shards")
    if not shards:
        raise index.error("weight_map", "must name at least one tensor")
    return {folder / shard: names for shard, names in shards.items()}


def _other_formats(folder: Path) -> str:
    """What to say of weights that are there and not read: pickles are programs, and are never opened."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix in _OTHER_FORMATS)
    return f" ({_label(names[0])} is not read: convert it to safetensors)" if names else ""


def _open(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, by name."""
    try:
        if not path.is_file():
            raise CheckpointError(path, None, "must be a regular file" if path.exists() else "is missing")
        data, header = _read_header(path)
        return {
            name: Tensor(path, data, entry["dtype"], tuple(entry["shape"]), entry["data_offsets"][0])
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (SafetensorError, OSError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(path, None, f"is not a valid safetensors file ({error})") from None


def _read_header(path: Path) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """The bytes after the header, mapped, and the header.

    The library checks it (dtypes, sizes, offsets that cover the file without gap or overlap), but accepts 100 MB of
    header and repeated names.
    """
    data = np.memmap(path, np.uint8, mode="r")
    if len(data) < 8:
        raise ValueError(f"has {len(data)} bytes: must begin with 8 that give the length of the header")
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    if start > 8 + _MAX_HEADER:
        raise ValueError(f"header too large: must have at most {_MAX_HEADER:,} bytes")
    if start > len(data):
        raise ValueError(f"header cut off: has {start - 8:,} bytes, the file {len(data):,}")
    header = parse_json_object(data[8:start].tobytes())
    with safe_open(path, framework="numpy"):
        pass
    return data[start:], header
