"""The examples of docs/embedding.md run, unless their tool is missing."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from decoding import BatchSampler, SamplingParams

MANUAL = (Path(__file__).resolve().parents[2] / "docs" / "embedding.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+)\n((?:(?!^## ).*\n)*)", MANUAL, flags=re.M))
NEEDS = {
    "From Python": (),
    "Batches in Python": (),
    "torch": ("torch",),
    "llama.cpp": ("llama_cpp",),
    "ONNX": ("onnxruntime", "onnx"),
    "JAX": ("jax",),
}


def blocks(section: str, language: str) -> list[str]:
    """Return the fenced blocks of a section."""
    return re.findall(rf"^```{language}\n(.*?)^```", SECTIONS[section], flags=re.M | re.S)


def run_python(code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run an example in a new process."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def onnx_model(path: Path) -> Path:
    """Write a network whose logits are rows of a table, [batch, length, vocab]. Return its path."""
    import onnx
    from onnx import TensorProto, helper

    table = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["logits"])],
        "table",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "length", 8])],
        [helper.make_tensor("table", TensorProto.FLOAT, table.shape, table.ravel())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def test_the_index_names_every_case() -> None:
    """The table of docs/embedding.md links to existing sections, and each case has a section."""
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in SECTIONS}
    assert set(re.findall(r"\]\(#([\w-]+)\)", MANUAL)) <= anchors
    assert {"C++", "Rust", "Go", *NEEDS} <= set(SECTIONS)


@pytest.mark.parametrize("section", NEEDS)
def test_python_examples_run(section: str, tmp_path: Path) -> None:
    """The first example of a section exits with 0. llama.cpp needs a GGUF file in DECODING_TEST_GGUF."""
    missing = [name for name in NEEDS[section] if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    arguments: list[str | Path] = []
    if section == "llama.cpp":
        if "DECODING_TEST_GGUF" not in os.environ:
            pytest.skip("needs the path of a GGUF file in DECODING_TEST_GGUF")
        arguments = [os.environ["DECODING_TEST_GGUF"]]
    if section == "ONNX":
        arguments = [onnx_model(tmp_path / "model.onnx")]
    done = run_python(blocks(section, "python")[0], *arguments)
    assert done.returncode == 0, done.stderr


def test_an_error_in_a_callback_is_raised_later() -> None:
    """The example of callbacks raises the error after the call, and Python itself prints nothing."""
    done = run_python(blocks("llama.cpp", "python")[1])
    assert (done.returncode, done.stdout, done.stderr) == (0, "the callback failed\n", "")


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_the_example_in_c_plus_plus(
    csrc: Path,
    objects: list[Path],
    run: Callable[..., str],
    assert_draws_like_python: Callable[..., None],
    tmp_path: Path,
) -> None:
    """The C++ class of the manual draws like Python."""
    (tmp_path / "host.cpp").write_text(blocks("C++", "cpp")[0])
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{csrc}"]
    run("c++", *flags, "-c", tmp_path / "host.cpp", "-o", tmp_path / "host.o")
    run("c++", tmp_path / "host.o", *objects, "-lm", "-o", tmp_path / "host")
    assert_draws_like_python(tmp_path / "host")


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_loop_over_many_sequences(csrc: Path, objects: list[Path], run: Callable[..., str], tmp_path: Path) -> None:
    """The program of the manual with histories in C draws like BatchSampler."""
    (tmp_path / "host.c").write_text(blocks("Many sequences", "c")[0])
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", f"-I{csrc}"]
    run("cc", *flags, tmp_path / "host.c", *objects, "-lm", "-o", tmp_path / "host")
    batch = BatchSampler(64)
    for choice in range(2):
        batch.add(SamplingParams(presence_penalty=0.5, seed=7), [5, 6, 7], choice=choice)
    steps = [batch.step(np.zeros((2, 64), np.float32)).token_ids.tolist() for _ in range(8)]
    assert run(tmp_path / "host") == "".join(f"{first} {second}\n" for first, second in steps)


@pytest.mark.slow
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="builds the sets of x86-64")
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_build_by_hand_with_all_sets(
    csrc: Path,
    fast_build: list[str],
    run: Callable[..., str],
    assert_draws_like_python: Callable[..., None],
    tmp_path: Path,
) -> None:
    """The commands of the manual build every instruction set of x86-64 (the test compiles without optimising)."""
    copy = shutil.copytree(csrc, tmp_path / "csrc")
    lines = blocks("Getting it into a build", "sh")[-1]
    run("sh", "-e", "-c", lines.replace("-O3", " ".join(fast_build)), cwd=tmp_path)
    assert_draws_like_python(copy / "example", DECODING_ISA="")
    names = run("nm", copy / "example")
    assert all(f"dk_kernel_{isa}" in names for isa in ("avx2", "avx512", "portable"))
