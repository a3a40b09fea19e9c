"""What holds the server's event loop: the slowest answer to /health while large or awkward requests are served.

Part of `python -m benchmarks.server`; `--held` measures nothing else. Another process asks for the server's health
fifty times a second, from before the requests come until they are answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any, NamedTuple

from benchmarks.server_client import answer, health_answers

_HEAD = b"POST %s HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
_IDLE_SECONDS = 3.0
_NUM_IDS = 131_072
_STOPS = [chr(97 + index) * 1023 + "!" for index in range(16)]  # 16 kB
_LARGE = {"prompt": [[300 + index % 100 for index in range(500)]] * 8, "n": 128, "logprobs": 5, "echo": True}

Load = Callable[[int, str], Awaitable[Any]]
"""(port, model) -> when it is over."""


async def raw(port: int, data: bytes) -> int:
    """Send bytes on a connection of their own, and read the answer to its end. Return its size."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    writer.write(data)
    num_bytes = 0
    with contextlib.suppress(ConnectionError):  # it may be refused before it is read
        while piece := await reader.read(1 << 20):
            num_bytes += len(piece)
    writer.close()
    return num_bytes


def whole(path: bytes, body: dict[str, Any]) -> bytes:
    """Return a request with its length declared."""
    data = json.dumps(body).encode()
    return _HEAD % path + b"content-length: %d\r\n\r\n" % len(data) + data


async def _nothing(port: int, name: str) -> None:
    await asyncio.sleep(_IDLE_SECONDS)


async def _token_ids(port: int, name: str) -> None:
    data = whole(b"/v1/completions", {"model": name, "prompt": [100_000] * _NUM_IDS})
    await asyncio.gather(*(raw(port, data) for _ in range(20)))


async def _large_answer(port: int, name: str) -> float:
    return await raw(port, whole(b"/v1/completions", {"model": name, **_LARGE, "max_tokens": 4})) / 1e6


async def _tiny_chunks(port: int, name: str) -> None:
    body = json.dumps({"model": name, "prompt": "a" * 1_000_000}).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    await raw(port, _HEAD % b"/tokenize" + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")


async def _long_stops(port: int, name: str) -> None:
    data = whole(b"/v1/completions", {"model": name, "prompt": "Once", "max_tokens": 100, "stop": _STOPS})
    await asyncio.gather(*(raw(port, data) for _ in range(20)))


async def _long_texts(port: int, name: str) -> None:
    data = whole(b"/tokenize", {"model": name, "prompt": "Once upon a time " * 60_000})
    await asyncio.gather(*(raw(port, data) for _ in range(12)))


async def _many_headers(port: int, name: str) -> None:
    await asyncio.gather(*(raw(port, b"GET /health HTTP/1.1\r\n" + b"a:\r\n" * 9000 + b"\r\n") for _ in range(20)))


LOADS: dict[str, Load] = {
    "nothing": _nothing,
    "20 bodies of 131,072 token ids": _token_ids,
    "an answer of 85 MB or more": _large_answer,
    "a body of 1 MB in chunks of 1 byte": _tiny_chunks,
    "20 requests with 16 kB of stop strings": _long_stops,
    "12 texts of 1 MB to tokenise": _long_texts,
    "20 requests of 9,000 headers": _many_headers,
}


class Hold(NamedTuple):
    """Seconds that answers to /health took beside a load: the slowest, and the median.

    late: maximum delay of a timer in the process that asks, a measure of the machine's own delays.
    found: the load's return value.
    """

    slowest: float
    middle: float
    late: float
    found: Any


async def slowest_health(port: int, load: Awaitable[Any]) -> Hold:
    """Ask for /health while the load lasts, and return the times."""
    command = [sys.executable, "-m", "benchmarks.server_client", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as probe:
        assert probe.stdout is not None
        probe.stdout.readline()
        found = await load
        _, last, _ = await answer(port, "GET", "/health")
        probe.terminate()
        answers = health_answers(probe.stdout)
    times = [*(one.seconds for one in answers), last]
    return Hold(max(times), median(times), max((one.late for one in answers), default=0.0), found)


async def held(port: int, name: str) -> dict[str, float]:
    """Return the slowest answer to /health for each load, in ms."""
    figures = {}
    for kind, load in LOADS.items():
        hold = await slowest_health(port, load(port, name))
        figures[f"health beside {kind}, slowest, ms"] = 1e3 * hold.slowest
        figures[f"  median beside {kind}"] = 1e3 * hold.middle
        figures[f"  delay of another process beside {kind}"] = 1e3 * hold.late
        if hold.found is not None:
            figures["  MB of that answer"] = hold.found
    return figures
