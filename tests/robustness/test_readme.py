"""Every Python example of README.md, docs/engine.md and docs/embedding.md runs as printed in a new process."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def fenced(path: Path) -> list[str]:
    """Return the blocks that are marked as Python."""
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), flags=re.M | re.S)


def indented_after(path: Path, heading: str) -> str:
    """Return the first indented block below a heading."""
    section = path.read_text().split(f"## {heading}\n")[1]
    block = re.search(r"(?:^    .*\n|^\n)+", section[section.index("    ") :], flags=re.M)
    assert block is not None
    return textwrap.dedent(block.group())


README = [code for code in fenced(ROOT / "README.md") if "from openai" not in code]  # tested in tests/server
EMBEDDING = indented_after(ROOT / "docs" / "embedding.md", "From Python")


ENGINE = fenced(ROOT / "docs" / "engine.md")


def test_all_examples_are_found() -> None:
    """The parser finds all examples."""
    assert (len(README), len(ENGINE)) == (8, 1)


@pytest.mark.parametrize(
    "code", [*README, *ENGINE, EMBEDDING], ids=[*(f"README-{i}" for i in range(1, 9)), "engine", "embedding"]
)
def test_example_runs(code: str, tmp_path: Path) -> None:
    """An example exits with 0 and writes nothing to stderr."""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
