"""The outermost layer, before the body is read: request ids, keys, limits, logs and metrics of every request.

Plain ASGI, because it must see a stream until its last byte, and a middleware of the framework would wrap the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import re
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from decoding.completions_api.errors import ApiError
from decoding.errors import DecodingError
from decoding.server.body import discard
from decoding.server.log import LOGGER
from decoding.server.service import Service, wire_error

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_ABSOLUTE_FORM = re.compile(rb"https?://[^/]+(?P<path>/.*)?", re.IGNORECASE | re.DOTALL)
_OPEN_TO_ALL = ("/health", "/docs", "/openapi.json")
_GENERATING = ("/v1/completions", "/v1/chat/completions")
_LOADING_SECONDS = 5
_REFUSED_AT_ONCE = 8
"""Refusals per turn of the event loop, which together take less than a request to generate."""


class _Turnstile:
    """Admit one request per turn of the event loop, or several while those to generate are refused.

    Otherwise a thousand requests that arrive together would be handled in one turn, and health checks and streams would
    wait for the last of them.
    """

    def __init__(self, is_full: Callable[[], bool]) -> None:
        self._is_full = is_full
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Wait for the request's turn."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.append(turn)
        if len(self._waiting) == 1:
            loop.call_soon(self._let_in, loop)
        await turn

    def _let_in(self, loop: asyncio.AbstractEventLoop) -> None:
        for _ in range(min(len(self._waiting), _REFUSED_AT_ONCE if self._is_full() else 1)):
            turn = self._waiting.popleft()
            if not turn.done():  # the request may have been cancelled
                turn.set_result(None)
        if self._waiting:
            loop.call_soon(self._let_in, loop)


class Edge:
    """ASGI middleware that adds request ids, API keys, limits, logs and metrics to an application.

    app: the application, once the models are loaded. Until then /health is answered and all other requests are refused.
    """

    def __init__(self, service: Service) -> None:
        self.app: ASGIApp = self._loading
        self._service = service
        self._keys = [key.encode() for key in service.settings.api_keys]
        self._turnstile = _Turnstile(lambda: service.is_full)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, from its headers to its line in the log."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope = _normalised(scope)
        visit = _Visit(scope, send, self._service)
        self._service.num_open += 1
        try:
            if await self._admitted(scope, receive):
                await self._turnstile.enter()
                await self._require_room(scope, receive)
            await self.app(scope, receive, visit.send)
        except Exception as error:
            if not visit.has_begun:  # the framework has answered, and logged, what a route raises
                await visit.fail(wire_error(error))
        except asyncio.CancelledError:
            if not self._service.is_draining:
                raise
            if not visit.has_begun:
                await visit.fail(_shutting_down())
        finally:
            self._service.num_open -= 1
            visit.close()

    async def _loading(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer while the models are loading: /health, and an error for everything else."""
        status = {"/health/live": "live", "/health": "loading", "/health/ready": "loading"}.get(scope["path"])
        if status is None or scope["method"] != "GET":
            raise _still_loading()
        fields = {"status": status} if status == "live" else {"status": status, "models": self._service.names}
        answer = JSONResponse(fields, 200 if status == "live" else 503, {"retry-after": str(_LOADING_SECONDS)})
        await answer(scope, receive, send)

    async def _admitted(self, scope: Scope, receive: Receive) -> bool:
        """Return the result of `_admit`. Before a refusal the body is read, unless too many requests are open."""
        try:
            return self._admit(scope)
        except ApiError as error:
            if error.status != 503:
                with contextlib.suppress(ClientDisconnect):
                    await discard(receive)
            raise

    async def _require_room(self, scope: Scope, receive: Receive) -> None:
        """Refuse a request to generate before its body is parsed, if it would be refused afterwards."""
        if scope["path"] not in _GENERATING or scope["method"] != "POST":
            return
        try:
            self._service.require_room()
        except DecodingError:
            with contextlib.suppress(ClientDisconnect):
                await discard(receive)
            raise

    def _admit(self, scope: Scope) -> bool:
        """Raise ApiError if the request is refused. Return True if the request must wait for its turn."""
        settings = self._service.settings
        names = [name for name, _ in scope["headers"]]
        size = len(scope["raw_path"]) + sum(len(name) + len(value) for name, value in scope["headers"])
        if size + len(scope["query_string"]) > settings.max_header_bytes:
            rule = f"headers and path: must have at most {settings.max_header_bytes:,} bytes"
            raise ApiError(431, rule, code="headers_too_large")
        if not scope["http_version"].startswith("1."):
            rule = "HTTP version: must be 1.1 or 1.0"
            raise ApiError(505, rule, code="http_version_not_supported")
        if b"transfer-encoding" in names and b"content-length" in names:  # a proxy may have seen another request
            raise ApiError(400, "content-length: must not come with transfer-encoding", code="invalid_http")
        if self._is_open_to_all(scope["path"]):
            return False
        if self._keys and not self._knows(scope["headers"]):
            raise ApiError(401, "a valid API key is needed: Authorization: Bearer KEY", code="invalid_api_key")
        if self._service.is_draining:
            raise _shutting_down()
        if self._service.is_loading:
            raise _still_loading()
        if self._service.num_open > settings.max_open_requests:
            raise ApiError(503, "too many requests are open", code="too_many_requests", retry_after=1)
        return True

    def _is_open_to_all(self, path: str) -> bool:
        """Return True for a page that needs no key and no turn."""
        if path.startswith(_OPEN_TO_ALL):
            return True
        return self._service.settings.playground and (path == "/" or path.startswith("/playground/"))

    def _knows(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Return True if exactly one key was sent and it is accepted. Compares with every key in constant time."""
        given = [value for name, value in headers if name == b"authorization"]
        if len(given) != 1:
            return False
        scheme, _, key = given[0].partition(b" ")
        matches = [hmac.compare_digest(key.strip(), known) for known in self._keys]
        return scheme.lower() == b"bearer" and any(matches)


class _Visit:
    """A request, the status of its answer, and its record for the log."""

    def __init__(self, scope: Scope, send: Send, service: Service) -> None:
        self._started = time.monotonic()
        self._scope = scope
        self._send = send
        self._service = service
        self._status = 0
        self.record: dict[str, Any] = {"request_id": _request_id(scope["headers"])}
        scope["record"] = self.record

    @property
    def has_begun(self) -> bool:
        """Return True if the answer has begun."""
        return self._status > 0

    async def send(self, message: Message) -> None:
        """Forward the answer, with the request's id among its headers."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            message["headers"] = [*message["headers"], (b"x-request-id", self.record["request_id"].encode())]
        await self._send(message)

    async def fail(self, error: ApiError) -> None:
        """Answer with an error."""
        self.record["code"] = error.code
        body = json.dumps(error.body()).encode()
        await self.send({"type": "http.response.start", "status": error.status, "headers": error_headers(error, body)})
        await self._send({"type": "http.response.body", "body": body})

    def close(self) -> None:
        """Count the request, and log it."""
        known = self._scope["path"] if self._scope["path"] in _GENERATING else "other"
        route = getattr(self._scope.get("route"), "path", known)
        seconds = time.monotonic() - self._started
        self._service.metrics.requests.labels(route, self._status).inc()
        self._service.metrics.duration.labels(route).observe(seconds)
        if code := self.record.get("code"):
            self._service.metrics.errors.labels(code).inc()
        fields = {
            "method": self._scope["method"][:16],
            "path": self._scope["path"][:128],
            "status": self._status,
            "seconds": round(seconds, 6),
            **self.record,
        }
        LOGGER.info("request", extra={"fields": fields})


def _normalised(scope: Scope) -> Scope:
    """Return the scope in the form that the routes expect.

    HEAD becomes GET; the protocol drops the body. A target that is a whole URL, as proxies send it, becomes its path.
    """
    changed = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
    url = _ABSOLUTE_FORM.fullmatch(scope["raw_path"])
    if url is None:
        return changed
    raw_path = url["path"] or b"/"
    return {**changed, "raw_path": raw_path, "path": unquote(raw_path.decode("ascii"))}


def _shutting_down() -> ApiError:
    return ApiError(503, "the server is shutting down", code="shutting_down", retry_after=5)


def _still_loading() -> ApiError:
    return ApiError(503, "the models are being loaded", code="loading", retry_after=_LOADING_SECONDS)


def error_headers(error: ApiError, body: bytes) -> list[tuple[bytes, bytes]]:
    """Return the headers of an error. If the body may be unread, the answer closes the connection."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if error.retry_after is not None:
        headers.append((b"retry-after", str(error.retry_after).encode()))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.status in (401, 408, 413, 431, 503, 505) or error.code == "invalid_http":
        headers.append((b"connection", b"close"))
    return headers


def _request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the client's id if it is a plain word, otherwise a new one."""
    for name, value in headers:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return value.decode()
    return f"req_{secrets.token_hex(12)}"
