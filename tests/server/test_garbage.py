"""A request over HTTP leaves no circle of objects for the garbage collector, however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import signal
import socket
import struct
import time
import weakref
from types import SimpleNamespace

import pytest

from decoding.server import garbage

ASYNCIO = {"_SelectorSocketTransport", "TransportSocket", "socket", "tuple", "dict", "method"}
"""Types in the circle that asyncio leaves for each closed connection: the transport refers to a method of its own."""
JSON = {"content-type": "application/json"}
KEEP_ALIVE_SECONDS = 5
"""uvicorn's default."""
LARGE = {"prompt": "a" * 1000, "max_tokens": 60, "n": 8, "logprobs": 5, "echo": True}
"""An answer of megabytes."""


def garbage_of(server, work):
    """The types of what only the garbage collector freed after `work`, called once before; without asyncio's own."""
    work()
    collect(server)
    found = set()
    for _ in range(2):  # on a busy machine, objects of the work itself can be caught in the middle
        work()
        found = set(collect(server)) - ASYNCIO
        if not found:
            break
    return found


def collect(server):
    """The server's garbage since the last collection, once it has nothing to do: type -> number."""
    num_lines = len(server.lines)
    server.wait_until_idle()
    time.sleep(0.2)  # the loop winds up the last request
    server.process.send_signal(signal.SIGUSR1)
    server.wait_until(lambda: any(line.startswith("garbage: ") for line in server.lines[num_lines:]))
    found = next(line for line in server.lines[num_lines:] if line.startswith("garbage: "))
    return json.loads(found.removeprefix("garbage: "))


def leave(server, num_bytes, path="/v1/completions", **fields):
    """Read so many bytes of an answer, and go."""
    with contextlib.closing(server.connect()) as connection:
        body = {"model": "scripted", "prompt": "a", "max_tokens": 3000, **fields}
        connection.request("POST", path, json.dumps(body), JSON)
        if num_bytes:
            connection.sock.recv(num_bytes)


WAYS = {
    "a whole answer": lambda server: server.complete(max_tokens=5),
    "a long answer": lambda server: server.complete(**LARGE),
    "a stream": lambda server: server.complete(max_tokens=5, stream=True),
    "left before its answer": lambda server: leave(server, 0),
    "a stream left at its first bytes": lambda server: leave(server, 1, stream=True),
    "a long answer left at its first bytes": lambda server: leave(server, 1, **LARGE),
    "a chat stream left": lambda server: leave(server, 1, "/v1/chat/completions", messages=[{"role": "user"}]),
    "refused by its fields": lambda server: server.complete(temperature=-1),
    "too long for the context": lambda server: server.complete(prompt="a" * 5000),
    "too long for the context, streamed": lambda server: server.complete(prompt="a" * 5000, stream=True),
    "no such model": lambda server: server.complete(model="other"),
    "no such route": lambda server: server.request("GET", "/nowhere"),
    "not JSON": lambda server: server.request("POST", "/v1/completions", b"{"),
    "tokenised": lambda server: server.request("POST", "/tokenize", {"prompt": "abc"}),
    "health": lambda server: server.request("GET", "/health"),
}


def test_no_garbage(serve_script):
    """Whether it is served, left at any time, or refused."""
    server = serve_script("plain", "garbage=1")
    found = {way: garbage_of(server, lambda work=work: [work(server) for _ in range(2)]) for way, work in WAYS.items()}
    assert {way: types for way, types in found.items() if types} == {}


@pytest.mark.parametrize("behaviour", ["nan", "broken"])
def test_no_garbage_of_failures(serve_script, behaviour):
    """Nor where rows or steps fail, before the first token of a stream or after it."""
    server = serve_script(behaviour, "garbage=1")
    found = {
        (prompt, stream): garbage_of(server, lambda p=prompt, s=stream: server.complete(prompt=p, stream=s))
        for prompt in (("N", "M") if behaviour == "nan" else ("B", "H"))
        for stream in (False, True)
    }
    assert {way: types for way, types in found.items() if types} == {}


def reset(server):
    """Reset a connection that is kept alive after an answer, and wait until its timer would have fired."""
    with contextlib.closing(server.connect()) as connection:
        connection.request("GET", "/health")
        connection.getresponse().read()
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    time.sleep(KEEP_ALIVE_SECONDS + 0.5)


def test_no_garbage_of_a_reset(serve_script):
    """Nor where the client resets the connection instead of closing it."""
    server = serve_script("plain", "garbage=1")
    assert garbage_of(server, lambda: reset(server)) == set()


def test_no_garbage_of_a_timeout(serve_script):
    """Nor where the time is over."""
    server = serve_script("paced", "garbage=1", "request_timeout=0.3")
    for stream in (False, True):
        assert garbage_of(server, lambda s=stream: server.complete(max_tokens=3000, stream=s)) == set()


class Node:
    """An object that may refer to itself."""


def test_garbage_is_collected_when_no_request_is_open():
    """What is old enough to wait for a full collection goes as soon as it is due and the server is idle."""
    before = gc.get_threshold()
    try:
        garbage.spare_pauses()
        node = Node()
        node.itself, alive = node, weakref.ref(node)
        gc.collect(1)
        del node
        garbage.collect_if_due()  # too soon
        assert alive() is not None
        for _ in range(20):
            gc.collect(1)
        assert alive() is not None
        garbage.collect_if_due()
        assert alive() is None
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@pytest.mark.parametrize(("num_open", "is_collected"), [(0, True), (1, False)])
def test_only_an_idle_server_collects(monkeypatch, num_open, is_collected):
    """The server's periodic work collects garbage if and only if no request is open."""
    import uvicorn

    from decoding.server import run

    calls = []
    monkeypatch.setattr(run, "collect_if_due", lambda: calls.append(True))
    service = SimpleNamespace(num_open=num_open, has_failed=False)
    server = run._Server(uvicorn.Config(None, log_config=None), service, 1, None)
    asyncio.run(server.on_tick(1))
    assert bool(calls) == is_collected
