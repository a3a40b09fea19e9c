"""csrc/ stands alone: a C and a C++ compiler, without any build system, are enough to embed it."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

HOST_FLAGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
NOT_THE_LIBRARY = {"example.c", "ffi.csrc.c", "kernel_avx2.c", "kernel_avx512.c", "kernel_neon.c"}
MANUAL = Path(__file__).resolve().parents[2] / "docs" / "embedding.md"

pytestmark = pytest.mark.skipif(
    shutil.which("cc") is None or shutil.which("c++") is None, reason="needs a C and a C++ compiler"
)


@pytest.fixture(scope="module")
def objects(csrc: Path, run: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The portable library, as object files."""
    folder = tmp_path_factory.mktemp("objects")
    for source in csrc.glob("*.c"):
        if source.name not in NOT_THE_LIBRARY:
            run("cc", "-std=c11", "-ffp-contract=off", "-c", source, "-o", folder / f"{source.stem}.o")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("compiler", [["cc", "-std=c11"], ["c++", "-std=c++17", "-x", "c++"]], ids=["C11", "C++17"])
def test_example_draws_what_python_draws(
    compiler: list[str],
    csrc: Path,
    objects: list[Path],
    run: Callable[..., str],
    assert_draws_like_python: Callable[..., None],
    tmp_path: Path,
) -> None:
    """A host in C or C++ gets the tokens and log-probabilities that a host in Python gets, without a warning."""
    run(*compiler, *HOST_FLAGS, "-c", csrc / "example.c", "-o", tmp_path / "example.o")
    run("cc", tmp_path / "example.o", *objects, "-lm", "-o", tmp_path / "example")
    assert_draws_like_python(tmp_path / "example")


def test_the_manual_names_every_source(csrc: Path) -> None:
    """The command line in docs/embedding.md that builds without CMake has all files of the portable library."""
    (command,) = re.findall(r"cc -std=c11 .*?-o example", MANUAL.read_text().replace("\\\n", ""), flags=re.S)
    named = {word for word in shlex.split(command) if word.endswith(".c")}
    assert named == {path.name for path in csrc.glob("*.c")} - NOT_THE_LIBRARY | {"example.c"}


def test_the_manual_compiles(csrc: Path, run: Callable[..., str], tmp_path: Path) -> None:
    """The C of docs/embedding.md, all of it in one file, gives no warning as C11 or as C++17."""
    source = tmp_path / "manual.c"
    source.write_text("\n".join(re.findall(r"^```c\n(.*?)^```", MANUAL.read_text(), flags=re.M | re.S)))
    for compiler in (["cc", "-std=c11"], ["c++", "-std=c++17", "-x", "c++"]):
        assert run(*compiler, *HOST_FLAGS, "-Wno-unused-function", "-fsyntax-only", f"-I{csrc}", source) == ""


def test_the_example_fits_a_screen(csrc: Path) -> None:
    """csrc/example.c, which the manual calls a complete host, is under 60 lines."""
    assert len((csrc / "example.c").read_text().splitlines()) < 60
