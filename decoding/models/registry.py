"""load_model: from a folder or a file to the network that its config names."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from decoding.errors import ParameterError, UnsupportedModelError, shown
from decoding.models import gguf
from decoding.models.checkpoint import Checkpoint
from decoding.models.config import ModelConfig
from decoding.models.config_reader import ConfigFile
from decoding.models.families import gemma, gpt2, gpt_neox, llama, starcoder2
from decoding.models.model_files import ModelFiles, existing, is_gguf
from decoding.models.native import NativeModel
from decoding.models.numpy_backend import NumpyModel, network
from decoding.models.packing import Progress
from decoding.models.quantised_tensor import QUANTIZATIONS, quantised
from decoding.models.weights import Layout
from decoding.reference.forward import Network


class Architecture(NamedTuple):
    """The reader of a family's config.json, and the names of its tensors."""

    read_config: Callable[[Sequence[ConfigFile]], ModelConfig]
    layout: Callable[[ModelConfig], Layout]


BACKENDS = ("native", "numpy")
ARCHITECTURES: dict[str, Architecture] = {
    **dict.fromkeys(llama.DEFAULTS, Architecture(llama.read_config, llama.layout)),
    **dict.fromkeys(("gemma", "gemma2", "gemma3", "gemma3_text"), Architecture(gemma.read_config, gemma.layout)),
    "gpt2": Architecture(gpt2.read_config, gpt2.layout),
    "gpt_neox": Architecture(gpt_neox.read_config, gpt_neox.layout),
    "starcoder2": Architecture(starcoder2.read_config, starcoder2.layout),
}
"""Architectures by model_type."""


def open_model(path: str | os.PathLike[str]) -> ModelFiles:
    """Open the model at `path` without reading its weights: a checkpoint folder or a GGUF model.

    Raises ModelNotFoundError if something is missing, UnsupportedModelError for an architecture or feature that is not
    implemented, CheckpointError for a file that breaks a rule.
    """
    place = existing(path)
    if is_gguf(place):
        model = gguf.open_model(place)
        return ModelFiles(place, model.config, model.tensors, model.layout, model.files, model.metadata)
    config, architecture = _read(place)
    checkpoint = Checkpoint(place)
    files = (place / "config.json", *checkpoint.files)
    return ModelFiles(place, config, checkpoint, architecture.layout(config), files)


def load_model(
    path: str | os.PathLike[str],
    *,
    backend: str = "native",
    num_threads: int | None = None,
    quantization: str | None = None,
    progress: Progress | None = None,
) -> NativeModel | NumpyModel:
    """Load the model at `path`: a folder in Hugging Face's layout, a .gguf file, or a folder with one GGUF model.

    backend: "native", the C library, or "numpy", the slow and readable reference.
    num_threads: of the native backend; None for all CPUs that this process may use.
    quantization: "q8_0" or "q4_0" to quantise matrices of floating-point numbers; None for the types of the file.
    progress: is called with (parts done, parts in all) while weights are packed.
    Raises the errors of `open_model`, and ParameterError for a bad argument.
    """
    opened = open_model(path)
    return load_files(opened, backend, num_threads=num_threads, quantization=quantization, progress=progress)


def load_files(
    opened: ModelFiles,
    backend: str = "native",
    *,
    num_threads: int | None = None,
    quantization: str | None = None,
    progress: Progress | None = None,
) -> NativeModel | NumpyModel:
    """Load a model that has been opened; the arguments are those of `load_model`."""
    _check_arguments(backend, quantization)
    weights = opened.weights()
    if quantization is not None:
        weights = quantised(weights, quantization)
    model: NativeModel | NumpyModel
    if backend == "numpy":
        model = NumpyModel(opened.config, weights, opened.files)
    else:
        model = NativeModel(opened.config, weights, opened.files, num_threads=num_threads, progress=progress)
    opened.tensors.check_unchanged()
    return model


def _check_arguments(backend: str, quantization: str | None) -> None:
    """Raise ParameterError for an unknown backend or quantization."""
    if backend not in BACKENDS:
        raise ParameterError.single("backend", backend, f"must be one of {', '.join(map(repr, BACKENDS))}")
    if quantization is not None and quantization not in QUANTIZATIONS:
        rule = f"must be None or one of {', '.join(map(repr, QUANTIZATIONS))}"
        raise ParameterError.single("quantization", quantization, rule)


def load_network(path: str | os.PathLike[str]) -> Network:
    """Load a model for `decoding.reference.forward`, all weights (dequantised, of a GGUF model) as float64."""
    opened = open_model(path)
    return network(opened.config, opened.weights(), np.float64)


def load_config(path: str | os.PathLike[str]) -> ModelConfig:
    """Read config.json and generation_config.json, or a GGUF file's metadata; raises the errors of `open_model`."""
    place = existing(path)
    return gguf.open_model(place).config if is_gguf(place) else _read(place)[0]


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
