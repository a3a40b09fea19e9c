"""Fixtures for the ways to embed csrc/: builds of it, and Python's draws for the logits of csrc/example.c."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from decoding import Sampler, SamplingParams, SamplingState

CSRC = Path(__file__).resolve().parents[2] / "csrc"


@pytest.fixture(scope="session")
def csrc() -> Path:
    """Return the folder of the C library."""
    return CSRC


@pytest.fixture(scope="session")
def run() -> Callable[..., str]:
    """Return a function that runs a command and returns its output; a failing command fails the test."""

    def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
        arguments, variables = [str(word) for word in command], os.environ | environment
        done = subprocess.run(arguments, capture_output=True, text=True, check=False, env=variables, cwd=cwd)
        assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout}{done.stderr}"
        return done.stdout

    return run


@pytest.fixture(scope="session")
def objects(csrc: Path, run: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return the portable library as object files."""
    folder = tmp_path_factory.mktemp("objects")
    for source in (csrc / "sources.txt").read_text().split():
        output = folder / f"{source.replace('/', '_')}.o"
        run("cc", "-std=c11", "-ffp-contract=off", f"-I{csrc}", "-c", csrc / source, "-o", output)
    return sorted(folder.iterdir())


@pytest.fixture(scope="session")
def quickly() -> str:
    """Return the CMake option to compile without optimising: this takes a fifth of the time and gives the same bits."""
    return "-DCMAKE_C_COMPILE_OBJECT=<CMAKE_C_COMPILER> <DEFINES> <INCLUDES> <FLAGS> -O0 -o <OBJECT> -c <SOURCE>"


@pytest.fixture(scope="session")
def prefix(csrc: Path, quickly: str, run: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the installed library, moved after installation: no file may depend on its first path."""
    if shutil.which("cmake") is None or shutil.which("cc") is None:
        pytest.skip("needs cmake and a C compiler")
    folder = tmp_path_factory.mktemp("package")
    run("cmake", "-S", csrc, "-B", folder / "build", f"-DCMAKE_INSTALL_PREFIX={folder / 'first'}", quickly)
    run("cmake", "--build", folder / "build", "--parallel")
    run("cmake", "--install", folder / "build")
    return (folder / "first").rename(folder / "moved")


@pytest.fixture(scope="session")
def pkg_config(prefix: Path, run: Callable[..., str]) -> Callable[..., list[str]]:
    """Return a function that returns the words of pkg-config's output for the installed library."""
    if shutil.which("pkg-config") is None:
        pytest.skip("needs pkg-config")

    def pkg_config(*options: str) -> list[str]:
        return shlex.split(run("pkg-config", *options, "decoding", PKG_CONFIG_PATH=str(prefix / "lib" / "pkgconfig")))

    return pkg_config


@pytest.fixture(scope="session")
def python_output() -> list[tuple[int, str]]:
    """Return the output of csrc/example.c computed in Python: (token id, log-probability as printed)."""
    logits = np.array([(i * 7919) % 997 for i in range(1000)], np.float32) / np.float32(100)
    params = SamplingParams(temperature=0.8, top_p=0.95, top_k=50, seed=42, logprobs=0)
    state, sampler = SamplingState(params), Sampler(1000)
    outputs = [sampler.sample(logits, [state]) for _ in range(10)]
    return [(int(output.token_ids[0]), f"{output.logprobs[0]:.4f}") for output in outputs]


@pytest.fixture
def assert_draws_like_python(run: Callable[..., str], python_output: list[tuple[int, str]]) -> Callable[..., None]:
    """Return a function that runs a build of the example and asserts Python's tokens and log-probabilities."""

    def assert_draws_like_python(program: Path, **environment: str) -> None:
        words = run(program, **environment).splitlines()[1].split()
        drawn = [(int(token), logprob.strip("()")) for token, logprob in zip(words[::2], words[1::2], strict=True)]
        assert drawn == python_output

    return assert_draws_like_python
