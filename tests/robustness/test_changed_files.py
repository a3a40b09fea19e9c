"""Model files that change during or after loading never change a model's numbers unnoticed."""

from __future__ import annotations

import os
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from decoding.engine.model_runner import all_logits
from decoding.errors import CheckpointError
from decoding.model_loading import bundled_model_folder
from decoding.models.registry import load_files, load_model, open_model

GGUF = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "gguf_container.py")))
IDS = [1, 2, 3]


@pytest.fixture(params=["safetensors", "gguf"])
def model_and_weights(request, tmp_path):
    """Return the path of a model and the path of its file of weights."""
    if request.param == "gguf":
        path = tmp_path / "tiny.gguf"
        path.write_bytes(GGUF.tiny_llama().bytes())
        return path, path
    folder = tmp_path / "model"
    shutil.copytree(bundled_model_folder(), folder, ignore=shutil.ignore_patterns("*.py", "*.md"))
    return folder, folder / "model.safetensors"


def overwrite(weights):
    """Overwrite the second half of the file and keep its size."""
    size = weights.stat().st_size
    with weights.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\x01" * (size - size // 2))


def cut_in_half(weights):
    """Truncate the file to half of its size."""
    os.truncate(weights, weights.stat().st_size // 2)


@pytest.mark.parametrize("change", [overwrite, cut_in_half, Path.unlink])
@pytest.mark.parametrize("backend", ["native", "numpy"])
def test_a_loaded_model_stays_as_it_was(model_and_weights, change, backend):
    """A change of the files does not change a loaded model's logits.

    A digest that was read before stays the same; a digest that was not read before raises.
    """
    path, weights = model_and_weights
    model, early, twin = (load_model(path, backend=backend) for _ in range(3))
    digest = early.digest
    num_tokens = min(model.config.vocab_size, model.config.max_position_embeddings, 200)
    expected = all_logits(twin, list(range(num_tokens)))
    change(weights)
    np.testing.assert_array_equal(all_logits(model, list(range(num_tokens))), expected)
    assert early.digest == digest
    with pytest.raises(CheckpointError, match=weights.name):
        _ = model.digest


@pytest.mark.parametrize("change", [overwrite, cut_in_half, Path.unlink])
def test_a_change_during_loading_is_an_error(model_and_weights, change):
    """A change between opening and loading raises CheckpointError with the file's name."""
    path, weights = model_and_weights
    opened = open_model(path)
    change(weights)
    with pytest.raises(CheckpointError, match=weights.name):
        load_files(opened)


def test_nothing_stays_mapped(model_and_weights):
    """A loaded model has none of its files in its address space."""
    path, weights = model_and_weights
    model = load_model(path)
    assert str(weights) not in Path("/proc/self/maps").read_text()
    assert all_logits(model, IDS).shape[0] == len(IDS)
