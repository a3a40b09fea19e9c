"""GGUF models: one file, a set of shards, or a folder with either; opened as a whole, read as they are asked for.

model = open_model("SmolLM2-135M-Instruct.Q4_1.gguf")
model.config                                   # ModelConfig
model.layout                                   # which tensors make which matrix, in which order of rows
model.checkpoint.tensor("blk.0.ffn_up.weight").raw      # bytes as they are stored, [rows, bytes per row]
model.checkpoint.read("output_norm.weight")             # float32
read_tokenizer(model.metadata, model.config.vocab_size) # decoding.text.gguf_tokenizer
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decoding.errors import CheckpointError, ModelNotFoundError, ParameterError, shown
from decoding.models.checkpoint import Checkpoint, Shape, Tensor
from decoding.models.config import ModelConfig
from decoding.models.gguf_config import read_config
from decoding.models.gguf_layout import layout
from decoding.models.gguf_reader import Bytes, GGUFFile, Metadata, TensorInfo
from decoding.models.gguf_types import TensorType
from decoding.models.scratch import Arena
from decoding.models.weights import Layout, stored_tensors

_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_SPLIT_KEYS = {"split.no": 1 << 16, "split.count": 1 << 16, "split.tensors.count": 1 << 31}


class GGUFTensor(Tensor):
    """A tensor as it lies in its file; indexing reads rows of it as float32."""

    def __init__(self, path: Path, info: TensorInfo, raw: Bytes) -> None:
        """Describe a tensor whose mapped bytes are `raw`, uint8 [rows, bytes per row]; a vector is one row."""
        self.path = path
        self.kind: TensorType = info.kind
        self.dtype = info.kind.name
        self.shape = info.shape
        self.raw = raw

    def __getitem__(self, index: slice | NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Return rows along the first axis (numbers of a vector), in memory of their own."""
        if len(self.shape) == 1:
            numbers: NDArray[np.float32] = self._dequantized(self.raw)[0][index].copy()
            return numbers
        per_row = math.prod(self.shape[1:-1])  # rows of numbers in a row along the first axis
        rows = self.raw.reshape(self.shape[0], per_row * self.raw.shape[1])[index]
        return self._dequantized(rows.reshape(-1, self.raw.shape[1])).reshape(-1, *self.shape[1:])

    def _dequantized(self, rows: Bytes) -> NDArray[np.float32]:
        blocks = rows.reshape(-1, self.kind.block_bytes)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is reported by its reader
            return self.kind.dequantize(blocks).reshape(len(rows), self.shape[-1])


class GGUFCheckpoint(Checkpoint):
    """The tensors of one or more GGUF files, by their names there, with a checkpoint's checks and reads."""

    def __init__(self, path: Path, files: Mapping[Path, GGUFFile]) -> None:
        """Take the tensors of all files; CheckpointError if two have one of the same name."""
        self.folder = path
        self.files = tuple(files)
        self._arena = Arena()
        self._tensors: dict[str, Tensor] = {}
        for file in files.values():
            for name, info in file.tensors.items():
                if name in self._tensors:
                    raise CheckpointError(file.path, name, f"is in {self._tensors[name].path.name} already")
                self._tensors[name] = GGUFTensor(file.path, info, file.raw(name))

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """The shapes of all tensors, rows first."""
        return {name: tensor.shape for name, tensor in self._tensors.items()}

    def _check_tensor(self, name: str, shape: Shape) -> None:
        stored = self._tensors[name]
        if stored.shape != shape:
            raise self.error(name, f"has shape {list(stored.shape)}; the metadata ask for {list(shape)}")

    def factors(self, name: str, count: int) -> tuple[float, ...] | None:
        """Return a tensor of `count` numbers above 0, or None if there is no tensor of this name."""
        if name not in self:
            return None
        self._check_tensor(name, (count,))
        values = self.read(name)
        if values.min() <= 0.0:
            raise self.error(name, "has numbers that are not above 0")
        return tuple(values.tolist())


