"""Delivery: the news of the engine's steps, from its thread to the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable

from decoding.async_engine.handle import News, RequestHandle
from decoding.errors import EngineMemoryError

_AT_ONCE = 8
"""News delivered per turn of the event loop, so that other tasks run between the readers of a step."""
_PATIENCE = 0.05
"""Seconds that a step waits for a busy event loop."""


class Delivery:
    """Delivers news to their handles in the event loop, in the order in which the engine's thread posts them.

    open_handles: the handles of the open requests; those that are done are removed after a delivery.
    wake: wakes the engine's thread, which must then look at `needs_retry`.

    needs_retry: True if the engine's thread must call `schedule` after its step.
    """

    def __init__(self, open_handles: set[RequestHandle], wake: Callable[[], None]) -> None:
        self._open_handles = open_handles
        self._wake = wake
        self._loop: asyncio.AbstractEventLoop | None = None
        self._outbox: deque[News] = deque()
        self._is_due = False
        self._is_new_step = False
        self._caught_up = threading.Event()
        self._caught_up.set()
        self.needs_retry = False

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver in this event loop."""
        self._loop = loop

    # In the engine's thread

    def begin_step(self) -> None:
        """Let the next news wait for the delivery of those before."""
        self._is_new_step = True

    def post(self, news: News) -> None:
        """Pass news to the event loop, in one call per step.

        The first of a step wait until the loop has delivered those of the step before: the GIL goes back to the
        computing thread, and without this the loop would fall behind and deliver several steps at once.
        """
        if self._is_new_step:
            self._is_new_step = False
            self._caught_up.wait(_PATIENCE)
            self._caught_up.clear()
        self._outbox.append(news)
        self.schedule()

    def schedule(self) -> None:
        """Schedule `deliver` in the event loop, once for all news that are posted before it runs."""
        if self._is_due or self._loop is None:
            return
        self._is_due = True
        try:
            self._loop.call_soon_threadsafe(self.deliver)
        except RuntimeError:  # the loop is closed
            self._outbox.clear()
        except MemoryError:
            self._is_due = False
            self.needs_retry = True

    # In the event loop

    def deliver_all(self) -> None:
        """Deliver all posted news at once."""
        self.deliver()
        while self._outbox:
            self.deliver()

    def deliver(self) -> None:
        """Deliver some of the posted news, and schedule the delivery of the others."""
        is_last = len(self._outbox) <= _AT_ONCE
        self._is_due = not is_last
        try:
            for _ in range(min(len(self._outbox), _AT_ONCE)):
                self._deliver_one(self._outbox.popleft())
            if is_last:
                self._forget_done()
        finally:
            self._go_on(is_last)

    def _deliver_one(self, news: News) -> None:
        try:
            news.handle.take(news)
        except MemoryError:
            news.handle.fail(EngineMemoryError("no memory for a piece of the answer"))

    def _forget_done(self) -> None:
        """Forget the handles that are done, after failing those that the engine's thread has broken."""
        for handle in [handle for handle in self._open_handles if handle.is_done or handle.broken is not None]:
            self._open_handles.discard(handle)
            if handle.broken is not None:
                handle.fail(handle.broken)

    def _go_on(self, is_last: bool) -> None:
        if self._loop is None or (is_last and self._is_due):  # `deliver` is scheduled by newer news
            return
        try:
            self._loop.call_soon(self._settle if is_last else self.deliver)
        except MemoryError:
            self._is_due = False
            self.needs_retry = True
            self._wake()

    def _settle(self) -> None:
        """Let the next step post, once the readers have had a turn of the event loop to take their pieces."""
        if self._loop is not None:
            self._loop.call_soon(self._caught_up.set)
