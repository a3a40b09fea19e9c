"""Tiny random checkpoints on disk, for the tests of the model layer."""

from __future__ import annotations

import json
import runpy
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

RUNS = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "models" / "runs.py")))
TINY = {
    "model_type": "llama",
    "vocab_size": 19,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 160,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

Tensors = dict[str, NDArray[Any]]
_ENCODERS: dict[str, Callable[[NDArray[Any]], bytes]] = {
    "F32": lambda array: array.astype("<f4").tobytes(),
    "F16": lambda array: array.astype("<f2").tobytes(),
    "BF16": lambda array: (array.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes(),  # cut, not rounded
    "I64": lambda array: array.astype("<i8").tobytes(),
}


def _safetensors(tensors: Mapping[str, NDArray[Any]], dtype: str = "F32") -> bytes:
    header, body = {}, b""
    for name, array in tensors.items():
        data = _ENCODERS[dtype](array)
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


class Workshop:
    """A factory of checkpoints in separate folders: a tiny config with changes, and random tensors to match."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._count = 0

    def config(self, **changes: Any) -> Path:
        """Return a new folder with the tiny config.json and changes; None removes a key."""
        self._count += 1
        folder = self._root / f"checkpoint-{self._count}"
        folder.mkdir()
        values = {key: value for key, value in {**TINY, **changes}.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(values))
        return folder

    def tensors(self, folder: Path, seed: int = 0) -> Tensors:
        """Return random tensors, large enough that every part of the network affects the logits."""
        rng = np.random.default_rng(seed)
        return {
            name: (rng.normal(1.0, 0.2, shape) if "norm" in name else rng.normal(0.0, 0.3, shape))
            for name, shape in RUNS.tensors(folder).items()
        }

    def checkpoint(self, *, dtype: str = "F32", tensors: Tensors | None = None, **changes: Any) -> Path:
        """Return the folder of a complete checkpoint of the changed config."""
        folder = self.config(**changes)
        tensors = self.tensors(folder) if tensors is None else tensors
        (folder / "model.safetensors").write_bytes(_safetensors(tensors, dtype))
        return folder

    def safetensors(self, tensors: Tensors, dtype: str = "F32") -> bytes:
        """Return the bytes of a safetensors file."""
        return _safetensors(tensors, dtype)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test that takes a backend with both backends."""
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", ["native", "numpy"])


@pytest.fixture(scope="session")
def runs() -> SimpleNamespace:
    """Return the functions of tests/models/runs.py."""
    return RUNS


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    """Return a factory of tiny checkpoints."""
    return Workshop(tmp_path)
