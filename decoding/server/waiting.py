"""Wait for work while the client waits for its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from starlette.requests import Request

from decoding.completions_api.errors import ApiError

_T = TypeVar("_T")


class ClientGoneError(Exception):
    """The client has left, so the answer is not needed."""


def timeout_error(seconds: float) -> ApiError:
    """Return the error of a completion that has taken too long."""
    return ApiError(504, f"the completion took more than {seconds:g} s", code="timeout")


async def unless_gone(request: Request, work: Awaitable[_T], seconds: float) -> _T:
    """Return the result of `work`. Raise ApiError 504 if it takes too long, ClientGoneError if the client leaves."""
    task = asyncio.ensure_future(work)
    try:
        if not await first_of(request, task, seconds):
            raise timeout_error(seconds)
        return task.result()
    finally:
        task.cancel()
        del task  # an error's traceback refers to this frame, and the task to the error


async def first_of(request: Request, task: asyncio.Future[Any], seconds: float) -> bool:
    """Wait at most `seconds` for `task`; return True if it is done. Raise ClientGoneError if the client leaves."""
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if gone.done() and not task.done():
            raise ClientGoneError
        return task.done()
    finally:
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