@dataclass(frozen=True, slots=True)
class GGUFModel:
    """A model that has been opened and found whole: each tensor that its config asks for is there, and no other.

    path: what was opened. files: all of the model, in order.
    """

    path: Path
    config: ModelConfig
    layout: Layout
    checkpoint: GGUFCheckpoint
    metadata: Metadata

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the model, in order."""
        return self.checkpoint.files


def open_model(path: str | os.PathLike[str]) -> GGUFModel:
    """Open a .gguf file, any shard of a set, or a folder with one model in it; reads no weights.

    Raises ModelNotFoundError if there is nothing there, UnsupportedModelError for an architecture or feature that is
    not implemented, CheckpointError or TokenizerError for a file that breaks a rule.
    """
    start = _existing(path)
    files = _open_files(_model_file(start))
    checkpoint = GGUFCheckpoint(start, files)
    metadata = next(iter(files.values())).metadata
    config = read_config(metadata, checkpoint.shapes, checkpoint.factors)
    names = layout(config, checkpoint.shapes)
    checkpoint.check(stored_tensors(config, names, "", names.heads[0]), {}, names.harmless)
    return GGUFModel(start, config, names, checkpoint, metadata)


def _existing(path: str | os.PathLike[str]) -> Path:
    try:
        found = Path(path)
    except TypeError:
        raise ParameterError.single("path", path, "must be a string or a path") from None
    try:
        if os.path.lexists(found):
            return found
        problem = "there is no such file or folder"
    except (OSError, ValueError) as error:  # a name that is too long, or has a zero byte
        problem = str(error)
    raise ModelNotFoundError(f"{shown(str(path))}: {problem}")


def _model_file(path: Path) -> Path:
    """Return the file that is the model, or the first of its shards."""
    if not path.is_dir():
        return path
    names = sorted(entry.name for entry in path.iterdir() if entry.suffix == ".gguf")
    models = {match["stem"] if (match := _SHARD.fullmatch(name)) else name: path / name for name in reversed(names)}
    if not models:
        raise ModelNotFoundError(f"{path}: no .gguf file in this folder")
    if len(models) > 1:
        listed = ", ".join(sorted(file.name for file in models.values())[:8])
        raise CheckpointError(path, None, f"must have one model in it, not {len(models)} ({listed}); name the file")
    return next(iter(models.values()))


def _open_files(path: Path) -> dict[Path, GGUFFile]:
    """Return the model's files by path, in order; CheckpointError unless they are one model and all of it."""
    match = _SHARD.fullmatch(path.name)
    if match is None:
        file = GGUFFile(path)
        if _split(file).get("split.count", 1) > 1:
            rule = "is one of several shards; must be called <name>-00001-of-<count>.gguf"
            raise CheckpointError(path, "split.count", rule)
        return {path: file}
    count, files = int(match["count"]), {}
    for number in range(1, count + 1):
        shard = path.with_name(f"{match['stem']}-{number:05}-of-{match['count']}.gguf")
        files[shard] = file = GGUFFile(shard)
        _check_shard(file, number - 1, count)
    if not files:
        raise CheckpointError(path, None, "must be called <name>-00001-of-<count>.gguf, with a count of at least 1")
    total = sum(len(file.tensors) for file in files.values())
    first = next(iter(files.values()))
    if (stated := _split(first).get("split.tensors.count", total)) != total:
        raise CheckpointError(first.path, f"split.tensors.count={stated}", f"must be as many as in all shards, {total}")
    return files


def _check_shard(file: GGUFFile, index: int, count: int) -> None:
    """Raise CheckpointError unless the file says that it is the shard that its name says it is."""
    split = _split(file)
    for key, expected in (("split.no", index), ("split.count", count)):
        if split.get(key) != expected:
            value = shown(split[key]) if key in split else "missing"
            raise CheckpointError(file.path, f"{key}={value}", f"must be {expected}, as the file's name says")


def _split(file: GGUFFile) -> dict[str, int]:
    """Return the keys that say which shard of how many a file is."""
    found = {}
    for key, most in _SPLIT_KEYS.items():
        value = file.metadata.get(key)
        if value is None:
            continue
        if type(value) is not int or not 0 <= value <= most:
            raise CheckpointError(file.path, f"{key}={shown(value)}", f"must be an integer from 0 to {most:,}")
        found[key] = value
    return found
