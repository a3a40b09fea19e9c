"""Fixtures for the ways to embed csrc/: builds of it, and Python's draws for the logits of csrc/example.c."""

from __future__ import annotations

import shlex
import shutil
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
def objects(
    csrc: Path,
    fast_build: list[str],
    run: Callable[..., str],
    made_once: Callable[[str, Callable[[Path], object]], Path],
) -> list[Path]:
    """Return the portable library as object files."""

    def compile_all(folder: Path) -> None:
        for source in (csrc / "sources.txt").read_text().split():
            output = folder / f"{source.replace('/', '_')}.o"
            run("cc", "-std=c11", *fast_build, "-ffp-contract=off", f"-I{csrc}", "-c", csrc / source, "-o", output)

    return sorted(made_once("objects", compile_all).iterdir())


@pytest.fixture(scope="session")
def prefix(package: Path) -> Path:
    """Return the folder of the installed library."""
    return package / "moved"


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
