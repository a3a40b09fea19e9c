"""Reading a request's JSON: bounded while it comes in, and parsed where it cannot hold up other requests."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from decoding.completions_api.body import parse_object
from decoding.completions_api.errors import ApiError
from decoding.server.settings import ServerSettings

_SMALL = 1 << 14
_MOST_DISCARDED = 1 << 25


async def read_json(request: Request, settings: ServerSettings) -> dict[str, Any]:
    """The JSON object in a request's body.

    Raises ApiError: 415 for other content, 413 for too much of it, 408 where it does not come, 400 for bad JSON.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # a web page can send other types to this host without the user knowing, JSON only if we allowed it
        raise ApiError(415, "content-type: must be application/json", code="unsupported_media_type")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(415, "content-encoding: must be absent", code="unsupported_media_type")
    try:
        async with asyncio.timeout(settings.body_timeout):
            data = await _read(request, settings.max_body_bytes)
    except TimeoutError:
        rule = f"body: must be there within {settings.body_timeout:g} s"
        raise ApiError(408, rule, code="body_timeout") from None
    return parse_object(data) if len(data) <= _SMALL else await asyncio.to_thread(parse_object, data)


async def _read(request: Request, most: int) -> bytes:
    declared = request.headers.get("content-length", "")
    data = bytearray()
    stream = request.stream()
    if not (declared.isascii() and declared.isdigit() and int(declared[:20]) > most):
        async for piece in stream:
            data += piece
            if len(data) > most:
                break
        else:
            return bytes(data)
    await discard(request.receive)
    raise ApiError(413, f"body: must have at most {most:,} bytes", code="body_too_large")


async def discard(receive: Receive) -> None:
    """Read on for a second: who is still sending would see a broken connection instead of our answer."""
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
