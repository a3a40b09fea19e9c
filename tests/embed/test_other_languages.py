"""decoding.h is what bindgen and cgo can read: csrc/example.c in Rust and in Go draws the same tokens."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def requires(*tools: str) -> pytest.MarkDecorator:
    """Skip where one of the tools is missing."""
    return pytest.mark.skipif(not all(map(shutil.which, tools)), reason=f"needs {' and '.join(tools)}")


@requires("bindgen", "rustc")
def test_rust(
    prefix: Path, run: Callable[..., str], assert_draws_like_python: Callable[..., None], tmp_path: Path
) -> None:
    """The header is read by bindgen as it stands, and Rust links the static library."""
    run("bindgen", prefix / "include" / "decoding.h", "-o", tmp_path / "decoding.rs")
    source = shutil.copy(HERE / "rust" / "main.rs", tmp_path)
    libraries = ["-L", f"native={prefix / 'lib'}", "-l", "static=decoding", "-l", "m"]
    run("rustc", source, *libraries, "-o", tmp_path / "example")
    assert_draws_like_python(tmp_path / "example")


@requires("go", "pkg-config")
def test_go(
    prefix: Path, run: Callable[..., str], assert_draws_like_python: Callable[..., None], tmp_path: Path
) -> None:
    """The header is read by cgo as it stands, and Go links the shared library."""
    libdir = prefix / "lib"
    environment = {"PKG_CONFIG_PATH": str(libdir / "pkgconfig"), "GO111MODULE": "off", "CGO_ENABLED": "1"}
    source = shutil.copy(HERE / "go" / "main.go", tmp_path)  # where it was built before, go keeps old library paths
    run("go", "build", "-o", tmp_path / "example", source, **environment)
    assert_draws_like_python(tmp_path / "example", LD_LIBRARY_PATH=str(libdir))
