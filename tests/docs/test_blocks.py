"""Code of README.md and of the pages of docs/: it runs as it stands there, and prints what the page shows."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUNNER = Path(__file__).with_name("blocks.py")
ELSEWHERE = {"docs/embedding.md"}
"""Pages with a test of their own: tests/embed/test_manual.py."""

LANGUAGES = {"python", "sh", "text", "json", "c", "cpp"}


def load_runner() -> ModuleType:
    """Return tests/docs/blocks.py as a module."""
    spec = importlib.util.spec_from_file_location("blocks", RUNNER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


blocks = load_runner().blocks
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_CODE = [
    name
    for page in PAGES
    if (name := page.relative_to(ROOT).as_posix()) not in ELSEWHERE and any(block.is_run for block in blocks(page))
]


@contextmanager
def running_server(log: Path) -> Iterator[str]:
    """Start `decoding serve` with the bundled model and yield its address."""
    command = [sys.executable, "-m", "decoding", "serve", "--port", "0"]
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            while (address := re.search(r" on http://(127\.0\.0\.1:\d+)", log.read_text())) is None:
                assert process.poll() is None, log.read_text()
                time.sleep(0.05)
            yield address[1]
        finally:
            process.terminate()


def run_page(name: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the blocks of a page in a folder, where `checkpoint` is the bundled model."""
    (folder / "checkpoint").symlink_to(ROOT / "bundled_model")
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),  # of benchmarks
    }
    command = [sys.executable, str(RUNNER), str(ROOT / name), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("name", WITH_CODE)
def test_code_runs(name: str, tmp_path: Path) -> None:
    """Every block exits with 0 and prints the output that follows it on the page."""
    if any("127.0.0.1:8000" in block.code for block in blocks(ROOT / name) if block.is_run):
        pytest.importorskip("fastapi", reason="needs the extra `server`")
        with running_server(tmp_path / "server.log") as address:
            done = run_page(name, tmp_path, "--server", address)
    else:
        done = run_page(name, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_blocks_are_fenced(page: Path) -> None:
    """No code escapes the test above: each block has a language, and none is indented instead of fenced."""
    text = re.sub(r"^( *)```.*?^\1```\n", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert "```" not in text, "a block that does not end"
    assert re.findall(r"(?:^|\n\n) {4}\S.*", text) == [], "indented blocks"
    assert {block.language for block in blocks(page)} <= LANGUAGES


def test_few_blocks_are_left_out() -> None:
    """At most a third of the code does not run, and each such block has a reason."""
    code = [block for page in PAGES for block in blocks(page) if block.language in ("python", "sh")]
    left_out = [block for block in code if block.mark == "not run"]
    assert all(len(block.reason) > 10 for block in left_out)
    assert len(left_out) <= len(code) / 3
