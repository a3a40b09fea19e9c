"""README's examples of the server run as printed against a server on their port."""

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
    """Return the address of a server for the examples, on their port 8000 if it is free."""
    with socket.socket() as probe:
        is_free = probe.connect_ex(("127.0.0.1", 8000)) != 0
    return f"127.0.0.1:{serve('--port=8000').port if is_free else serve().port}"


def block(language):
    """Return the only example in a language."""
    (code,) = re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.M | re.S)
    return code


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_curl_example(address):
    """The curl example gets a completion with log-probabilities."""
    command = block("sh").replace("127.0.0.1:8000", address)
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
    answer = json.loads(done.stdout)
    assert answer["usage"]["completion_tokens"] == 16
    assert len(answer["choices"][0]["logprobs"]["tokens"]) == 16


def test_the_openai_example(address):
    """The example of the `openai` SDK prints text, and nothing to stderr."""
    pytest.importorskip("openai", reason="needs the extra `test`")
    code = block("python").replace("127.0.0.1:8000", address)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (len(done.stdout) > 10, done.stderr) == (True, "")
