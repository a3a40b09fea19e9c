"""csrc/ stands alone: the example builds as C11 and as C++17, and draws what the Python side draws."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from decoding import Sampler, SamplingParams, SamplingState

CSRC = Path(__file__).resolve().parents[2] / "csrc"
NOT_PORTABLE = {"example.c", "ffi.csrc.c", "kernel_avx2.c", "kernel_avx512.c"}
SOURCES = sorted(path.name for path in CSRC.glob("*.c") if path.name not in NOT_PORTABLE)
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]

requires_compiler = pytest.mark.skipif(
    shutil.which("cc") is None or shutil.which("c++") is None, reason="needs a C and a C++ compiler"
)


def build(compiler: str, flags: list[str], sources: list[Path], output: Path) -> None:
    """Compile and link; a warning is a failure."""
    command = [compiler, *flags, *WARNINGS, f"-I{CSRC}", *map(str, sources), "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The portable library, as object files."""
    folder = tmp_path_factory.mktemp("objects")
    flags = ["-std=c11", "-O1", "-ffp-contract=off", "-c"]
    for source in SOURCES:
        build("cc", flags, [CSRC / source], folder / f"{source}.o")
    return sorted(folder.glob("*.o"))


def example_output(program: Path) -> list[tuple[int, str]]:
    """The (token id, log-probability as printed) pairs of the example's second line."""
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    words = done.stdout.splitlines()[1].split()
    return [(int(token), logprob.strip("()")) for token, logprob in zip(words[::2], words[1::2], strict=True)]


def python_output() -> list[tuple[int, str]]:
    """What csrc/example.c does, through the Python door."""
    logits = np.array([(i * 7919) % 997 for i in range(1000)], np.float32) / np.float32(100)
    params = SamplingParams(temperature=0.8, top_p=0.95, top_k=50, seed=42, logprobs=0)
    state, sampler = SamplingState(params), Sampler(1000)
    outputs = [sampler.sample(logits, [state]) for _ in range(10)]
    return [(int(output.token_ids[0]), f"{output.logprobs[0]:.4f}") for output in outputs]


@requires_compiler
@pytest.mark.parametrize(
    ("compiler", "flags"),
    [("cc", ["-std=c11"]), ("c++", ["-std=c++17", "-x", "c++"])],
    ids=["C11", "C++17"],
)
def test_example_draws_what_python_draws(compiler: str, flags: list[str], objects: list[Path], tmp_path: Path) -> None:
    """A host in C or C++ gets the tokens and log-probabilities that a host in Python gets."""
    build(compiler, [*flags, "-c"], [CSRC / "example.c"], tmp_path / "example.o")
    build("cc", [], [tmp_path / "example.o", *objects, Path("-lm")], tmp_path / "example")
    assert example_output(tmp_path / "example") == python_output()
