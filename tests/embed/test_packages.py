"""The package csrc/: installed and found by pkg-config and CMake, or added as a subdirectory."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from decoding import __version__
from decoding.sampling.kernel import ABI_VERSION

CONSUMER = Path(__file__).parent / "consumer"
TOOLS = ("cmake", "cc", "c++")

pytestmark = [
    pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason=f"needs {', '.join(TOOLS)}"),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into ELF files"),
]


@pytest.mark.parametrize("kind", ["static", "shared"])
def test_pkg_config(
    kind: str,
    csrc: Path,
    prefix: Path,
    pkg_config: Callable[..., list[str]],
    run: Callable[..., str],
    assert_draws_like_python: Callable[..., None],
    tmp_path: Path,
) -> None:
    """The example builds with pkg-config's flags, statically and dynamically, and draws like Python."""
    (libdir,) = pkg_config("--variable=libdir")
    libraries = [f"{libdir}/libdecoding.a", "-lm"] if kind == "static" else pkg_config("--libs")
    program = tmp_path / "example"
    run("cc", "-std=c11", *pkg_config("--cflags"), csrc / "example.c", *libraries, "-o", program)
    assert_draws_like_python(program, LD_LIBRARY_PATH=libdir if kind == "shared" else "")


def test_the_version_in_pkg_config(pkg_config: Callable[..., list[str]]) -> None:
    """The installed library has the version of the Python package."""
    assert pkg_config("--modversion") == [__version__]


@pytest.mark.parametrize("source", ["find_package", "add_subdirectory"])
def test_cmake(
    source: str,
    csrc: Path,
    prefix: Path,
    quickly: list[str],
    run: Callable[..., str],
    assert_draws_like_python: Callable[..., None],
    tmp_path: Path,
) -> None:
    """A CMake host finds the installed package or adds the subdirectory: C11 and C++17, static and shared."""
    where = f"-DCMAKE_PREFIX_PATH={prefix}" if source == "find_package" else f"-DDECODING_CSRC={csrc}"
    run("cmake", "-S", CONSUMER, "-B", tmp_path, f"-DEXAMPLE={csrc / 'example.c'}", where, *quickly)
    run("cmake", "--build", tmp_path, "--parallel")
    for program in ("decoding_c", "decoding_cpp", "decoding_shared_c", "decoding_shared_cpp"):
        assert_draws_like_python(tmp_path / program)


def test_a_subdirectory_installs_nothing(csrc: Path, run: Callable[..., str], tmp_path: Path) -> None:
    """A host that adds the subdirectory does not install the library's files."""
    run("cmake", "-S", CONSUMER, "-B", tmp_path, f"-DEXAMPLE={csrc / 'example.c'}", f"-DDECODING_CSRC={csrc}")
    run("cmake", "--install", tmp_path, "--prefix", tmp_path / "prefix")
    assert not (tmp_path / "prefix").exists()


def test_the_exports_of_the_shared_library(prefix: Path, run: Callable[..., str]) -> None:
    """The shared library exports exactly the functions of decoding.h, and its soname has the ABI version."""
    library = prefix / "lib" / "libdecoding.so"
    exported = {line.split()[-1] for line in run("nm", "--dynamic", "--defined-only", library).splitlines()}
    header = (prefix / "include" / "decoding.h").read_text()
    assert exported == set(re.findall(r"^DECODING_API .*?(decoding_\w+)\(", header, flags=re.MULTILINE))
    assert f"[libdecoding.so.{ABI_VERSION}]" in run("readelf", "--dynamic", library)
