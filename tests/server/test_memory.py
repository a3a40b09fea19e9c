"""Memory that runs out: a server whose address space is limited while it runs."""

from __future__ import annotations

import http.client
import re
import resource
import signal
import threading
from collections import Counter
from pathlib import Path

import pytest

if not hasattr(resource, "prlimit"):
    pytest.skip("needs prlimit, to limit another process's memory", allow_module_level=True)

REQUESTS = (
    {"max_tokens": 20, "n": 16, "logprobs": 5},
    {"max_tokens": 20, "n": 8, "stream": True},
    {"prompt": "漢" * 300_000},
    {"prompt": [97] * 100_000},
    {"prompt": "a" * 500, "n": 16, "max_tokens": 3, "logprobs": 5, "echo": True},
)
SERVED = {None, "context_length_exceeded"}


def leave_memory(server, mib):
    """Let the server's address space grow by so much from now on."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    size = int(re.search(r"^VmSize:\s+(\d+)", status, flags=re.M)[1]) * 1024
    limit = size + (mib << 20)
    resource.prlimit(server.process.pid, resource.RLIMIT_AS, (limit, limit))


def code_of(server, fields):
    """The error code of an answer, None if it is whole; "closed" if it ended too early."""
    try:
        answer = server.request("POST", "/v1/completions", {"prompt": "a", **fields})
    except (ConnectionResetError, http.client.HTTPException, ValueError):  # a chunk that is cut off is a ValueError
        return "closed"
    if answer.status != 200:
        return answer.error["code"]
    last = answer.events[-1] if fields.get("stream") else None
    return last["error"]["code"] if isinstance(last, dict) else None


@pytest.mark.parametrize("mib", [1, 24, 150])
def test_memory_that_runs_out(serve_script, mib):
    """Every request ends: with 503 if there is no memory for it, closed if there is none to go on with its answer. Then
    SIGTERM ends the process in time.

    If the engine itself has died of it, the process ends with code 1, after every client has got an error.
    """
    server = serve_script("plain")
    server.complete(max_tokens=1)
    leave_memory(server, mib)
    codes = []
    threads = [threading.Thread(target=lambda f=f: codes.append(code_of(server, f))) for f in 2 * REQUESTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert len(codes) == len(threads)
    has_ended = server.process.poll()
    lost = {"internal_error", "shutting_down"} if has_ended is not None else set()
    assert set(codes) <= SERVED | {"out_of_memory", "closed"} | lost, (Counter(codes), has_ended, server.lines[-3:])
    if has_ended is None:
        has_ended = server.stop(signal.SIGTERM)
    assert has_ended in (0, 1)
