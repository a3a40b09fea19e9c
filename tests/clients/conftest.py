"""Fixtures: a server for the clients, and its model in this process."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from decoding import LLM
from decoding.chat import ChatFormat


@pytest.fixture(scope="session")
def folder(shared: Path) -> Path:
    """Return a model with a start token and an end token."""
    return shared / "models" / "stories260K"


TEMPLATE = Path(__file__).parents[1] / "server" / "chat.jinja"


@pytest.fixture(scope="session")
def llm(folder: Path) -> LLM:
    """Return the server's model, loaded in this process."""
    one = LLM(folder)
    one.chat_format = ChatFormat(one.tokenizer, chat_template=TEMPLATE.read_text())
    return one


@pytest.fixture(scope="session")
def address(folder: Path) -> Iterator[str]:
    """Yield http://HOST:PORT of a server process with the model; a client requests ten log-probabilities."""
    template = f"--chat-template={TEMPLATE}"
    command = [sys.executable, "-m", "decoding", "serve", str(folder), "--port=0", "--max-logprobs=10", template]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        lines = iter(process.stderr.readline, "")
        yield next(found[1] for line in lines if (found := re.search(r" on (http://127\.0\.0\.1:\d+)", line)))
    finally:
        process.terminate()
        process.wait()
        process.stderr.close()
