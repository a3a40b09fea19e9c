"""A server for the clients, and the same model in this process."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from decoding import LLM


@pytest.fixture(scope="session")
def folder(shared: Path) -> Path:
    """A model with a start token and an end token."""
    return shared / "models" / "stories260K"


@pytest.fixture(scope="session")
def llm(folder: Path) -> LLM:
    """The model, asked directly."""
    return LLM(folder)


@pytest.fixture(scope="session")
def address(folder: Path) -> Iterator[str]:
    """A server process with that model: http://HOST:PORT; one client asks for ten log-probabilities."""
    command = [sys.executable, "-m", "decoding", "serve", str(folder), "--port=0", "--max-logprobs=10"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        lines = iter(process.stderr.readline, "")
        yield next(found[1] for line in lines if (found := re.search(r" on (http://127\.0\.0\.1:\d+)", line)))
    finally:
        process.terminate()
        process.wait()
        process.stderr.close()
