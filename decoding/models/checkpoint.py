"""Safetensors files, one or sharded: checked as a whole first, read as float32 afterwards."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from decoding.errors import CheckpointError, ModelNotFoundError, shown
from decoding.json_file import parse_json_object
from decoding.models.config import ConfigFile

Shape: TypeAlias = tuple[int, ...]

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_STORAGE: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
_SHARD_NAME = re.compile(r"[^/\\\0]+\.safetensors")
_MAX_HEADER = 1 << 24  # 100,000 tensors take about two thirds
_MAX_NAME = 200
_HARMLESS = ".rotary_emb.inv_freq"  # older exports store these constants; they follow from the config
_OTHER_FORMATS = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".gguf", ".h5", ".msgpack", ".onnx"}


class _Stored(NamedTuple):
    """Where one tensor lies: its file's bytes (mapped, not read), and what the header says of it."""

    path: Path
    data: NDArray[np.uint8]  # the bytes after the header
    dtype: str
    shape: Shape
    begin: int


class Checkpoint:
    """The tensors of a model folder: `model.safetensors`, or the shards that its index names.

    Opening reads headers only. `check` compares every name, shape and dtype with what the architecture wants,
    so that nothing is allocated on the word of a config; `read` converts.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shards = _weight_files(folder)
        self.files = tuple(shards)
        self._tensors: dict[str, _Stored] = {}
        for path, listed in shards.items():
            tensors = _open(path)
            if listed is not None and listed != tensors.keys():
                name = min(listed ^ tensors.keys())
                raise CheckpointError(path, _label(name), f"must be in this shard and in {_INDEX}, or in neither")
            self._tensors.update(tensors)

    def check(self, expected: Iterable[tuple[str, Shape]], optional: Mapping[str, Shape]) -> None:
        """Hold the stored tensors against (name, shape) pairs: all there, each as it must be, no others.

        `expected` may be lazy and endless: it is left at the first tensor that is missing. Raises
        CheckpointError naming file, tensor and rule.
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
            elif not name.endswith(_HARMLESS):
                raise self.error(name, "is no tensor of this architecture and config")

    def _check_tensor(self, name: str, shape: Shape) -> None:
        stored = self._tensors[name]
        if stored.dtype not in _STORAGE:
            raise self.error(name, f"has dtype {stored.dtype}; must be one of {', '.join(_STORAGE)}")
        if stored.shape != shape:
            raise self.error(name, f"has shape {list(stored.shape)}; the config asks for {list(shape)}")

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def read(self, *names: str) -> NDArray[np.float32]:
        """The tensors as float32, one after another along their first axis, in memory of their own.

        Names and shapes must have passed `check`. Raises CheckpointError where a value is NaN or infinite, or where
        there is not the memory for them.
        """
        shapes = [self._tensors[name].shape for name in names]
        out = self._allocate(names[0], (sum(shape[0] for shape in shapes), *shapes[0][1:]))
        first = 0
        for name, shape in zip(names, shapes, strict=True):
            self._read_into(out[first : first + shape[0]], name)
            first += shape[0]
        return out

    def _allocate(self, name: str, shape: Shape) -> NDArray[np.float32]:
        """An array for tensors of which `name` is the first: no larger than memory, whatever a sparse file claims."""
        num_bytes = 4 * math.prod(shape)
        try:
            if num_bytes > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
                raise MemoryError
            return np.empty(shape, np.float32)
        except MemoryError:
            raise self.error(name, f"needs {num_bytes:,} bytes of memory, which are not there") from None

    def _read_into(self, out: NDArray[np.float32], name: str) -> None:
        _, data, dtype, shape, begin = self._tensors[name]
        values = np.frombuffer(data, _STORAGE[dtype], math.prod(shape), begin).reshape(shape)
        if dtype == "BF16":  # the upper half of a float32
            np.left_shift(values, np.uint32(16), out=out.view(np.uint32), dtype=np.uint32)
        else:
            out[...] = values
        if not (np.isfinite(out.min()) and np.isfinite(out.max())):  # both pass NaN on, and need no array of flags
            raise self.error(name, "has values that are NaN or infinite")

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
    if not (folder / _INDEX).exists():
        raise ModelNotFoundError(f"{folder}: neither {_SINGLE} nor {_INDEX} in this folder{_other_formats(folder)}")
    index = ConfigFile.read(folder / _INDEX)
    shards: dict[str, set[str]] = {}
    for name, shard in index.mapping("weight_map").items():
        if not isinstance(shard, str) or not _SHARD_NAME.fullmatch(shard):
            rule = "must be the name of a .safetensors file beside the index"
            raise CheckpointError(index.path, f"weight_map[{shown(name)}]={shown(shard)}", rule)
        shards.setdefault(shard, set()).add(name)
    if not shards:
        raise index.error("weight_map", "must name at least one tensor")
    return {folder / shard: names for shard, names in shards.items()}


def _other_formats(folder: Path) -> str:
    """What to say of weights that are there and not read: pickles are programs, and are never opened."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix in _OTHER_FORMATS)
    return f" ({_label(names[0])} is not read: convert it to safetensors)" if names else ""


def _open(path: Path) -> dict[str, _Stored]:
    """The tensors of one file, by name."""
    if not path.is_file():
        raise CheckpointError(path, None, "must be a regular file" if path.exists() else "is missing")
    try:
        data, header = _read_header(path)
        return {
            name: _Stored(path, data, entry["dtype"], tuple(entry["shape"]), entry["data_offsets"][0])
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
