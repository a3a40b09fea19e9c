"""Read a request's JSON: bounded as it arrives, and parsed without blocking other requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from decoding.completions_api.body import parse_object
from decoding.completions_api.errors import ApiError
from decoding.server.service import Service

_T = TypeVar("_T")

_SMALL = 1 << 14
_MOST_DISCARDED = 1 << 25
_YIELD = 1e-4


async def read_json(request: Request, service: Service, parse: Callable[[dict[str, Any]], _T]) -> _T:
    """Return the result of `parse` on the JSON object in a request's body.

    Raises ApiError: 415 for another content type, 413 if the body is too large, 503 if all bodies together are, 408 if
    it does not arrive in time, 400 for invalid JSON; and any error of `parse`, which runs in a thread for a long body.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # a web page can send other types to this host without the user knowing, JSON only if we allowed it
        raise ApiError(415, "content-type: must be application/json", code="unsupported_media_type")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(415, "content-encoding: must be absent", code="unsupported_media_type")
    settings = service.settings
    with _Body(service) as body:
        try:
            async with asyncio.timeout(settings.body_timeout):
                await body.receive(request)
        except TimeoutError:
            rule = f"body: must be there within {settings.body_timeout:g} s (--body-timeout)"
            raise ApiError(408, rule, code="body_timeout") from None

        def parsed() -> _T:
            return parse(parse_object(bytes(body.data), settings.api.limits.json_values, _yield_gil))

        if len(body.data) <= _SMALL:
            return parsed()
        return await service.parsed(parsed)


def _yield_gil() -> None:
    """Sleep for so long that a waiting event loop gets the GIL at once, and not after the switch interval."""
    time.sleep(_YIELD)


class _Body:
    """The bytes of one body. Until they are parsed they count against the budget of all bodies."""

    def __init__(self, service: Service) -> None:
        self._budget = service.bodies
        self._limit = service.settings.body_bytes
        self.data = bytearray()

    def __enter__(self) -> _Body:
        return self

    def __exit__(self, *_: object) -> None:
        self._budget.num_bytes -= len(self.data)

    async def receive(self, request: Request) -> None:
        """Read the whole body."""
        declared = request.headers.get("content-length", "")
        if not (declared.isascii() and declared.isdigit() and int(declared[:20]) > self._limit):
            async for piece in request.stream():
                self.data += piece
                self._budget.num_bytes += len(piece)
                if self._budget.is_exceeded:
                    rule = "too many bodies are being received (--max-total-body-bytes)"
                    raise ApiError(503, rule, code="too_many_requests", retry_after=1)
                if len(self.data) > self._limit:
                    break
            else:
                return
        await discard(request.receive)
        raise ApiError(413, f"body: must have at most {self._limit:,} bytes (--max-body-bytes)", code="body_too_large")


async def discard(receive: Receive) -> None:
    """Read on for a second: a client that is still sending would get a broken connection instead of the answer."""
    num_bytes = 0
    try:
        async with asyncio.timeout(1.0):
            while num_bytes < _MOST_DISCARDED:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                num_bytes += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return
