"""Calls from another thread into an event loop that must not be lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

_RETRY_SECONDS = 0.01


def call_in_loop(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """Schedule `callback` in the loop, unless the loop is closed. Waits while there is no memory for the call."""
    while True:
        try:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(callback)
            return
        except MemoryError:
            time.sleep(_RETRY_SECONDS)
