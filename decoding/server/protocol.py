"""uvicorn's HTTP/1.1 protocol with time limits for headers and for readers, and the API's own error bodies."""

from __future__ import annotations

import asyncio
import json

from uvicorn.protocols.http.h11_impl import H11Protocol

from decoding.completions_api.errors import ApiError

_BAD_REQUEST = ApiError(400, "the request is no valid HTTP, or its headers are too large", code="invalid_http")


def protocol_with(header_timeout: float, send_timeout: float) -> type[H11Protocol]:
    """The class of connections whose requests must have all of their headers within `header_timeout` seconds.

    A client that leaves what was sent unread for `send_timeout` seconds has gone: nothing else would ever end a
    stream that waits for its reader.
    """
    return type("Protocol", (_Protocol,), {"header_timeout": header_timeout, "send_timeout": send_timeout})


class _Protocol(H11Protocol):
    """A connection.

    h11 rather than httptools, because it bounds the headers that it keeps while it waits for the others.
    """

    header_timeout: float
    send_timeout: float
    _deadline: asyncio.TimerHandle | None = None
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline = self.loop.call_later(self.header_timeout, transport.close)

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._stop_waiting()
        elif self.cycle is None or self.cycle.response_complete:
            self._wait_for_headers()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._patience = self.loop.call_later(self.send_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_losing_patience()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_losing_patience()
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
            self._deadline = self.loop.call_later(self.header_timeout, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _stop_losing_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
