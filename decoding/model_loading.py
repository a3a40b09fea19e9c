"""Load a model for LLM: a path gives a model, its tokenizer and its name, by our own reader or another library."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from decoding.backends.limits import DEFAULT_CACHE_BYTES, Limits
from decoding.backends.model import Batching
from decoding.backends.registry import BACKENDS, open_backend
from decoding.engine.settings import EngineSettings
from decoding.errors import ModelNotFoundError, ParameterError
from decoding.models.batch import Model
from decoding.models.model_files import ModelFiles
from decoding.models.packing import Progress
from decoding.models.registry import load_files, open_model
from decoding.text.tokenizer import Tokenizer

Backend: TypeAlias = Literal["native", "numpy", "llama-cpp", "transformers", "onnxruntime"]
Quantization: TypeAlias = Literal["q8_0", "q4_0"]

BUNDLED_NAME = "bundled"


class LoadedModel(NamedTuple):
    """A model with its tokenizer, if it has one. files: None for a model of another library."""

    model: Model
    tokenizer: Tokenizer | None
    name: str
    files: ModelFiles | None


def load(
    path: str | os.PathLike[str] | None,
    backend: Backend,
    batching: Batching,
    quantization: Quantization | None,
    num_threads: int | None,
    settings: EngineSettings,
    progress: Progress | None,
) -> LoadedModel:
    """Load a model; the arguments are those of LLM, and None as path is the bundled model."""
    source = bundled_model_folder() if path is None else _as_path(path)
    if backend in BACKENDS:
        if quantization is not None:
            raise ParameterError.single("quantization", quantization, f"must be None with the backend {backend!r}")
        limits = Limits(settings.max_num_seqs, settings.kv_cache_bytes or DEFAULT_CACHE_BYTES, num_threads)
        loaded = LoadedModel(*open_backend(backend, source, limits, batching=batching), None)
    elif batching != "exact":
        raise ParameterError.single("batching", batching, f"must be 'exact' with the backend {backend!r}")
    else:
        files = open_model(source)
        model = load_files(files, backend, num_threads=num_threads, quantization=quantization, progress=progress)
        loaded = LoadedModel(model, files.tokenizer(), files.name, files)
    return loaded._replace(name=BUNDLED_NAME) if path is None else loaded


def bundled_model_folder() -> Path:
    """Return the bundled model's folder: package data, or in a development checkout the folder beside the package."""
    package = Path(__file__).parent
    checkout = package.parent
    folders = [package / "bundled_model"]
    if (checkout / "pyproject.toml").is_file():
        folders.append(checkout / "bundled_model")
    for folder in folders:
        if (folder / "model.safetensors").is_file():
            return folder
    raise ModelNotFoundError(f"{folders[0]}: the bundled model is missing from this installation")


def _as_path(model: str | os.PathLike[str]) -> Path:
    try:
        return Path(model)
    except TypeError:
        raise ParameterError.single("model", model, "must be a path (a string or PathLike), or None") from None
