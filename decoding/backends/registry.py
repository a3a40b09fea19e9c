"""open_backend: a model run by another library, by the name of the backend."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from decoding.backends.limits import DEFAULT_LIMITS, Limits
from decoding.backends.model import BackendModel, Batching
from decoding.backends.protocol import Backend
from decoding.errors import ParameterError
from decoding.models.model_files import existing, is_gguf, model_name
from decoding.text.tokenizer import Tokenizer


class OpenedBackend(NamedTuple):
    """A model whose forward pass is another library's, its tokenizer if it has one, and its name."""

    model: BackendModel
    tokenizer: Tokenizer | None
    name: str


def open_backend(
    name: str,
    path: str | os.PathLike[str],
    limits: Limits = DEFAULT_LIMITS,
    *,
    batching: Batching = "exact",
) -> OpenedBackend:
    """Load the model at `path` with one of BACKENDS.

    Raises ParameterError, with the extra to install, if its library is missing; ModelError for a model that it cannot
    use.
    """
    place = existing(path)
    backend, tokenizer = BACKENDS[name](place, limits)
    return OpenedBackend(BackendModel(backend, batching=batching), tokenizer, model_name(place))


def _llama_cpp(path: Path, limits: Limits) -> tuple[Backend, Tokenizer | None]:
    module = _module("llama-cpp", "llama_cpp")
    if not is_gguf(path):
        raise ParameterError.single("model", str(path), "must be a .gguf file with the backend llama-cpp")
    file = sorted(path.glob("*.gguf"))[0] if path.is_dir() else path
    backend: Backend = module.LlamaCppBackend(file, limits)
    return backend, module.tokenizer(file, backend.vocab_size)


def _transformers(path: Path, limits: Limits) -> tuple[Backend, Tokenizer | None]:
    module = _module("transformers", "transformers")
    backend = module.TransformersBackend(path, limits)
    return backend, _tokenizer(path, backend.vocab_size)


def _onnxruntime(path: Path, limits: Limits) -> tuple[Backend, Tokenizer | None]:
    module = _module("onnxruntime", "onnxruntime")
    backend = module.OnnxBackend(path, limits)
    return backend, _tokenizer(path, backend.vocab_size)


BACKENDS: dict[str, Callable[[Path, Limits], tuple[Backend, Tokenizer | None]]] = {
    "llama-cpp": _llama_cpp,
    "transformers": _transformers,
    "onnxruntime": _onnxruntime,
}


def _module(extra: str, name: str) -> Any:
    try:
        return import_module(f"decoding.backends.{name}")
    except ModuleNotFoundError as error:
        rule = f"needs the package {error.name}: pip install 'decoding-engine[{extra}]'"
        raise ParameterError.single("backend", extra, rule) from None


def _tokenizer(folder: Path, vocab_size: int) -> Tokenizer | None:
    has_one = os.path.lexists(folder / "tokenizer.json")
    return Tokenizer.from_folder(folder, vocab_size) if has_one else None
