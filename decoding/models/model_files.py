"""The files of a model, opened and not read: a checkpoint folder in Hugging Face's layout, or a GGUF model.

A folder is a GGUF model if it has .gguf files and no safetensors weights. A GGUF file has config, tokenizer and end
tokens in its metadata; a config.json beside it is not read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decoding.errors import ModelNotFoundError, ParameterError, shown
from decoding.models.config import ModelConfig
from decoding.models.generation_config import generation_defaults
from decoding.models.tensors import TensorSource
from decoding.models.weights import Layout, StoredMatrix, Weights, find_weights
from decoding.text.gguf_tokenizer import read_tokenizer
from decoding.text.tokenizer import Tokenizer

GGUF_SUFFIX = ".gguf"
_MAGIC = b"GGUF"
_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model that has been opened.

    path: a folder or a .gguf file. files: all that the logits depend on. metadata: of a GGUF model; otherwise None.
    """

    path: Path
    config: ModelConfig
    tensors: TensorSource
    layout: Layout
    files: tuple[Path, ...]
    metadata: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """The folder's name, or the file's without its ending and the number of its shard."""
        return model_name(self.path)

    def weights(self) -> Weights[StoredMatrix]:
        """Check that all tensors are there, and read the vectors; CheckpointError if they are not."""
        return find_weights(self.tensors, self.config, self.layout)

    def tokenizer(self) -> Tokenizer | None:
        """Return the tokenizer, or None if there is none; TokenizerError if it breaks a rule."""
        if self.metadata is not None:
            return read_tokenizer(self.metadata, self.config.vocab_size)
        if not os.path.lexists(self.path / "tokenizer.json"):  # a link to nowhere is a broken tokenizer
            return None
        return Tokenizer.from_folder(self.path, self.config.vocab_size)

    def generation_defaults(self) -> dict[str, Any]:
        """Return the recommendations of generation_config.json, as arguments of SamplingParams."""
        return {} if self.metadata is not None else generation_defaults(self.path)


def model_name(path: str | os.PathLike[str]) -> str:
    """Return the name of the model at a path: without .gguf, and without the number of a shard."""
    name = Path(path).resolve().name
    return _SHARD.sub("", name.removesuffix(GGUF_SUFFIX)) if name.endswith(GGUF_SUFFIX) else name


def existing(path: str | os.PathLike[str]) -> Path:
    """Return the path of a model's folder or file; ModelNotFoundError, with a hint, if there is nothing there."""
    try:
        found = Path(path)
    except TypeError:
        raise ParameterError.single("path", path, "must be a string or a path") from None
    try:
        if os.path.lexists(found):
            return found
        problem = "there is no such folder or file"
    except (OSError, ValueError) as error:  # a name that is too long, a zero byte
        problem = getattr(error, "strerror", None) or str(error)
    if _HUB_ID.fullmatch(str(path)) and not found.parent.is_dir():
        problem += "; models are not downloaded by name: give the path of a checkpoint folder or of a .gguf file"
    raise ModelNotFoundError(f"{shown(str(path))}: {problem}")


def is_gguf(path: Path) -> bool:
    """Return True if the path is a GGUF model; ModelNotFoundError, with a hint, if it is another kind of file."""
    if path.is_dir():
        has_safetensors = any(os.path.lexists(path / name) for name in _SAFETENSORS)
        return not has_safetensors and any(entry.suffix == GGUF_SUFFIX for entry in path.iterdir())
    if path.suffix == GGUF_SUFFIX or _has_magic(path):
        return True
    if path.suffix in (".safetensors", ".json"):
        rule = f"is one file of a checkpoint; give its folder, {path.parent}"
    else:
        rule = "must be a folder of a checkpoint in Hugging Face's layout, or a .gguf file"
    raise ModelNotFoundError(f"{shown(str(path))}: {rule}")


def _has_magic(path: Path) -> bool:
    """Return True if a file begins as GGUF files do, whatever its name (caches name files by their hashes)."""
    try:
        with path.open("rb") as file:
            return path.is_file() and file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False
