"""GGUF models: one file, a set of shards, or a folder with either; opened as a whole; tensors are read on demand.

model = open_model("SmolLM2-135M-Instruct.Q4_1.gguf")
model.config                                        # ModelConfig
model.layout                                        # which tensors make which matrix, in which order of rows
find_weights(model.tensors, model.config, model.layout)  # decoding.models.weights: checks that all are there
model.tensors["blk.0.ffn_up.weight"].stored(slice(0, 8))  # bytes as they are stored, [rows, bytes per row]
model.tensors["output_norm.weight"].read()          # float32
read_tokenizer(model.metadata, model.config.vocab_size)  # decoding.text.gguf_tokenizer
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decoding.errors import CheckpointError, ModelNotFoundError, shown
from decoding.models.config import ModelConfig
from decoding.models.gguf_config import read_config
from decoding.models.gguf_layout import layout
from decoding.models.gguf_reader import Bytes, GGUFFile, Metadata
from decoding.models.gguf_types import TensorType
from decoding.models.model_files import GGUF_SUFFIX, existing
from decoding.models.tensors import Shape, Tensor, TensorSource
from decoding.models.weights import Layout

_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_SPLIT_KEYS = {"split.no": 1 << 16, "split.count": 1 << 16, "split.tensors.count": 1 << 31}


class GGUFTensor(Tensor):
    """A tensor of a GGUF file."""

    def __init__(self, file: GGUFFile, name: str) -> None:
        """Describe a tensor in the directory of the file."""
        info = file.tensors[name]
        self.name = name
        self.file = file.file
        self.kind: TensorType = info.kind
        self.dtype = info.kind.name
        self.shape = info.shape
        self.begin = info.offset
        self.row_bytes = info.num_bytes if len(info.shape) == 1 else info.num_bytes // info.shape[0]

    def __getitem__(self, index: slice | NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Return rows along the first axis (numbers of a vector), in memory of their own."""
        if len(self.shape) == 1:
            numbers: NDArray[np.float32] = self._dequantized(self._vector())[0][index].copy()
            return numbers
        rows = self.stored(index).reshape(-1, self.kind.row_bytes(self.shape[-1]))
        return self._dequantized(rows).reshape(-1, *self.shape[1:])

    def is_finite(self, rows: slice) -> bool:
        """Return True if no number of these rows is NaN or infinite."""
        stored = self._vector() if len(self.shape) == 1 else self.stored(rows)
        return self.kind.is_finite(stored.reshape(-1, self.kind.block_bytes))

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensor as it is stored."""
        return self.row_bytes if len(self.shape) == 1 else super().num_bytes

    def _vector(self) -> Bytes:
        """Return the bytes of a vector, uint8 [1, bytes]: its blocks are of several numbers."""
        return self.file.read(self.begin, self.begin + self.row_bytes)[None]

    def _dequantized(self, rows: Bytes) -> NDArray[np.float32]:
        blocks = rows.reshape(-1, self.kind.block_bytes)
        with np.errstate(over="ignore", invalid="ignore"):  # `require_finite` reports what is not finite
            return self.kind.dequantize(blocks).reshape(len(rows), self.shape[-1])


class GGUFTensors(TensorSource):
    """The tensors of one or more GGUF files, by their names there."""

    def __init__(self, path: Path, files: Mapping[Path, GGUFFile]) -> None:
        """Collect the tensors of all files; CheckpointError if two have a tensor of the same name."""
        self.folder = path
        self.files = tuple(files)
        self._tensors = {}
        for file in files.values():
            for name in file.tensors:
                if name in self._tensors:
                    raise CheckpointError(file.path, name, f"is in {self._tensors[name].path.name} already")
                self._tensors[name] = GGUFTensor(file, name)

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """The shapes of all tensors, rows first."""
        return {name: tensor.shape for name, tensor in self._tensors.items()}

    def _check_tensor(self, tensor: Tensor, shape: Shape) -> None:
        if tensor.shape != shape:
            raise tensor.error(f"has shape {list(tensor.shape)}; the metadata ask for {list(shape)}")

    def factors(self, name: str, count: int) -> tuple[float, ...] | None:
        """Return a tensor of `count` numbers above 0, or None if there is no tensor of this name."""
        if name not in self:
            return None
        tensor = self[name]
        self._check_tensor(tensor, (count,))
        values = tensor.read()
        if values.min() <= 0.0:
            raise tensor.error("has numbers that are not above 0")
        return tuple(values.tolist())


@dataclass(frozen=True, slots=True)
class GGUFModel:
    """A model that has been opened; `find_weights` checks that it has the tensors that its config asks for.

    path: the path that was opened. files: all files of the model, in order.
    """

    path: Path
    config: ModelConfig
    layout: Layout
    tensors: GGUFTensors
    metadata: Metadata

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the model, in order."""
        return self.tensors.files


def open_model(path: str | os.PathLike[str]) -> GGUFModel:
    """Open a .gguf file, any shard of a set, or a folder with one model in it; reads no weights.

    Raises ModelNotFoundError if there is nothing there, UnsupportedModelError for an architecture or feature that is
    not implemented, CheckpointError or TokenizerError for a file that breaks a rule.
    """
    start = existing(path)
    files = _open_files(_model_file(start))
    tensors = GGUFTensors(start, files)
    metadata = next(iter(files.values())).metadata
    config = read_config(metadata, tensors.shapes, tensors.factors)
    return GGUFModel(start, config, layout(config, tensors.shapes), tensors, metadata)


def _model_file(path: Path) -> Path:
    """Return the file that is the model, or the first of its shards."""
    if not path.is_dir():
        return path
    names = sorted(entry.name for entry in path.iterdir() if entry.suffix == GGUF_SUFFIX)
    models = {match["stem"] if (match := _SHARD.fullmatch(name)) else name: path / name for name in reversed(names)}
    if not models:
        raise ModelNotFoundError(f"{path}: no .gguf file in this folder")
    if len(models) > 1:
        listed = ", ".join(sorted(file.name for file in models.values())[:8])
        raise CheckpointError(path, None, f"must have one model in it, not {len(models)} ({listed}); name the file")
    return next(iter(models.values()))


def _open_files(path: Path) -> dict[Path, GGUFFile]:
    """Return the model's files by path, in order; CheckpointError unless they are the complete shards of one model."""
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
    """Raise CheckpointError unless the metadata agree with the shard number in the file's name."""
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
