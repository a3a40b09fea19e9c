"""load_model: from a folder to the network that its config.json names."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from decoding.errors import ModelNotFoundError, ParameterError, UnsupportedModelError, shown
from decoding.models.checkpoint import Checkpoint
from decoding.models.config import ModelConfig
from decoding.models.config_reader import ConfigFile
from decoding.models.families import gemma, gpt2, gpt_neox, llama
from decoding.models.native import NativeModel
from decoding.models.numpy_backend import NumpyModel, network
from decoding.models.packing import Progress
from decoding.models.weights import Layout, find_weights
from decoding.reference.forward import Network


class Architecture(NamedTuple):
    """A family: the reader of its config.json, and the names of its tensors."""

    read_config: Callable[[Sequence[ConfigFile]], ModelConfig]
    layout: Callable[[ModelConfig], Layout]


BACKENDS = ("native", "numpy")
ARCHITECTURES: dict[str, Architecture] = {
    **dict.fromkeys(llama.DEFAULTS, Architecture(llama.read_config, llama.layout)),
    **dict.fromkeys(("gemma", "gemma2", "gemma3", "gemma3_text"), Architecture(gemma.read_config, gemma.layout)),
    "gpt2": Architecture(gpt2.read_config, gpt2.layout),
    "gpt_neox": Architecture(gpt_neox.read_config, gpt_neox.layout),
}
"""By model_type."""


def load_model(
    path: str | os.PathLike[str],
    *,
    backend: str = "native",
    num_threads: int | None = None,
    progress: Progress | None = None,
) -> NativeModel | NumpyModel:
    """Load the checkpoint in the folder `path`, in Hugging Face's layout.

    backend: "native", the C library, or "numpy", the slow and readable reference.
    num_threads: of the native backend; None for all CPUs that this process may use.
    progress: is called with (parts done, parts in all) while weights are packed.
    Raises ModelNotFoundError if the folder or one of its files is missing, UnsupportedModelError for an architecture or
    feature that is not implemented, CheckpointError for a file that breaks a rule.
    """
    if backend not in BACKENDS:
        raise ParameterError.single("backend", backend, f"must be one of {', '.join(map(repr, BACKENDS))}")
    folder = _folder(path)
    config, architecture = _read(folder)
    checkpoint = Checkpoint(folder)
    weights = find_weights(checkpoint, config, architecture.layout(config))
    files = (folder / "config.json", *checkpoint.files)
    if backend == "numpy":
        return NumpyModel(config, weights, files)
    return NativeModel(config, weights, files, num_threads=num_threads, progress=progress)


def load_network(path: str | os.PathLike[str]) -> Network:
    """Load the checkpoint in the folder `path` for `decoding.reference.forward`, all weights as float64."""
    folder = _folder(path)
    config, architecture = _read(folder)
    return network(config, find_weights(Checkpoint(folder), config, architecture.layout(config)), np.float64)


def load_config(path: str | os.PathLike[str]) -> ModelConfig:
    """Read config.json and generation_config.json only; raises what `load_model` raises for them."""
    return _read(_folder(path))[0]


def _read(folder: Path) -> tuple[ModelConfig, Architecture]:
    file = ConfigFile.read(folder / "config.json")
    architecture = ARCHITECTURES[_model_type(file)]
    generation = folder / "generation_config.json"
    files = [ConfigFile.read(generation), file] if os.path.lexists(generation) else [file]
    return architecture.read_config(files), architecture


def _model_type(file: ConfigFile) -> str:
    model_type = file.string("model_type")
    if model_type not in ARCHITECTURES:
        known = ", ".join(repr(name) for name in sorted(ARCHITECTURES))
        raise UnsupportedModelError(f"{file.path.parent}: model_type={shown(model_type)}: must be one of {known}")
    return model_type


def _folder(path: str | os.PathLike[str]) -> Path:
    try:
        folder = Path(path)
    except TypeError:
        raise ParameterError.single("path", path, "must be a string or a path") from None
    try:
        if folder.is_dir():
            return folder
        problem = "is not a folder" if folder.exists() else "there is no such folder"
    except OSError as error:  # a name that is too long, a parent that may not be read
        problem = str(error.strerror)
    raise ModelNotFoundError(f"{shown(str(path))}: {problem}")
