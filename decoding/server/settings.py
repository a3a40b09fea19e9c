"""Settings of the HTTP server; docs/server.md has the table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from decoding.completions_api.settings import ApiSettings, check_fields
from decoding.domains import POSITIVE, Domain, Integer, Word
from decoding.errors import ParameterError

LogLevel = Literal["error", "warning", "info"]


_TOTAL_BODY_BYTES = 1 << 28


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Settings of the server, all but its models. Times are in seconds.

    api: limits on requests, and the meaning of their fields.
    api_keys: keys that are accepted; if there are none, no key is required.
    max_waiting: prompts of one model that wait for their first token; one more is refused with 429.
    max_open_requests: open requests of any kind; one more is refused with 503.
    max_body_bytes: size of one body. None: that of the longest request that the limits in `api` allow.
    max_total_body_bytes: of all bodies that are being received; one more is refused with 503. None: 256 MiB, or that
        of one body if it is more.
    max_header_bytes: size of one request's head. max_headers: lines of its head, without the first.
    max_unread_bytes: bytes of a stream that wait for its client; beyond them it ends with an error.
    max_total_unread_bytes: those of all streams; beyond them each has its share, this divided by max_open_requests.
    header_timeout, body_timeout: time until a request's headers, its body have arrived.
    request_timeout: time for one completion.
    send_timeout: time for a client to continue reading when its answer waits for it.
    keep_alive: time between comments in a silent stream. Until the first comment, errors are HTTP errors.
    shutdown_grace: time for running requests after SIGTERM.
    max_connections: open connections; others wait outside. None: 4,096, or fewer where the process may not open as many
        files.
    max_log_lines: lines of the log that wait for stderr; further ones are dropped, and counted.
    playground: True serves the playground at / and POST /v1/explain.
    log_level: "info" writes a line per request; log_prompts adds its prompt.
    """

    api: ApiSettings = field(default_factory=ApiSettings)
    api_keys: tuple[str, ...] = ()
    max_waiting: int = 1024
    max_open_requests: int = 2048
    max_connections: int | None = None
    max_log_lines: int = 10_000
    max_body_bytes: int | None = None
    max_total_body_bytes: int | None = None
    max_header_bytes: int = 1 << 14
    max_headers: int = 100
    max_unread_bytes: int = 1 << 23
    max_total_unread_bytes: int = 1 << 28
    header_timeout: float = 20.0
    body_timeout: float = 30.0
    request_timeout: float = 600.0
    send_timeout: float = 60.0
    keep_alive: float = 15.0
    shutdown_grace: float = 8.0
    playground: bool = True
    log_level: LogLevel = "warning"
    log_prompts: bool = False

    @property
    def body_bytes(self) -> int:
        """The limit on the size of one body."""
        return self.api.limits.json_bytes if self.max_body_bytes is None else self.max_body_bytes

    @property
    def total_body_bytes(self) -> int:
        """The limit on the size of all bodies that are being received."""
        return (
            max(_TOTAL_BODY_BYTES, self.body_bytes) if self.max_total_body_bytes is None else self.max_total_body_bytes
        )

    def __post_init__(self) -> None:
        counts = [name for name in self.__slots__ if name.startswith("max_") and getattr(self, name) is not None]
        times = ("header_timeout", "body_timeout", "request_timeout", "send_timeout", "keep_alive", "shutdown_grace")
        rules: dict[str, Domain] = {**dict.fromkeys(counts, Integer(1)), **dict.fromkeys(times, POSITIVE)}
        check_fields(self, {**rules, "log_level": Word(("error", "warning", "info"))})
        for inner, outer in (
            (self.body_bytes, "max_total_body_bytes"),
            (self.max_unread_bytes, "max_total_unread_bytes"),
        ):
            given = getattr(self, outer)
            if given is not None and given < inner:
                name = outer.replace("_total", "")
                raise ParameterError.single(outer, given, f"must be at least {name}, {inner:,}")
