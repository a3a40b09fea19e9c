"""Server-sent events at the client's pace: bounded if it does not read, with comments during silence.

One task takes events from their source as they are made, so that the source never waits; the response sends the events
in the outbox.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import chain
from typing import TypeAlias

from starlette.types import Receive, Scope, Send

from decoding.server.budget import Budget
from decoding.server.piecewise import PiecewiseResponse

Event: TypeAlias = bytes | Iterator[str]
"""The data of an event: whole, or in pieces of which each is quickly made."""

COMMENT = b": keep-alive\n"
"""Without a blank line behind it, which some clients take for the end of an event."""

_AT_ONCE = 1 << 16
"""Bytes handed to the connection at a time."""
_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


class Outbox:
    """Data that waits to be sent.

    limit: `on_full` is called, once, when more bytes than this wait. While all outboxes together exceed `budget`, an
    outbox is full at its fair share of it. Data in pieces is not counted: it is in memory as an object already.
    """

    def __init__(self, limit: int, budget: Budget, share: int, on_full: Callable[[], None]) -> None:
        self._limit = limit
        self._share = share
        self._budget = budget
        self._on_full: Callable[[], None] | None = on_full
        self._waiting: deque[bytes | Iterator[bytes]] = deque()
        self._is_closed = False
        self._news = asyncio.Event()
        self._num_bytes = 0

    @property
    def is_empty(self) -> bool:
        """True if no data waits."""
        return not self._waiting

    def put(self, data: bytes | Iterator[bytes]) -> None:
        """Append data without waiting."""
        self._waiting.append(data)
        self._news.set()
        if isinstance(data, bytes):
            self._count(len(data))
            is_full = self._num_bytes > self._limit or (self._budget.is_exceeded and self._num_bytes > self._share)
            if is_full and self._on_full is not None:
                self._on_full()
                self._on_full = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate over the data until the outbox is closed, pieces one at a time."""
        while self._waiting or not self._is_closed:
            if not self._waiting:
                self._news.clear()
                await self._news.wait()
            elif isinstance(self._waiting[0], bytes):
                yield self._short()
            else:
                for piece in self._waiting.popleft():
                    yield piece  # type: ignore[misc]  # of bytes, as it is no bytes itself
                    await asyncio.sleep(0)  # a connection that takes everything does not give others a turn

    def close(self) -> None:
        """End the iteration after the data that waits."""
        self._is_closed = True
        self._news.set()

    def discard(self) -> None:
        """Drop all data, because the client has left, and end the iteration."""
        self._waiting.clear()
        self._count(-self._num_bytes)
        self.close()

    def _short(self) -> bytes:
        """Remove and return whole events from the front, several if they are small."""
        taken = bytearray()
        while self._waiting and isinstance(self._waiting[0], bytes) and len(taken) < _AT_ONCE:
            taken += self._waiting[0]
            self._waiting.popleft()
        self._count(-len(taken))
        return bytes(taken)

    def _count(self, num_bytes: int) -> None:
        self._num_bytes += num_bytes
        self._budget.num_bytes += num_bytes


class EventStream(PiecewiseResponse):
    """A response of events.

    was_taken: True if all events have been handed to the connection.
    """

    was_taken = False

    def __init__(self, events: AsyncIterator[Event], outbox: Outbox, keep_alive: float, *, is_silent: bool) -> None:
        """Set up the stream. keep_alive: seconds of silence before a comment. is_silent: True if that time is over
        already.
        """
        super().__init__(aiter(outbox), media_type="text/event-stream", headers=_HEADERS)
        self._events = events
        self._outbox = outbox
        self._keep_alive = keep_alive
        self._last = asyncio.get_running_loop().time() - keep_alive * is_silent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they end or the client leaves."""
        tasks = asyncio.ensure_future(self._pump()), asyncio.ensure_future(self._comment())
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.was_taken = tasks[0].done() and self._outbox.is_empty
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._outbox.discard()

    async def _pump(self) -> None:
        """Put every event into the outbox as soon as it exists."""
        try:
            async for event in self._events:
                self._outbox.put(b"data: " + event + b"\n\n" if isinstance(event, bytes) else _in_pieces(event))
                self._last = asyncio.get_running_loop().time()
        finally:
            self._outbox.close()

    async def _comment(self) -> None:
        """Send a comment if there has been no event for `keep_alive` seconds and the outbox is empty."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(max(0.0, self._last + self._keep_alive - loop.time()))
            if loop.time() >= self._last + self._keep_alive:
                self._last = loop.time()
                if self._outbox.is_empty:
                    self._outbox.put(COMMENT)


def joined(pieces: Iterator[str]) -> Iterator[bytes]:
    """Yield pieces of text as UTF-8, with short pieces joined."""
    texts, length = [], 0
    for piece in pieces:
        texts.append(piece)
        length += len(piece)
        if length >= _AT_ONCE:
            yield "".join(texts).encode()
            texts, length = [], 0
    yield "".join(texts).encode()


def _in_pieces(event: Iterator[str]) -> Iterator[bytes]:
    return joined(chain(("data: ",), event, ("\n\n",)))
