"""The example csrc/example_forward.c, built with a compiler alone, decodes Python's tokens from a file of Python's."""

from __future__ import annotations

import runpy
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from decoding.models.native_file import write_plan

HOST_FLAGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
PLANS = runpy.run_path(str(Path(__file__).resolve().parents[1] / "tools" / "forward_plans.py"))
KIT = PLANS["KIT"]
PROMPT, COUNT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3], 20

pytestmark = pytest.mark.skipif(
    shutil.which("cc") is None or shutil.which("c++") is None, reason="needs a C and a C++ compiler"
)


@pytest.fixture(scope="module", params=[["cc", "-std=c11"], ["c++", "-std=c++17", "-x", "c++"]], ids=["C11", "C++17"])
def program(
    request: pytest.FixtureRequest, csrc: Path, objects: list[Path], run: Callable[..., str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:  # fmt: skip
    """Return the example, compiled without a warning."""
    folder = tmp_path_factory.mktemp("program")
    run(*request.param, *HOST_FLAGS, "-c", csrc / "example_forward.c", f"-I{csrc}", "-o", folder / "example.o")
    run("cc", folder / "example.o", *objects, "-lm", "-o", folder / "example")
    return folder / "example"


@pytest.mark.parametrize(
    "shape", ["llama", "bfloat16", "bfloat16_coded", "gpt2", "gemma", "olmo2", "neox", "odd sizes"]
)
def test_the_example_decodes_what_python_decodes(
    program: Path, run: Callable[..., str], tmp_path: Path, shape: str
) -> None:
    """The example in C and C++ has Python's tokens and all bits of its logits."""
    network = KIT["Network"](KIT["SHAPES"][shape])
    with (tmp_path / "plan").open("wb") as file:
        write_plan(file, network.plan, network.frequencies, [1.0] * len(network.frequencies))
    printed = run(program, tmp_path / "plan", str(COUNT), *map(str, PROMPT))
    assert printed == PLANS["greedy"](network, PROMPT, COUNT)


def test_a_broken_file(program: Path, tmp_path: Path) -> None:
    """A file that is no plan, or that is truncated, is an error of the example, not a crash."""
    for content in (b"junk", b"DKPL", b"DKPL\1\0\0\0"):
        (tmp_path / "plan").write_bytes(content)
        done = subprocess.run([program, tmp_path / "plan", "1", "1"], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr in ("not a plan of version 1\n", "the file ends too early\n")
