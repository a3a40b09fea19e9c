"""Stream completions with a small asyncio client that notes when each event arrives.

HTTP is read by hand because the client shares two cores with the server. As a program,
`python -m benchmarks.server_client PORT`, it asks for the server's health fifty times per second and prints the
seconds that each answer took, and by how many its own timer was late before.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

_PAUSE = 0.02
_HEAD = (
    "POST {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-type: application/json\r\n"
    "content-length: {length}\r\n\r\n"
)


@dataclass
class Arrivals:
    """An answer: its status, the times of its events (seconds since the request was sent), and the time of its end."""

    status: int = 0
    times: list[float] = field(default_factory=list)
    seconds: float = 0.0
    is_whole: bool = False

    @property
    def gaps(self) -> list[float]:
        """Return the seconds between each event with text and the next."""
        return [after - before for before, after in pairwise(self.times)]


async def stream(port: int, body: dict[str, Any], path: str = "/v1/completions") -> Arrivals:
    """Request one streamed completion."""
    data = json.dumps({**body, "stream": True}).encode()
    arrivals = Arrivals()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    start = time.perf_counter()
    writer.write(_HEAD.format(path=path, host=f"127.0.0.1:{port}", length=len(data)).encode() + data)
    try:
        arrivals.status = int((await reader.readline()).split()[1])
        async for line in reader:
            if line.startswith(b"data: [DONE]"):
                arrivals.is_whole = True
            elif line.startswith(b"data: {"):
                arrivals.times.append(time.perf_counter() - start)
    finally:
        arrivals.seconds = time.perf_counter() - start
        writer.close()
    return arrivals


async def seconds_of(port: int, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, float]:
    """Return status and duration of one request on its own connection."""
    status, seconds, _ = await answer(port, method, path, body)
    return status, seconds


async def answer(port: int, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, float, bytes]:
    """Return status, duration and body of one request on its own connection."""
    data = b"" if body is None else json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    start = time.perf_counter()
    head = _HEAD.format(path=path, host="x", length=len(data)).replace("POST", method)
    writer.write(head.encode() + data)
    status = int((await reader.readline()).split()[1])
    page = await reader.read()
    writer.close()
    return status, time.perf_counter() - start, page


class HealthAnswer(NamedTuple):
    """An answer to /health.

    seconds: the time that it took.
    late: seconds by which the timer of the pause before it was late.
    """

    seconds: float
    late: float


def health_answers(lines: Iterable[str]) -> list[HealthAnswer]:
    """Parse the lines that this program prints."""
    return [HealthAnswer(*map(float, line.split())) for line in lines]


async def _ask_for_health(port: int) -> None:
    """Print the seconds of each answer, and by how many the timer of the pause before it was late."""
    late = 0.0
    while True:
        status, seconds = await seconds_of(port, "GET", "/health")
        assert status == 200
        print(seconds, late, flush=True)
        start = time.perf_counter()
        await asyncio.sleep(_PAUSE)
        late = time.perf_counter() - start - _PAUSE


if __name__ == "__main__":
    asyncio.run(_ask_for_health(int(sys.argv[1])))
