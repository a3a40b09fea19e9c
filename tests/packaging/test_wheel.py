"""The wheel has types, documents and licence; a build without a compiler has a helpful error."""

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
    """Return a wheel without the compiled module, which builds in seconds; its other files are the real wheel's."""
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


def test_the_files_of_the_wheel(wheel: Path) -> None:
    """The wheel has types, licence, the playground's files and the documents that docstrings name; not the site's."""
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "decoding/py.typed" in names
    assert any(name.endswith("LICENSE") for name in names)
    page = {path.name for path in (ROOT / "decoding/server/playground").iterdir() if path.is_file()}
    assert {"index.html", "main.js", "playground.css", "icon.svg"} <= page
    assert {f"decoding/server/playground/{name}" for name in page} <= names
    sources = [path.read_text() for path in (ROOT / "decoding").rglob("*.py")]
    documents = {name for text in sources for name in re.findall(r"\bdocs/[\w/-]+\.md\b", text)}
    assert "docs/semantics.md" in documents
    assert {f"decoding/{name}" for name in documents} <= names
    of_the_site = ("/docs/reference/", "/docs/assets/", ".png")
    assert [name for name in names if any(part in name for part in of_the_site)] == []


def test_types_of_the_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    """With the installed wheel strict mypy accepts correct code and finds the one wrong line."""
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
    """The variable CC may be a command with a launcher, as in CC="ccache gcc"."""
    command = ["cmake", "-S", str(ROOT / "csrc"), "-B", str(tmp_path)]
    subprocess.run(command, capture_output=True, check=True, env=os.environ | {"CC": "env cc"})
    found = [path.read_text() for path in tmp_path.rglob("CMakeCCompiler.cmake")]
    assert any('set(CMAKE_C_COMPILER_ARG1 " cc")' in text for text in found)


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
def test_a_build_without_a_compiler(tmp_path: Path) -> None:
    """Without a compiler the error begins with our message, which names packages to install."""
    command = ["cmake", "-S", str(ROOT / "csrc"), "-B", str(tmp_path)]
    environment = os.environ | {"CC": "/nonexistent/cc"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    message = " ".join(done.stderr.split())
    assert done.returncode != 0
    assert message.startswith("CMake Error at CMakeLists.txt")
    assert "needs a compiler" in message
    assert "apt-get install gcc" in message
