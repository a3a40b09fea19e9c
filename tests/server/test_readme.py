"""README's examples of the server, as they are printed, against a server on the port that they name."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text().split("## Serve\n")[1].split("\n## ")[0]


@pytest.fixture
def address(serve):
    """Where the examples look for a server; port 8000 if it is free, else they are pointed to another."""
    with socket.socket() as probe:
        is_free = probe.connect_ex(("127.0.0.1", 8000)) != 0
    return f"127.0.0.1:{serve('--port=8000').port if is_free else serve().port}"


def block(language):
    """The one example in a language."""
    (code,) = re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.M | re.S)
    return code


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_curl_example(address):
    """A completion with log-probabilities."""
    command = block("sh").replace("127.0.0.1:8000", address)
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
    answer = json.loads(done.stdout)
    assert answer["usage"]["completion_tokens"] == 16
    assert len(answer["choices"][0]["logprobs"]["tokens"]) == 16


def test_the_openai_example(address):
    """Text, and nothing on stderr."""
    pytest.importorskip("openai", reason="needs the extra `test`")
    code = block("python").replace("127.0.0.1:8000", address)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (len(done.stdout) > 10, done.stderr) == (True, "")
