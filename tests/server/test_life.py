"""Connections and processes: clients that disconnect, keys, models, loading, logs, signals."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

LONG = {"model": "scripted", "prompt": "a", "max_tokens": 3000, "stream": True}
JSON = {"content-type": "application/json"}


@contextlib.contextmanager
def open_stream(server, **fields):
    """Start a stream, read its first event, and yield the response."""
    with contextlib.closing(server.connect()) as connection:
        connection.request("POST", "/v1/completions", json.dumps({**LONG, **fields}), JSON)
        with connection.getresponse() as response:
            assert response.readline().startswith(b"data: ")
            yield response


def raw_request(**fields):
    """Return the head and the body of a streaming request."""
    body = json.dumps({**LONG, **fields}).encode()
    head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" + head.encode(), body


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_work(serve_script, stream):
    """If a client disconnects, its request is aborted and freed, whether it streams or not."""
    server = serve_script("paced")
    connection = server.connect()
    connection.request("POST", "/v1/completions", json.dumps({**LONG, "stream": stream, "n": 4}), JSON)
    server.wait_until(lambda: server.metric("decoding_engine_running") == 4)
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    server.wait_until_idle()
    assert server.metric("decoding_aborted_total") == 1
    assert server.complete(max_tokens=2).status == 200


def test_a_client_that_leaves_at_any_byte(serve_script):
    """A client may disconnect in the headers, in the body, after the request or in the stream: serving continues."""
    server = serve_script("plain")
    request = b"".join(raw_request(max_tokens=50))
    for end in range(1, len(request) + 1, 3):
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(request[:end])
    for num_read in (1, 200, 1000):
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(request)
            raw.recv(num_read)
    server.wait_until_idle()
    assert server.complete(max_tokens=2).status == 200
    assert not [line for line in server.log if line["level"] == "error"]


def test_keys(serve, tmp_path):
    """Without a valid key every route but health and the API's page gets 401; each key of the file is valid."""
    file = tmp_path / "keys"
    file.write_text("first-key\n\n# no-key\nsecond-key\n")
    file.chmod(0o604)
    server = serve("--api-key-file", str(file))
    assert "can read the keys" in "".join(server.lines)
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "first-key"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer first"},
        {"authorization": "Bearer # no-key"},
    ):
        for path in ("/v1/models", "/metrics", "/v1/completions", "/tokenize", "/nowhere"):
            answer = server.request("POST" if "co" in path else "GET", path, b"{}", headers)
            assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
            assert answer.headers["www-authenticate"] == "Bearer"
    for key in ("first-key", "second-key"):
        assert server.request("GET", "/v1/models", headers={"authorization": f"Bearer {key}"}).status == 200
    assert {server.request("GET", path).status for path in ("/health", "/docs", "/openapi.json")} == {200}
    with contextlib.closing(server.connect()) as connection:
        connection.putrequest("GET", "/v1/models")
        for value in ("Bearer first", "-key"):  # joined they would be a valid key
            connection.putheader("authorization", value)
        connection.endheaders()
        assert server.answer(connection).status == 401
    assert "-key" not in "".join(line for line in server.lines if "key" in line)
    document = server.request("GET", "/openapi.json").json
    assert document["security"] == [{name: []} for name in document["components"]["securitySchemes"]]
    assert document["paths"]["/health"]["get"]["security"] == []


