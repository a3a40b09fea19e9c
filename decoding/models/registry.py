"""load_model: from a folder to the model class that its config.json names."""

from __future__ import annotations

import os
from pathlib import Path

from decoding.errors import ModelNotFoundError, ParameterError, UnsupportedModelError, shown
from decoding.models.checkpoint import Checkpoint
from decoding.models.config import ConfigFile, ModelConfig
from decoding.models.llama import LlamaModel

_MODELS = {"llama": LlamaModel}


def load_model(path: str | os.PathLike[str]) -> LlamaModel:
    """Load the checkpoint in the folder `path`, in Hugging Face's layout.

    Raises ModelNotFoundError where the folder or one of its files is missing, UnsupportedModelError for an
    architecture or feature that is not implemented, CheckpointError for a file that breaks a rule.
    """
    folder = _folder(path)
    model_type = ConfigFile.read(folder / "config.json").string("model_type")
    if model_type not in _MODELS:
        known = ", ".join(repr(name) for name in sorted(_MODELS))
        raise UnsupportedModelError(f"{folder}: model_type={shown(model_type)}: must be one of {known}")
    return _MODELS[model_type](ModelConfig.from_folder(folder), Checkpoint(folder))


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
