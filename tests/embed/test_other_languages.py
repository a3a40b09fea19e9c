"""The Rust crates and the Go module of examples/ read decoding.h by bindgen and cgo and draw like csrc/example.c."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
REFUSED = "row 0, top_p: an argument is null or outside its documented range"


def requires(*tools: str) -> pytest.MarkDecorator:
    """Return a mark that skips a test if one of the tools is missing."""
    return pytest.mark.skipif(not all(map(shutil.which, tools)), reason=f"needs {' and '.join(tools)}")


def copied(language: str, folder: Path) -> Path:
    """Return a copy of an example without build output."""
    ignored = shutil.ignore_patterns("target", "Cargo.lock")
    return Path(shutil.copytree(EXAMPLES / language, folder / language, ignore=ignored))


@pytest.fixture
def rust_host(run: Callable[..., str], tmp_path: Path) -> Callable[..., Path]:
    """Return a function that builds the crates offline with environment variables and returns the program."""

    def rust_host(**environment: str) -> Path:
        workspace = copied("rust", tmp_path)
        run("cargo", "build", "--offline", "--quiet", "--manifest-path", workspace / "Cargo.toml", **environment)
        return workspace / "target" / "debug" / "host"

    return rust_host


@requires("bindgen", "cargo")
def test_rust(
    prefix: Path,
    run: Callable[..., str],
    rust_host: Callable[..., Path],
    assert_draws_like_python: Callable[..., None],
) -> None:
    """The crates build with an installed library and draw Python's tokens; an error names row and field."""
    program = rust_host(DECODING_PREFIX=str(prefix))
    assert_draws_like_python(program)
    assert run(program).splitlines()[2] == REFUSED


@pytest.mark.slow
@requires("bindgen", "cargo", "cmake", "cc")
def test_rust_builds_the_sources(
    csrc: Path, rust_host: Callable[..., Path], assert_draws_like_python: Callable[..., None]
) -> None:
    """Without an installed library the crate builds csrc/ itself."""
    assert_draws_like_python(rust_host(DECODING_CSRC=str(csrc)))


@requires("go", "pkg-config")
def test_go(
    prefix: Path, run: Callable[..., str], assert_draws_like_python: Callable[..., None], tmp_path: Path
) -> None:
    """The module builds offline with the shared library and draws Python's tokens; an error names row and field."""
    libdir = prefix / "lib"
    environment = {"PKG_CONFIG_PATH": str(libdir / "pkgconfig"), "CGO_ENABLED": "1", "GOFLAGS": "-mod=mod"}
    module, program = copied("go", tmp_path), tmp_path / "example"
    run("go", "vet", "./...", cwd=module, GOPROXY="off", **environment)
    run("go", "build", "-o", program, "./example", cwd=module, GOPROXY="off", **environment)
    assert_draws_like_python(program, LD_LIBRARY_PATH=str(libdir))
    assert run(program, LD_LIBRARY_PATH=str(libdir)).splitlines()[2] == REFUSED
