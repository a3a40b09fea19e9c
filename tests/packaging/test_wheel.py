"""The wheel: typed, with its documents and its licence; and what a build without a compiler says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
UNREACHABLE = re.compile("Could not find a version|connection|No matching distribution|resolve", re.IGNORECASE)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel without its compiled module, which takes seconds: all other files are those of the real one."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "-C",
        "wheel.cmake=false",
        "-C",
        "wheel.py-api=py3",
        "-w",
        folder,
        ROOT,
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode and UNREACHABLE.search(done.stdout + done.stderr):
        pytest.skip("needs scikit-build-core from a package index")
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_has_what_its_users_need(wheel: Path) -> None:
    """Type information, the licence, and every document that a docstring names; nothing that only the site needs."""
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "decoding/py.typed" in names
    assert any(name.endswith("LICENSE") for name in names)
    sources = [path.read_text() for path in (ROOT / "decoding").rglob("*.py")]
    documents = {name for text in sources for name in re.findall(r"\bdocs/[\w/-]+\.md\b", text)}
    assert "docs/semantics.md" in documents
    assert {f"decoding/{name}" for name in documents} <= names
    assert [name for name in names if "/docs/reference/" in name or name.endswith((".png", ".css"))] == []


def test_a_user_s_script_is_type_checked(wheel: Path, tmp_path: Path) -> None:
    """A strict mypy sees the types of the installed wheel: it accepts right code and finds the one wrong line."""
    pytest.importorskip("mypy", reason="mypy is not installed")
    venv.create(tmp_path / "env", symlinks=True)
    python = tmp_path / "env" / "bin" / "python"
    purelib = sysconfig.get_path("purelib", "venv", vars={"base": str(tmp_path / "env")})
    zipfile.ZipFile(wheel).extractall(purelib)
    numpys = Path(pytest.importorskip("numpy").__file__).parents[1]
    (Path(purelib) / "dependencies.pth").write_text(f"{numpys}\n")
    shutil.copy(HERE / "user_script.py", tmp_path)
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "user_script.py"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, cwd=tmp_path)
    line = (
        (HERE / "user_script.py")
        .read_text()
        .splitlines()
        .index("wrong: str = batch.step(logits).token_ids  # the one error")
    )
    errors = [text for text in done.stdout.splitlines() if "error:" in text]
    assert len(errors) == 1, done.stdout + done.stderr
    assert errors[0].startswith(f"user_script.py:{line + 1}: error: Incompatible types in assignment")


@pytest.mark.skipif(not all(map(shutil.which, ("cmake", "cc", "env"))), reason="needs cmake and a C compiler")
def test_a_compiler_with_arguments(tmp_path: Path) -> None:
    """CC may be a command with a launcher, as in CC="ccache gcc"."""
    command = ["cmake", "-S", str(ROOT / "csrc"), "-B", str(tmp_path)]
    subprocess.run(command, capture_output=True, check=True, env=os.environ | {"CC": "env cc"})
    found = [path.read_text() for path in tmp_path.rglob("CMakeCCompiler.cmake")]
    assert any('set(CMAKE_C_COMPILER_ARG1 " cc")' in text for text in found)


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
def test_a_build_without_a_compiler_says_what_to_install(tmp_path: Path) -> None:
    """The first words of the error are ours, and name packages to install."""
    command = ["cmake", "-S", str(ROOT / "csrc"), "-B", str(tmp_path)]
    environment = os.environ | {"CC": "/nonexistent/cc"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    message = " ".join(done.stderr.split())
    assert done.returncode != 0
    assert message.startswith("CMake Error at CMakeLists.txt")
    assert "needs a compiler" in message
    assert "apt-get install gcc" in message
