"""Safetensors files, one or sharded: checked as a whole first, read afterwards."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from decoding.errors import CheckpointError, ModelNotFoundError, shown
from decoding.json_file import parse_json_object
from decoding.models.config_reader import ConfigFile
from decoding.models.model_file import ModelFile
from decoding.models.tensors import Shape, Tensor, TensorSource, label

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_STORAGE: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
_INFINITY = {"F16": 0x7C00, "BF16": 0x7F80}  # bits without the sign; what lies above is NaN
_SHARD_NAME = re.compile(r"[^/\\\0]{1,200}\.safetensors")
_MAX_SHARDS = 1 << 14  # the largest models we know of have a few hundred
_MAX_HEADER = 1 << 24  # 100,000 tensors take about two thirds
_OTHER_FORMATS = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".onnx"}


class StoredTensor(Tensor):
    """A tensor of a safetensors file."""

    def __init__(self, name: str, file: ModelFile, start: int, entry: Mapping[str, Any]) -> None:
        """Describe a tensor; `start` is the end of the file's header, `entry` the header's entry for the tensor."""
        self.name = name
        self.file = file
        self.dtype = entry["dtype"]
        self.shape = tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        self.begin = start + begin
        self.row_bytes = (end - begin) // max(1, self.shape[0]) if self.shape else end - begin

    def _values(self, index: slice | NDArray[np.integer[Any]]) -> NDArray[Any]:
        """Return rows in their storage type."""
        stored = self.stored(index)
        return stored.view(_STORAGE[self.dtype]).reshape(len(stored), *self.shape[1:])

    def __getitem__(self, index: slice | NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Return rows along the first axis, in memory of their own."""
        values = self._values(index)
        if self.dtype == "BF16":  # the upper half of a float32
            values = np.left_shift(values, np.uint32(16), dtype=np.uint32).view(np.float32)
        rows: NDArray[np.float32] = np.array(values, np.float32)
        return rows

    def is_finite(self, rows: slice) -> bool:
        """Return True if no number of these rows is NaN or infinite, which have all bits of the exponent set."""
        if self.dtype == "F32":
            return super().is_finite(rows)
        bits = self._values(rows).view(np.uint16)
        return bool((bits & np.uint16(0x7FFF)).max() < _INFINITY[self.dtype])


class Checkpoint(TensorSource):
    """The tensors of a model folder: `model.safetensors`, or the shards that its index names."""

    def __init__(self, folder: Path) -> None:
        """Open the files and read their headers; CheckpointError or ModelNotFoundError if something is wrong."""
        self.folder = folder
        shards = _weight_files(folder)
        self.files = tuple(shards)
        self._tensors = {}
        for path, listed in shards.items():
            tensors = _open(path)
            if listed is not None and listed != tensors.keys():
                name = min(listed ^ tensors.keys())
                raise CheckpointError(path, label(name), f"must be in this shard and in {_INDEX}, or in neither")
            self._tensors.update(tensors)

    def _check_tensor(self, tensor: Tensor, shape: Shape) -> None:
        if tensor.dtype not in _STORAGE:
            raise tensor.error(f"has dtype {tensor.dtype}; must be one of {', '.join(_STORAGE)}")
        super()._check_tensor(tensor, shape)


def digest_files(paths: Iterable[Path]) -> str:
    """Return a hex digest (BLAKE2b, 128 bits) of the contents of the files, in order."""
    total = hashlib.blake2b(digest_size=16)
    for path in paths:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "blake2b").digest())
    return total.hexdigest()


def _weight_files(folder: Path) -> dict[Path, set[str] | None]:
    """Return the weight files, each with the tensor names that the index lists for it; None if there is no index."""
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
    """Return a hint about weight files in formats that are not read, such as pickles, which are programs."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix in _OTHER_FORMATS)
    return f" ({label(names[0])} is not read: convert it to safetensors)" if names else ""


def _open(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of one file, by name."""
    try:
        if not path.is_file():
            raise CheckpointError(path, None, "must be a regular file" if path.exists() else "is missing")
        file = ModelFile(path)
        start, header = _read_header(file)
        return {
            name: StoredTensor(name, file, start, entry) for name, entry in header.items() if name != "__metadata__"
        }
    except (SafetensorError, OSError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(path, None, f"is not a valid safetensors file ({error})") from None


def _read_header(file: ModelFile) -> tuple[int, dict[str, Any]]:
    """Return the offset behind the header, and the header.

    The library checks it (dtypes, sizes, offsets that cover the file without gap or overlap), but accepts 100 MB of
    header and repeated names.
    """
    size = file.num_bytes
    if size < 8:
        raise ValueError(f"has {size} bytes: must begin with 8 that give the length of the header")
    start = 8 + int.from_bytes(file.read(0, 8).tobytes(), "little")
    if start > 8 + _MAX_HEADER:
        raise ValueError(f"header too large: must have at most {_MAX_HEADER:,} bytes")
    if start > size:
        raise ValueError(f"header cut off: has {start - 8:,} bytes, the file {size:,}")
    header = parse_json_object(file.read(8, start).tobytes())
    with safe_open(file.path, framework="numpy"):
        pass
    return start, header
