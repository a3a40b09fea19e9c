"""Code blocks of the documentation: found in a page, and run in order.

    python tests/docs/blocks.py PAGE [--server HOST:PORT]    # in an empty folder

All Python blocks of a page share one namespace; shell blocks run in bash. A `text` block right after a block is the
output that it must print. 127.0.0.1:8000 in a block is replaced by the address of a server. A comment before a block
leaves it out: `<!-- not run: REASON -->` always, `<!-- needs: NAME, ... -->` if a module or command is absent.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>not run|needs): (?P<text>[^>]+) -->\n)?"
    r"^(?P<indent> *)```(?P<language>\S*)\n(?P<code>.*?)^(?P=indent)```\n"
    r"(?:\n```text\n(?P<output>.*?)^```\n)?",
    flags=re.MULTILINE | re.DOTALL,
)
DOCUMENTED_SERVER = "127.0.0.1:8000"


class Block(NamedTuple):
    """A fenced block. mark: "not run", "needs" or None. output: the text that the block must print, if it is given."""

    line: int
    language: str
    code: str
    mark: str | None
    reason: str | None
    output: str | None

    @property
    def is_run(self) -> bool:
        """Return True if the block is code that can run here."""
        if self.language not in ("python", "sh") or self.mark == "not run":
            return False
        return self.mark is None or all(map(is_present, re.split(r",\s*", self.reason or "")))


def is_present(name: str) -> bool:
    """Return True if there is a module or a command of this name."""
    return importlib.util.find_spec(name) is not None or shutil.which(name) is not None


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page."""
    text = page.read_text()
    return [
        Block(
            text.count("\n", 0, found.start()) + 1,
            found["language"],
            re.sub(f"^{found['indent']}", "", found["code"], flags=re.MULTILINE),
            found["mark"],
            found["text"],
            found["output"],
        )
        for found in BLOCK.finditer(text)
    ]


def run(block: Block, page: Path, names: dict[str, object], server: str | None) -> str:
    """Run a block and return what it prints; raise the exception with which it fails."""
    code = block.code if server is None else block.code.replace(DOCUMENTED_SERVER, server)
    if block.language == "sh":
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", code], stdout=subprocess.PIPE, text=True, check=True
        ).stdout
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, f"{page.name}, block at line {block.line}", "exec"), names)
    return printed.getvalue()


def stripped(text: str) -> list[str]:
    """Return the lines without the spaces at their ends, which editors remove."""
    return [line.rstrip() for line in text.strip().splitlines()]


def main() -> None:
    """Run the blocks of a page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("page", type=Path)
    parser.add_argument("--server")
    arguments = parser.parse_args()
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(arguments.page):
        if block.is_run:
            printed = run(block, arguments.page, names, arguments.server)
            if block.output is not None and stripped(printed) != stripped(block.output):
                sys.exit(f"{arguments.page}, block at line {block.line}, prints:\n{printed}")


if __name__ == "__main__":
    main()
