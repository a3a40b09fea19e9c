"""Fixtures for all tests."""

from __future__ import annotations

import hashlib
import itertools
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

# The default profile is fast and has the same examples in every run; `full` searches for new ones:
#     HYPOTHESIS_PROFILE=full pytest tests/oracle tests/properties
_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
settings.register_profile("quick", max_examples=60, derandomize=True, database=None, **_COMMON)
settings.register_profile("full", max_examples=5000, print_blob=True, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

_ROOT = Path(__file__).resolve().parents[1]
_SHARED = _ROOT.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real models, tokenizers and published vectors beside the checkout."""
    if not _SHARED.is_dir():
        pytest.skip("needs the folder `shared` (real models, tokenizers, vectors) beside the checkout")
    return _SHARED


@pytest.fixture(autouse=True)
def _same_bits_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the seeds of requests without a seed reproducible; otherwise they come from the operating system."""
    calls = itertools.count()

    def token_bytes(count: int) -> bytes:
        return hashlib.blake2b(str(next(calls)).encode(), digest_size=count).digest()

    monkeypatch.setattr("decoding.sampling.state.secrets", SimpleNamespace(token_bytes=token_bytes))


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Return a function that returns a folder, and fills it once per run, however many processes run the tests.

    made_once(name, fill): call fill(folder) unless the folder of this name has been filled. Others wait meanwhile.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # this folder is the worker's, and the one above it the run's
        root = root.parent

    def made_once(name: str, fill: Callable[[Path], object]) -> Path:
        folder, is_filled = root / name, root / f"{name}.filled"
        with FileLock(root / f"{name}.lock"):
            if not is_filled.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of an attempt that failed
                folder.mkdir()
                fill(folder)
                is_filled.touch()
        return folder

    return made_once


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
def fast_build() -> list[str]:
    """Return a compiler's options that neither optimise nor inline: a tenth of the time, and the same bits."""
    return ["-O0", "-Dalways_inline=unused"]  # the attribute of the kernel's own functions; not of the intrinsics


@pytest.fixture(scope="session")
def quickly(fast_build: list[str], made_once: Callable[[str, Callable[[Path], object]], Path]) -> list[str]:
    """Return CMake options to compile with `fast_build`, and no file twice by the same command."""
    objects = made_once("compiled_once", lambda folder: None)
    once = f"sh {shlex.quote(str(Path(__file__).parent / 'compile_once.sh'))} {shlex.quote(str(objects))}"
    rule = f"{once} <OBJECT> <CMAKE_C_COMPILER> <DEFINES> <INCLUDES> <FLAGS> {' '.join(fast_build)} -c <SOURCE>"
    return [f"-DCMAKE_C_COMPILE_OBJECT={rule}", "-DCMAKE_DEPENDS_USE_COMPILER=OFF"]  # no output paths among the flags


@pytest.fixture(scope="session")
def package(
    quickly: list[str], run: Callable[..., str], made_once: Callable[[str, Callable[[Path], object]], Path]
) -> Path:
    """Return a folder with `build`, where CMake built csrc/, and `moved`, the installed package.

    It was moved after the installation, because no file may depend on its first path.
    """
    if shutil.which("cmake") is None or shutil.which("cc") is None:
        pytest.skip("needs cmake and a C compiler")

    def build(folder: Path) -> None:
        target = f"-DCMAKE_INSTALL_PREFIX={folder / 'first'}"
        run("cmake", "-S", _ROOT / "csrc", "-B", folder / "build", target, *quickly)
        run("cmake", "--build", folder / "build", "--parallel")
        run("cmake", "--install", folder / "build")
        (folder / "first").rename(folder / "moved")

    return made_once("package", build)
