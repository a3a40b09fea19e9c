"""Client of a server: requests, streams, and limits on both.

It uses http.client directly: a check must see the bytes as they came, even if they break the rules of layers above
HTTP, and must be able to disconnect in the middle of a stream.
"""

from __future__ import annotations

import json
import shlex
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import urlsplit

from decoding.errors import ParameterError

DEFAULT_MAX_TOKENS = 16
"""Tokens that a request without max_tokens asks for."""


class LoadLimitError(Exception):
    """Another request would be more load than was asked for; the text says which limit it is."""


class NoAnswerError(Exception):
    """The server did not answer: refused, reset, too late, or no HTTP. `request` is the request that was sent."""

    def __init__(self, request: Request, reason: str) -> None:
        super().__init__(reason)
        self.request = request


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Limits on the load of a run.

    concurrency: requests at the same time. max_requests: requests in all. max_tokens: tokens that all requests together
    may ask for (max_tokens * candidates * prompts of each). timeout: seconds until an answer must be complete.
    """

    concurrency: int = 4
    max_requests: int = 1000
    max_tokens: int = 100_000
    timeout: float = 60.0

    def __post_init__(self) -> None:
        for name in ("concurrency", "max_requests", "max_tokens"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ParameterError.single(name, value, "must be an integer >= 1")
        if not 0 < self.timeout < float("inf"):
            raise ParameterError.single("timeout", self.timeout, "must be a number of seconds > 0")


@dataclass(frozen=True, slots=True)
class Request:
    """A request, and the curl line that sends it again."""

    method: str
    url: str
    body: bytes | None
    has_key: bool

    @property
    def curl(self) -> str:
        """A line for a shell; the key is read from $API_KEY."""
        words = ["curl", "-sS", "-i", "-N", "-X", self.method, self.url]
        if self.body is not None:
            words += ["-H", "Content-Type: application/json", "-d", self.body.decode("utf-8", "replace")]
        line = shlex.join(words)
        return f'{line} -H "Authorization: Bearer $API_KEY"' if self.has_key else line


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer."""

    request: Request
    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")

    def header(self, name: str) -> str:
        """A header's value in lower case; "" where it is missing."""
        return self.headers.get(name.lower(), "").lower()


@dataclass(slots=True)
class Sent:
    """The load of a run so far."""

    requests: int = 0
    tokens: int = 0
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Client:
    """Requests to one server, never more of them than `load` allows. Threads may share it."""

    def __init__(self, url: str, *, api_key: str | None = None, load: Load | None = None) -> None:
        """url: http(s)://host:port, with or without /v1 (or another path of the API)."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if parts.scheme not in ("http", "https") or not host:
            raise ParameterError.single("url", url, "must be http://HOST:PORT or https://HOST:PORT")
        self._connection_type = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._host, self._port = host, port
        path = parts.path.rstrip("/").removesuffix("/completions")
        self._prefix = path or "/v1"
        self.base_url = f"{parts.scheme}://{parts.netloc}{self._prefix}"
        self._api_key = api_key
        self.load = load or Load()
        self._slots = threading.BoundedSemaphore(self.load.concurrency)
        self.sent = Sent()

    def send(
        self,
        body: object,
        *,
        path: str = "/completions",
        method: str = "POST",
        timeout: float | None = None,
    ) -> Answer:
        """Send JSON (or bytes as they are; None is no body) and read the whole answer."""
        with self.opened(body, path=path, method=method, timeout=timeout) as (request, response, started):
            with _told(request):
                data = response.read()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(request, response.status, headers, data, time.monotonic() - started)

    @contextmanager
    def opened(
        self,
        body: object,
        *,
        path: str = "/completions",
        method: str = "POST",
        timeout: float | None = None,
    ) -> Iterator[tuple[Request, HTTPResponse, float]]:
        """Yield the request, the answer's beginning and the time of sending; leaving the block disconnects."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = Request(method, self.base_url + path, data, self._api_key is not None)
        with self._counted(body):
            connection = self._connection_type(self._host, self._port, timeout=timeout or self.load.timeout)
            started = time.monotonic()
            try:
                with _told(request):
                    connection.request(method, self._prefix + path, body=data, headers=self._headers())
                    response = connection.getresponse()
                yield request, response, started
            finally:
                connection.close()

    def send_half(self, body: object) -> None:
        """Announce a body, send half of it, and go away."""
        data = json.dumps(body).encode()
        with self._counted(body):
            connection = self._connection_type(self._host, self._port, timeout=self.load.timeout)
            try:
                connection.putrequest("POST", f"{self._prefix}/completions")
                for name, value in {**self._headers(), "Content-Length": str(len(data))}.items():
                    connection.putheader(name, value)
                connection.endheaders(data[: len(data) // 2])
            except OSError as error:
                raise NoAnswerError(Request("POST", self.base_url, data, False), str(error)) from error
            finally:
                connection.close()

    def _headers(self) -> dict[str, str]:
        key = {} if self._api_key is None else {"Authorization": f"Bearer {self._api_key}"}
        return {"Content-Type": "application/json", "Accept": "*/*", "Connection": "close", **key}

    @contextmanager
    def _counted(self, body: object) -> Iterator[None]:
        """Wait until one more request may run, and count it; LoadLimitError if the limits are used up."""
        tokens = tokens_asked_for(body)
        with self._slots:
            with self.sent.lock:
                if self.sent.requests >= self.load.max_requests:
                    raise LoadLimitError(f"max_requests={self.load.max_requests} are used up")
                if self.sent.tokens + tokens > self.load.max_tokens:
                    raise LoadLimitError(f"max_tokens={self.load.max_tokens} are used up")
                self.sent.requests += 1
                self.sent.tokens += tokens
                self.sent.at_once += 1
                self.sent.most_at_once = max(self.sent.most_at_once, self.sent.at_once)
            try:
                yield
            finally:
                with self.sent.lock:
                    self.sent.at_once -= 1


def tokens_asked_for(body: object) -> int:
    """Return how many tokens a server may generate for this request; a field that is no number counts as absent."""
    if not isinstance(body, dict):
        return 0
    prompt = body.get("prompt")
    num_prompts = len(prompt) if isinstance(prompt, list) and not all(isinstance(p, int) for p in prompt) else 1
    candidates = max(_count(body.get("n"), 1), _count(body.get("best_of"), 1))
    return _count(body.get("max_tokens"), DEFAULT_MAX_TOKENS) * candidates * num_prompts


def _count(value: object, default: int) -> int:
    return max(0, value) if isinstance(value, int) and not isinstance(value, bool) else default


@contextmanager
def _told(request: Request) -> Iterator[None]:
    """Raise NoAnswerError for every failure of the connection."""
    try:
        yield
    except TimeoutError as error:
        raise NoAnswerError(request, "no complete answer in time") from error
    except (OSError, HTTPException) as error:
        raise NoAnswerError(request, f"no answer: {type(error).__name__}: {error}") from error
