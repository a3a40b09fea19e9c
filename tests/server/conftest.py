"""Fixtures: real server processes, and clients for them."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

HERE = Path(__file__).parent


@dataclass
class Answer:
    """A response: status, headers with lower-case names, body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Return the parsed body. A NaN or infinity in it fails the test."""
        return json.loads(self.body, parse_constant=lambda name: pytest.fail(f"{name} on the wire"))

    @property
    def error(self) -> dict[str, Any]:
        """Return the error object. It must have exactly the fields of the API."""
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error

    @property
    def events(self) -> list[Any]:
        """Return the data of the stream's events, parsed except for [DONE]. Comments are skipped."""
        data = [line.removeprefix("data: ") for line in self.body.decode().splitlines() if line.startswith("data: ")]
        return [one if one == "[DONE]" else json.loads(one) for one in data]


@dataclass
class Server:
    """A running `decoding serve`, or a script that serves a model of its own."""

    process: subprocess.Popen[str]
    port: int = 0
    lines: list[str] = field(default_factory=list)
    ready: threading.Event = field(default_factory=threading.Event)
    listening: threading.Event = field(default_factory=threading.Event)
    is_read: threading.Event = field(default_factory=threading.Event)
    reader: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        """Start to read stderr."""
        self.reader = threading.Thread(target=self.read_log, daemon=True)
        self.reader.start()

    def read_log(self) -> None:
        """Append the lines of stderr to `lines` while `is_read` is set. The line with the address sets `ready`."""
        assert self.process.stderr is not None
        self.is_read.set()
        for line in self.process.stderr:
            self.is_read.wait()
            self.lines.append(line)
            if port := re.search(r"(?:on port |at://127.0.0.1:)(\d+)", line):
                self.port = int(port[1])
                self.listening.set()
            if address := re.search(r" on http://(?:127\.0\.0\.1|0\.0\.0\.0):(\d+)", line):
                self.port = int(address[1])
                self.ready.set()
        self.listening.set()
        self.ready.set()

    def wait_for_log(self, **fields: Any) -> dict[str, Any]:
        """Return the first structured line with these fields, once it is there. A thread writes the lines."""
        self.wait_until(lambda: any(fields.items() <= line.items() for line in self.log))
        return next(line for line in self.log if fields.items() <= line.items())

    @staticmethod
    def wait_until(condition: Callable[[], object]) -> None:
        """Wait for a condition that comes true soon, however busy the machine is. Fail after five minutes."""
        deadline = time.monotonic() + 300
        while not condition():
            assert time.monotonic() < deadline, "it did not happen"
            time.sleep(0.01)

    def wait_until_idle(self) -> None:
        """Wait until the engine has no requests."""
        self.wait_until(lambda: not self.metric("decoding_engine_running") + self.metric("decoding_engine_waiting"))

    def is_refusing(self) -> bool:
        """Return True if the server accepts no connections."""
        try:
            self.request("GET", "/health/live")
        except OSError:
            return True
        return False

    @property
    def url(self) -> str:
        """Return the base URL of the API."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def log(self) -> list[dict[str, Any]]:
        """Return the structured lines so far."""
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    def connect(self, timeout: float = 60) -> http.client.HTTPConnection:
        """Return a new connection."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def request(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """Send a request on a new connection and return the answer. A body that is not bytes is sent as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        with contextlib.closing(self.connect()) as connection:
            connection.request(method, path, data, {"content-type": "application/json", **(headers or {})})
            return read_answer(connection)

    def complete(self, **fields: Any) -> Answer:
        """Send a POST to /v1/completions for the first model and return the answer."""
        return self.request("POST", "/v1/completions", {"model": self.model, "prompt": "def f(", **fields})

    @property
    def model(self) -> str:
        """Return the name of the first model."""
        return self.request("GET", "/v1/models").json["data"][0]["id"]

    @staticmethod
    def answer(connection: http.client.HTTPConnection) -> Answer:
        """Return the answer to the request that was sent on a connection."""
        return read_answer(connection)

    def metric(self, name: str) -> float:
        """Return the sum of a metric's values over its labels."""
        page = self.request("GET", "/metrics").body.decode()
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", page, flags=re.M))

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code. Then all lines of stderr are in `lines`."""
        self.process.send_signal(number)
        return self.exit_code()

    def exit_code(self) -> int:
        """Return the exit code of the process, which is about to end. Then all lines of stderr are in `lines`."""
        code = self.process.wait(timeout=120)
        self.reader.join(timeout=120)
        return code


def read_answer(connection: http.client.HTTPConnection) -> Answer:
    """Return the answer to the request that was sent on a connection."""
    response = connection.getresponse()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, response.read())


@contextlib.contextmanager
def running(*command: str, ready: bool = True, shell: str = "") -> Iterator[Server]:
    """Start a server, yield it, and kill it at the end.

    ready: wait until its models are loaded.
    shell: a command for the shell that starts the server, such as `ulimit -n 64`.
    """
    whole = ["sh", "-c", f'{shell or ":"}; exec "$@"', "sh", sys.executable, *command]
    process = subprocess.Popen(whole, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    server = Server(process)
    try:
        assert (server.ready if ready else server.listening).wait(120)
        assert server.port, "".join(server.lines)
        yield server
    finally:
        process.kill()
        process.wait()
        server.is_read.set()
        server.reader.join()
        assert process.stderr is not None
        process.stderr.close()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Yield `decoding serve` with the bundled model and default settings."""
    with running("-m", "decoding", "serve", "--port=0", "--log-level=info") as one:
        yield one


SMALL = {
    "max_n": 3,
    "max_best_of": 4,
    "max_logprobs": 2,
    "max_prompts": 3,
    "max_sequences": 6,
    "max_prompt_tokens": 20,
    "max_prompt_chars": 30,
    "max_stop": 2,
    "max_stop_bytes": 10,
    "max_list_entries": 4,
    "max_body_bytes": 3000,
    "max_header_bytes": 1000,
}


@pytest.fixture(scope="session")
def small() -> Iterator[Server]:
    """Yield a server with small limits."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    with running("-m", "decoding", "serve", "--port=0", *flags) as one:
        yield one


@pytest.fixture(scope="session")
def chat_server() -> Iterator[Server]:
    """Yield `decoding serve` with the bundled model and a chat template."""
    template = f"--chat-template={HERE / 'chat.jinja'}"
    with running("-m", "decoding", "serve", "--port=0", "--log-level=info", template) as one:
        yield one


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Yield a function that starts a server with given flags. The servers end with the test."""
    with contextlib.ExitStack() as stack:
        command = ("-m", "decoding", "serve", "--port=0")
        yield lambda *flags, **options: stack.enter_context(running(*command, *flags, **options))


@pytest.fixture
def serve_script() -> Iterator[Callable[..., Server]]:
    """Yield a function that starts scripted_server.py with given arguments. The servers end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda *words, **options: stack.enter_context(
            running(str(HERE / "scripted_server.py"), *words, **options)
        )
