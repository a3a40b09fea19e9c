"""What `decoding serve` can be told; docs/server.md has the table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from decoding import checks
from decoding.completions_api.settings import ApiSettings, check_fields

LogLevel = Literal["error", "warning", "info"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Everything but the models. Times are in seconds.

    api: limits and meanings of what is in a request.
    api_keys: any of them opens the door; none means that no key is asked for.
    max_waiting: prompts of one model that wait for their first token; one more is refused with 429.
    max_open_requests: requests that are open at all, of whatever kind; one more is refused with 503.
    max_body_bytes, max_header_bytes: of one request.
    header_timeout, body_timeout: until a request's headers, its body are there.
    request_timeout: for one completion.
    send_timeout: for a client to read on where what was sent to it is waiting.
    keep_alive: between comments in a stream; where it has nothing to say until the first, errors are HTTP errors.
    shutdown_grace: for what runs when SIGTERM comes.
    log_level: "info" writes a line for each request; log_prompts adds its prompt.
    """

    api: ApiSettings = field(default_factory=ApiSettings)
    api_keys: tuple[str, ...] = ()
    max_waiting: int = 1024
    max_open_requests: int = 2048
    max_body_bytes: int = 1 << 20
    max_header_bytes: int = 1 << 14
    header_timeout: float = 20.0
    body_timeout: float = 30.0
    request_timeout: float = 600.0
    send_timeout: float = 60.0
    keep_alive: float = 15.0
    shutdown_grace: float = 8.0
    log_level: LogLevel = "warning"
    log_prompts: bool = False

    def __post_init__(self) -> None:
        counts = ("max_waiting", "max_open_requests", "max_body_bytes", "max_header_bytes")
        times = ("header_timeout", "body_timeout", "request_timeout", "send_timeout", "keep_alive", "shutdown_grace")
        rules = {**dict.fromkeys(counts, checks.integer(1)), **dict.fromkeys(times, checks.positive)}
        check_fields(self, {**rules, "log_level": checks.one_of("error", "warning", "info")})
