"""Read a stream of server-sent events, and join its chunks."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any

from decoding.conformance.client import Answer, NoAnswerError, Request
from decoding.conformance.outcome import FailedError
from decoding.conformance.target import Target, shown

DONE = "[DONE]"


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream as it came: `raw` bytes, the data of its events, and when each of them was complete (seconds)."""

    request: Request
    content_type: str
    raw: bytes
    events: list[str]
    times: list[float]

    @property
    def chunks(self) -> list[dict[str, Any]]:
        """The events that are JSON objects; FailedError where one is neither that nor [DONE]."""
        chunks = []
        for event in self.events:
            if event.strip() != DONE:
                try:
                    chunk = json.loads(event)
                except ValueError:
                    raise FailedError(f"an event's data is not JSON: {shown(event)}", self.request) from None
                if not isinstance(chunk, dict) or not isinstance(chunk.get("choices"), list):
                    raise FailedError(f"an event is not a chunk with choices: {shown(event)}", self.request)
                chunks.append(chunk)
        return chunks

    def pieces(self, index: int = 0) -> list[dict[str, Any]]:
        """Return the pieces of one choice in the order of the chunks."""
        return [piece for chunk in self.chunks for piece in chunk["choices"] if piece.get("index", 0) == index]

    def text(self, index: int = 0) -> str:
        """Return the text of a choice, joined."""
        return "".join(piece.get("text") or "" for piece in self.pieces(index))

    def require(self, holds: bool, evidence: str) -> None:
        """Fail with this evidence unless the condition holds."""
        if not holds:
            raise FailedError(evidence, self.request)


def read_stream(target: Target, *, needs: tuple[str, ...] = (), **fields: Any) -> Stream:
    """Stream a completion to its end; a server may refuse `stream`. Fields and `needs` are those of Target.complete."""
    body = target.body({**fields, "stream": True})
    with target.client.opened(body) as (request, response, started):
        raw, events, times = b"", [], []
        try:
            if response.status != 200:
                headers = {name.lower(): value for name, value in response.getheaders()}
                answer = Answer(request, response.status, headers, response.read(), time.monotonic() - started)
                target.require_ok(answer, (*needs, "stream"))
            for line, event in lines_and_events(response):
                raw += line
                if event is not None:
                    events.append(event)
                    times.append(time.monotonic() - started)
        except OSError as error:
            raise NoAnswerError(request, f"the stream broke off: {error}") from error
        content_type = (response.getheader("Content-Type") or "").lower()
    return Stream(request, content_type, raw, events, times)


def abandon_stream(target: Target, *, timeout: float | None = None, **fields: Any) -> None:
    """Begin to stream a completion, read one event, and close the connection."""
    body = target.body({**fields, "stream": True})
    with target.client.opened(body, timeout=timeout) as (request, response, _):
        try:
            for _line, event in lines_and_events(response):
                if event is not None:
                    return
        except OSError as error:
            raise NoAnswerError(request, f"the stream broke off: {error}") from error


def lines_and_events(response: HTTPResponse) -> Iterator[tuple[bytes, str | None]]:
    """Yield each line as it came, with the event's data if it has any.

    Every `data:` line is an event, as clients of this API read it. The lines between are
    for the check stream.framing.
    """
    while line := response.readline():
        is_data = line.startswith(b"data:")
        yield line, line[5:].strip(b" \r\n").decode("utf-8", "replace") if is_data else None
