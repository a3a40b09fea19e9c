"""A C and a C++ compiler without a build system are enough to embed csrc/."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

HOST_FLAGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
MANUAL = Path(__file__).resolve().parents[2] / "docs" / "embedding.md"

pytestmark = pytest.mark.skipif(
    shutil.which("cc") is None or shutil.which("c++") is None, reason="needs a C and a C++ compiler"
)


@pytest.mark.parametrize("compiler", [["cc", "-std=c11"], ["c++", "-std=c++17", "-x", "c++"]], ids=["C11", "C++17"])
def test_example_draws_what_python_draws(
    compiler: list[str],
    csrc: Path,
    objects: list[Path],
    run: Callable[..., str],
    assert_draws_like_python: Callable[..., None],
    tmp_path: Path,
) -> None:
    """The example compiles as C and C++ without a warning and draws Python's tokens and log-probabilities."""
    run(*compiler, *HOST_FLAGS, "-c", csrc / "example.c", "-o", tmp_path / "example.o")
    run("cc", tmp_path / "example.o", *objects, "-lm", "-o", tmp_path / "example")
    assert_draws_like_python(tmp_path / "example")


def test_the_command_of_the_manual(
    csrc: Path,
    fast_build: list[str],
    run: Callable[..., str],
    assert_draws_like_python: Callable[..., None],
    tmp_path: Path,
) -> None:
    """The command without CMake in docs/embedding.md builds a program that draws like Python.

    The test compiles without optimising, which is faster and gives the same bits.
    """
    (command,) = re.findall(r"^cd csrc && (cc -std=c11 .*) && ./example$", MANUAL.read_text(), flags=re.M)
    program = tmp_path / "example"
    command = command.replace("-o example", f"-o {shlex.quote(str(program))}").replace("-O3", " ".join(fast_build))
    run("sh", "-c", f"cd {shlex.quote(str(csrc))} && {command}")
    assert_draws_like_python(program)


def test_the_manual_compiles(csrc: Path, run: Callable[..., str], tmp_path: Path) -> None:
    """The C code of docs/embedding.md, joined in one file, compiles as C11 and C++17 without a warning."""
    source = tmp_path / "manual.c"
    source.write_text("\n".join(re.findall(r"^```c\n(.*?)^```", MANUAL.read_text(), flags=re.M | re.S)))
    for compiler in (["cc", "-std=c11"], ["c++", "-std=c++17", "-x", "c++"]):
        assert run(*compiler, *HOST_FLAGS, "-Wno-unused-function", "-fsyntax-only", f"-I{csrc}", source) == ""


def test_the_example_fits_a_screen(csrc: Path) -> None:
    """The complete host csrc/example.c has less than 60 lines."""
    assert len((csrc / "example.c").read_text().splitlines()) < 60