def test_a_refused_client_may_finish_sending(serve, tmp_path):
    """A large body that is still arriving when the key is found to be wrong gets 401, not a broken connection."""
    file = tmp_path / "keys"
    file.write_text("first-key\n")
    server = serve("--api-key-file", str(file))
    head = (
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 3000000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as raw:
        raw.sendall(head)
        time.sleep(0.3)
        for _ in range(3):
            raw.sendall(b" " * 1_000_000)
            time.sleep(0.1)
        assert raw.recv(1 << 16).startswith(b"HTTP/1.1 401 ")
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as raw:
        raw.sendall(head)  # then disconnect
    assert server.request("GET", "/health").status == 200
    assert not [line for line in server.log if line["level"] == "error"]


def test_several_models(serve, shared):
    """`model` selects one of the models; an unknown name gets 404 with the list of names."""
    server = serve(f"--model=stories={shared}/models/stories260K", f"--model=other={shared}/models/stories260K")
    assert [model["id"] for model in server.request("GET", "/v1/models").json["data"]] == ["stories", "other"]
    answers = [server.complete(model=name, prompt="Once", seed=1, max_tokens=5).json for name in ("stories", "other")]
    assert [answer["model"] for answer in answers] == ["stories", "other"]
    assert answers[0]["choices"] == answers[1]["choices"]
    absent = server.request("POST", "/v1/completions", {"prompt": "Once"})
    assert (absent.status, absent.error["code"]) == (400, "missing_field")
    unknown = server.complete(model="bundled")
    assert unknown.status == 404
    assert "stories, other" in unknown.error["message"]


def test_loading(serve_script):
    """While models load, /health reports it and every other route gets 503 with Retry-After."""
    server = serve_script("plain", "held=1", ready=False)
    health = server.request("GET", "/health")
    assert (health.status, health.json) == (503, {"status": "loading", "models": ["scripted"]})
    assert server.request("GET", "/health/live").json == {"status": "live"}
    for method, path in (("POST", "/v1/completions"), ("GET", "/v1/models"), ("GET", "/docs"), ("GET", "/nowhere")):
        refused = server.request(method, path, b"{}")
        assert (refused.status, refused.error["code"]) == (503, "loading")
        assert int(refused.headers["retry-after"]) > 0
    server.process.send_signal(signal.SIGUSR2)
    assert server.ready.wait(120)
    assert server.request("GET", "/health").json["status"] == "ready"
    assert server.complete(max_tokens=1).status == 200


def test_a_signal_during_loading(serve_script):
    """SIGTERM during loading ends the process at once, with exit code 0."""
    server = serve_script("plain", "held=1", ready=False)
    assert server.request("GET", "/health/live").status == 200
    assert server.stop() == 0
    assert not any("Traceback" in line for line in server.lines)


def test_a_log_that_is_not_read(serve_script):
    """If the pipe behind stderr is full, serving continues; the log reports the number of dropped lines."""
    server = serve_script("plain", "max_log_lines=10")
    server.is_read.clear()
    with contextlib.closing(server.connect()) as connection:
        for _ in range(1000):  # a line has 200 bytes; a pipe holds 65,536
            connection.request("GET", "/health/live")
            assert server.answer(connection).status == 200
    server.is_read.set()
    server.wait_until(lambda: any("lines of the log were dropped" in line["message"] for line in server.log))
    assert server.stop() == 0


def test_without_standard_output(serve):
    """The server runs with closed stdin and stdout, and no connection takes their file descriptors."""
    server = serve(shell="exec 0<&- >&-")
    assert server.complete(max_tokens=1).status == 200
    assert server.stop() == 0


def test_a_stderr_on_a_full_disk():
    """If stderr is on a full disk, the server still serves and ends with exit code 0."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    command = f"exec {sys.executable} -m decoding serve --port={port} --log-level=info 2>/dev/full"
    process = subprocess.Popen(["sh", "-c", command])
    try:
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError), contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as one:
                one.request("GET", "/health")
                if one.getresponse().status == 200:
                    break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 0
    finally:
        process.kill()


def test_sigterm_lets_streams_finish(serve_script):
    """After SIGTERM a stream may finish within the grace period, connections are refused, and the exit code is 0."""
    server = serve_script("paced", "shutdown_grace=60")
    with open_stream(server, max_tokens=60) as response:
        server.process.send_signal(signal.SIGTERM)
        server.wait_until(server.is_refusing)
        rest = response.read()
        assert rest.endswith(b"data: [DONE]\n\n")
        assert b'"finish_reason": "length"' in rest
        assert server.exit_code() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_streams_after_the_grace_period(serve_script, number):
    """After the grace period a stream ends with an error event; the exit code is 0, without a traceback."""
    server = serve_script("paced", "shutdown_grace=0.3")
    with open_stream(server) as response:
        assert server.stop(number) == 0
        last = json.loads(response.read().split(b"data: ")[-1])
        assert last["error"]["code"] == "shutting_down"
    assert not any("Traceback" in line for line in server.lines)


def test_a_second_interrupt_ends_the_grace(serve_script):
    """A second SIGINT ends the grace period: the stream gets its error event, and the exit code is 0."""
    server = serve_script("paced", "shutdown_grace=600")
    with open_stream(server) as response:
        server.process.send_signal(signal.SIGINT)
        server.wait_until(server.is_refusing)  # two signals at once would be one
        assert server.stop(signal.SIGINT) == 0
        assert b'"shutting_down"' in response.read().split(b"data: ")[-1]


def test_an_incomplete_body_is_refused_at_shutdown(serve_script):
    """A client that is still sending its body at SIGTERM gets 503, and the log has no traceback."""
    server = serve_script("paced")
    head, body = raw_request()
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(head + body[:9])
        assert server.request("GET", "/health").status == 200  # so the request before it has been read as well
        assert server.stop() == 0
        answer = b"".join(iter(lambda: raw.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b'"shutting_down"' in answer
    assert not any("Traceback" in line for line in server.lines)


def test_slow_readers_and_half_bodies_do_not_block_others(serve_script):
    """100 clients that do not read their streams and 50 with incomplete bodies do not block other requests."""
    server = serve_script("plain")
    head, body = raw_request(max_tokens=500)
    with contextlib.ExitStack() as stack:
        for number in range(150):
            raw = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            raw.sendall(head + (body if number < 100 else body[:9]))
        assert server.request("GET", "/health").status == 200
        assert server.request("POST", "/tokenize", {"model": "scripted", "prompt": "abc"}).json["count"] == 3


def test_many_streams_at_once(serve_script):
    """Each of 200 concurrent streams is the text that its seed gives alone."""
    server = serve_script("plain", "max_running=32")
    alone = [server.complete(seed=seed, max_tokens=8).json["choices"][0]["text"] for seed in range(4)]

    async def one(seed):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"".join(raw_request(prompt="def f(", seed=seed, max_tokens=8)))
        answer = await reader.read()
        writer.close()
        chunks = re.findall(rb"^data: ({.*})$", answer, flags=re.M)
        return "".join(json.loads(chunk)["choices"][0]["text"] for chunk in chunks)

    async def all_of_them():
        return await asyncio.gather(*(one(number % 4) for number in range(200)))

    assert asyncio.run(all_of_them()) == alone * 50
