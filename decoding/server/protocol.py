"""uvicorn's HTTP/1.1 protocol with limits of time, headers and work per turn, and the API's own error bodies."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from typing import TYPE_CHECKING

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from decoding.completions_api.errors import ApiError

if TYPE_CHECKING:
    from decoding.server.settings import ServerSettings

_BAD_REQUEST = ApiError(400, "the request is not valid HTTP, or its headers are too large", code="invalid_http")
_REASONS = {400: b"Bad Request", 431: b"Request Header Fields Too Large"}
_AT_ONCE = 1 << 9
"""Bytes parsed at a time: one or two milliseconds, if they are chunks of one byte."""
_OF_BODY_AT_ONCE = 1 << 16
"""Bytes parsed at a time of a body whose length is declared, which h11 passes on as they are."""
_TURN_SECONDS = 0.001
"""After so much parsing, for all connections together, the rest of the loop has its turn."""
_SHORT_REQUEST_SECONDS = 0.005
"""Minimum time between two short requests that are parsed without waiting for a turn."""
_SHORTEST_HEADER = 3


def protocol_with(settings: ServerSettings) -> type[H11Protocol]:
    """Return the class of connections with these settings.

    The headers must arrive within `header_timeout` seconds. A client that does not read for `send_timeout` seconds
    counts as gone: otherwise a stream that waits for its reader would never end.
    """
    names = ("header_timeout", "send_timeout", "max_headers")
    return type("Protocol", (_Protocol,), {"turns": _Turns(), **{name: getattr(settings, name) for name in names}})


class _Turns:
    """Let connections parse in turn, a piece each, for about a millisecond per turn of the event loop.

    The limit is shared: with one per connection, twenty large bodies could block the loop twenty times as long.
    Requests without a body come first, and one per few milliseconds does not wait at all: behind a thousand requests
    that generate, a health check would wait for a second.
    """

    def __init__(self) -> None:
        self._short: deque[_Protocol] = deque()
        self._waiting: deque[_Protocol] = deque()
        self._is_due = False
        self._next_immediate = 0.0

    def join(self, connection: _Protocol) -> None:
        """Parse a connection's data, at once or in turn. It must not be queued already."""
        if not connection.begins_short_request:
            self._waiting.append(connection)
        elif (now := time.monotonic()) < self._next_immediate:
            self._short.append(connection)
        else:
            self._next_immediate = now + _SHORT_REQUEST_SECONDS
            self._parse(connection)
        if (self._short or self._waiting) and not self._is_due:
            self._is_due = True
            connection.loop.call_soon(self._run, connection.loop)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        end = time.monotonic() + _TURN_SECONDS
        try:
            for queue in (self._short, self._waiting):  # one of each per turn, so that neither queue blocks the other
                if queue:
                    self._parse(queue.popleft())
            while (self._short or self._waiting) and time.monotonic() < end:
                self._parse((self._short or self._waiting).popleft())
        finally:
            self._is_due = bool(self._short or self._waiting)
            if self._is_due:
                loop.call_soon(self._run, loop)

    def _parse(self, connection: _Protocol) -> None:
        try:
            has_more = connection.parse_piece()
        except Exception:
            connection.transport.abort()
            raise
        if has_more:
            self._waiting.append(connection)


class _Protocol(H11Protocol):
    """A connection.

    Based on h11, because httptools does not bound the headers that it keeps while the rest arrives.
    """

    header_timeout: float
    send_timeout: float
    max_headers: int
    turns: _Turns
    _deadline: asyncio.TimerHandle | None = None
    _patience: asyncio.TimerHandle | None = None
    _is_waiting = False
    _has_plain_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arrived = bytearray()
        self._deadline = self.loop.call_later(self.header_timeout, transport.close)

    def data_received(self, data: bytes) -> None:
        self._arrived += data
        if not self._is_waiting:
            self._is_waiting = True
            self.turns.join(self)

    @property
    def begins_short_request(self) -> bool:
        """True if the data to parse is the beginning of a request without a body."""
        return self._arrived.startswith(b"GET ") and self.conn.their_state is h11.IDLE

    def parse_piece(self) -> bool:
        """Parse a piece of the received data. Return True if there is more; until all is parsed, reading pauses."""
        self._is_waiting = False
        if self.transport.is_closing():
            return False
        if self._num_waiting_lines() > self.max_headers + 1:
            self._refuse_headers()
            return False
        size = _OF_BODY_AT_ONCE if self._has_plain_body and self.conn.their_state is h11.SEND_BODY else _AT_ONCE
        piece = bytes(self._arrived[:size])
        del self._arrived[:size]
        super().data_received(piece)
        if self._arrived and not self.transport.is_closing():
            self.transport.pause_reading()
            self._is_waiting = True
        elif not self.flow.read_paused:
            self.transport.resume_reading()
        return self._is_waiting

    def _num_waiting_lines(self) -> int:
        """Return the number of lines to be parsed: header lines, or trailers of a chunked body."""
        waiting = self.conn.trailing_data[0]
        return waiting.count(b"\n") if len(waiting) > _SHORTEST_HEADER * self.max_headers else 0

    def handle_events(self) -> None:
        """Check the number of headers of a new request, handle the events, and update the header timeout."""
        if self.conn.their_state is h11.IDLE:
            self._skip_blank_lines()
            if self._has_too_many_headers():
                self._refuse_headers()
                return
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._has_plain_body = all(name != b"transfer-encoding" for name, _ in self.scope["headers"])
            self._stop_waiting()
        elif self.cycle is None or self.cycle.response_complete:
            self._wait_for_headers()

    def _skip_blank_lines(self) -> None:
        """Skip empty lines before a request; some clients send them after a body."""
        waiting = self.conn.trailing_data[0]
        if num_bytes := len(waiting) - len(waiting.lstrip(b"\r\n")):
            self.conn._receive_buffer.maybe_extract_at_most(num_bytes)

    def _has_too_many_headers(self) -> bool:
        """Count the lines of the next request's head before h11 parses them, which takes 0.1 ms per line."""
        waiting = self.conn.trailing_data[0]
        if len(waiting) <= _SHORTEST_HEADER * self.max_headers:
            return False
        ends = [end for end in (waiting.find(b"\n\n"), waiting.find(b"\n\r\n")) if end >= 0]
        num_headers = waiting[: min(ends)].count(b"\n") if ends else waiting.count(b"\n") - 1
        return num_headers > self.max_headers

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
        self._unset_keepalive_if_required()  # if it was reset, uvicorn keeps the timer, which refers to this object

    def send_400_response(self, msg: str) -> None:
        self._refuse(_BAD_REQUEST)

    def _refuse_headers(self) -> None:
        rule = f"headers: must be at most {self.max_headers:,} (--max-headers)"
        self._refuse(ApiError(431, rule, code="headers_too_large"))

    def _refuse(self, error: ApiError) -> None:
        """Answer data that is not a valid request, and close the connection."""
        body = json.dumps(error.body()).encode()
        self.transport.write(
            b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s"
            % (error.status, _REASONS[error.status], len(body), body)
        )
        self.transport.close()

    def _wait_for_headers(self) -> None:
        """Start the header timeout at the first byte of the next request on a kept-alive connection."""
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
