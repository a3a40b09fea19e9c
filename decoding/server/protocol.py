"""uvicorn's HTTP/1.1 protocol with a time limit for headers, and the API's own error bodies."""

from __future__ import annotations

import asyncio
import json

from uvicorn.protocols.http.h11_impl import H11Protocol

from decoding.api.errors import ApiError

_BAD_REQUEST = ApiError(400, "the request is no valid HTTP, or its headers are too large", code="invalid_http")


def protocol_with(header_timeout: float) -> type[H11Protocol]:
    """The class of connections whose requests must have all of their headers within `header_timeout` seconds.

    h11 rather than httptools, because it bounds the headers that it keeps while it waits for the others.
    """

    class Protocol(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._deadline = self.loop.call_later(header_timeout, transport.close)

        def handle_events(self) -> None:
            before = self.cycle
            super().handle_events()
            if self.cycle is not before:
                self._stop_waiting()
            elif self.cycle is None or self.cycle.response_complete:
                self._wait_for_headers()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            body = json.dumps(_BAD_REQUEST.body()).encode()
            self.transport.write(
                b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
                b"content-length: " + str(len(body)).encode() + b"\r\n\r\n" + body
            )
            self.transport.close()

        def _wait_for_headers(self) -> None:
            """From the first byte of the next request on a connection that is kept."""
            if self._deadline is None:
                self._deadline = self.loop.call_later(header_timeout, self.transport.close)

        def _stop_waiting(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return Protocol
