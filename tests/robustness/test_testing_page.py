"""The examples of docs/testing.md run in order as printed and print the text of the page."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "testing.md"


def blocks(kind: str) -> str:
    """Return all blocks of a language, joined."""
    return "\n".join(re.findall(rf"^```{kind}\n(.*?)^```", PAGE.read_text(), flags=re.M | re.S))


def test_the_page_is_true(tmp_path: Path) -> None:
    """The worked example finds the bug that the page describes, and the corrected sampler passes."""
    done = subprocess.run(
        [sys.executable, "-c", blocks("python")], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    shown = [line.rstrip() for line in blocks("text").splitlines() if line]
    assert [line.rstrip() for line in done.stdout.splitlines()] == shown
    assert any(line.startswith("top_p.crossing: ") for line in shown)
