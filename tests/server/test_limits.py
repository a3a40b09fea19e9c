"""Each limit of docs/server.md: a request at the limit is served, a request beyond it gets an error."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from decoding.completions_api.settings import ApiSettings, Limits
from decoding.errors import ParameterError
from decoding.server.accept import DEFAULT_CONNECTIONS
from decoding.server.settings import ServerSettings

MUCH = {"model": "scripted", "prompt": "a", "n": 8, "logprobs": 5}
"""With a few hundred tokens the answer has several megabytes, more than the buffers of the system hold."""


def narrow_connection(server):
    """Return a connection with a small receive buffer."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    raw.connect(("127.0.0.1", server.port))
    return raw


@pytest.mark.parametrize(
    ("at", "beyond", "param"),
    [
        ({"n": 3}, {"n": 4}, "n"),
        ({"best_of": 4}, {"best_of": 5}, "best_of"),
        ({"logprobs": 2}, {"logprobs": 3}, "logprobs"),
        ({"prompt": ["a"] * 3}, {"prompt": ["a"] * 4}, "prompt"),
        ({"prompt": ["a", "b"], "n": 3}, {"prompt": ["a", "b", "c"], "n": 3}, "n"),
        ({"prompt": ["a"], "best_of": 4}, {"prompt": ["a", "b"], "best_of": 4}, "best_of"),
        ({"prompt": [5] * 20}, {"prompt": [5] * 21}, "prompt"),
        ({"prompt": [[5] * 10, [5] * 10]}, {"prompt": [[5] * 10, [5] * 11]}, "prompt"),
        ({"prompt": "a" * 10 + " b"}, {"prompt": "a" * 31}, "prompt"),
        ({"prompt": ["a" * 15, "b" * 15]}, {"prompt": ["a" * 15, "b" * 16]}, "prompt"),
        ({"prompt": "a" * 15, "suffix": "b" * 15}, {"prompt": "a" * 15, "suffix": "b" * 16}, "suffix"),
        ({"stop": ["a", "b"]}, {"stop": ["a", "b", "c"]}, "stop"),
        ({"stop": "0123456789"}, {"stop": "0123456789a"}, "stop"),
        ({"stop": ["é" * 5]}, {"stop": ["é" * 5, "x"]}, "stop"),
        ({"logit_bias": {str(i): 1 for i in range(4)}}, {"logit_bias": {str(i): 1 for i in range(5)}}, "logit_bias"),
        ({"stop_token_ids": [1, 2, 3, 4]}, {"stop_token_ids": [1, 2, 3, 4, 5]}, "stop_token_ids"),
        ({"banned_token_ids": [1, 2, 3, 4]}, {"banned_token_ids": [1, 2, 3, 4, 5]}, "banned_token_ids"),
        ({"allowed_token_ids": [1, 2, 3, 4]}, {"allowed_token_ids": [1, 2, 3, 4, 5]}, "allowed_token_ids"),
        ({"bad_words": [[i] for i in range(4)]}, {"bad_words": [[i] for i in range(5)]}, "bad_words"),
        ({"bad_words": ["é" * 3, "0123"]}, {"bad_words": ["é" * 3, "01234"]}, "bad_words"),
        ({"bad_words": [[1, 2, 3, 4]]}, {"bad_words": [[1, 2, 3, 4, 5]]}, "bad_words"),
        (
            {"dry_sequence_breakers": [[1], [2], [3], [4]], "dry_multiplier": 1},
            {"dry_sequence_breakers": [[1], [2], [3], [4], [5]], "dry_multiplier": 1},
            "dry_sequence_breakers",
        ),
        (
            {"dry_sequence_breakers": ["é" * 5], "dry_multiplier": 1},
            {"dry_sequence_breakers": ["é" * 5, "x"], "dry_multiplier": 1},
            "dry_sequence_breakers",
        ),
    ],
)
def test_limits_on_fields(small, at, beyond, param):
    """A request at a limit gets 200; a request beyond it gets 400 with the flag of the limit."""
    fields = {"max_tokens": 1, "prompt": "a"}
    served = small.complete(**{**fields, **at})
    assert served.status == 200, served.body
    refused = small.complete(**{**fields, **beyond})
    assert (refused.status, refused.error["param"]) == (400, param)
    assert "(--max-" in refused.error["message"]


def test_the_characters_of_a_text_to_tokenize(small):
    """A text to tokenize has the limit of the prompts."""
    assert small.request("POST", "/tokenize", {"prompt": "a" * 30}).status == 200
    refused = small.request("POST", "/tokenize", {"prompt": "a" * 31})
    assert (refused.status, refused.error["param"]) == (400, "prompt")
    assert "--max-prompt-chars" in refused.error["message"]


def test_outer_limits_follow_from_inner_ones(server, serve):
    """The limits on a body follow from the limits on a prompt.

    A prompt at its limit fits the body as ids and as escapes, so only the model's context refuses it. Commas in a text
    are not counted as values. A raised limit on the prompt raises the limits on the body.
    """
    limits = Limits()
    ids = [987654] * limits.max_prompt_tokens
    text = "\u6f22" * limits.prompt_chars
    commas = "," * limits.prompt_chars
    for prompt in (ids, text, commas, "\U0001f600" * limits.prompt_chars):
        answer = server.complete(prompt=prompt)
        assert (answer.status, answer.error["param"]) == (400, "prompt"), answer.error
        assert answer.error["code"] in ("context_length_exceeded", "invalid_value")
        assert "token" in answer.error["message"]
    more = serve("--max-prompt-tokens=1000000")
    answer = more.complete(prompt=[5] * 1_000_000)
    assert answer.error["code"] == "context_length_exceeded"
    many = more.request("POST", "/v1/completions", b'{"prompt": "a", "metadata": [' + b"1," * 2_200_000 + b"1]}")
    assert many.error["code"] == "invalid_json"


def test_all_bodies_together(serve_script):
    """The unfinished bodies have a limit on their total size; beyond it a request gets 503 until one ends."""
    server = serve_script("plain", "max_body_bytes=3000", "max_total_body_bytes=5000")
    head = b"POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 3000\r\n\r\n"
    whole = json.dumps({"prompt": "a" * 2900}).encode()
    with contextlib.ExitStack() as stack:
        half = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=120))
        half.sendall(head + b" " * 2500)
        server.wait_until(lambda: server.request("POST", "/tokenize", whole).status == 503)
        answer = server.request("POST", "/tokenize", whole)
        assert answer.error["code"] == "too_many_requests"
        assert answer.headers["retry-after"] == "1"
        assert server.request("POST", "/tokenize", whole[:1000]).status == 400
    server.wait_until(lambda: server.request("POST", "/tokenize", whole).status == 200)


def test_the_body(small):
    """A body that is too large gets 413, with a declared length and in chunks."""
    body = json.dumps({"model": "bundled", "prompt": "a", "max_tokens": 1, "user": ""}).encode()
    at = body[:-2] + b"x" * (3000 - len(body)) + body[-2:]
    beyond = at[:-2] + b"x" + at[-2:]
    assert small.request("POST", "/v1/completions", at).status == 200
    refused = small.request("POST", "/v1/completions", beyond)
    assert (refused.status, refused.error["code"]) == (413, "body_too_large")
    for whole, status in ((at, 200), (beyond, 413)):
        with contextlib.closing(small.connect()) as connection:
            pieces = (whole[i : i + 100] for i in range(0, len(whole), 100))
            headers = {"content-type": "application/json"}
            connection.request("POST", "/v1/completions", pieces, headers, encode_chunked=True)
            assert small.answer(connection).status == status


def test_a_body_far_too_large_is_still_answered(small):
    """A client that sends 20 MB gets 413, not a broken connection; an endless body is cut off."""
    refused = small.request("POST", "/v1/completions", b" " * 20_000_000)
    assert (refused.status, refused.headers["connection"]) == (413, "close")
    with contextlib.closing(small.connect()) as connection:
        headers = {"content-type": "application/json"}

        def endless():
            while True:
                yield b" " * 1000
                time.sleep(0.01)

        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            connection.request("POST", "/v1/completions", endless(), headers, encode_chunked=True)


def test_the_headers(small):
    """Headers beyond the limit get 431; a header far beyond it is refused before all of it is read."""
    plain = {"host": f"127.0.0.1:{small.port}", "accept-encoding": "identity"}
    size = len("/health") + sum(len(name) + len(value) for name, value in plain.items())
    assert small.request("GET", "/health?" + "x" * 1000).status == 431
    for extra, status in ((0, 200), (1, 431)):
        padding = {"x-padding": "x" * (1000 - size - len("x-padding") + extra)}
        with contextlib.closing(small.connect()) as connection:
            connection.request("GET", "/health", headers=padding)
            assert small.answer(connection).status == status
    with socket.create_connection(("127.0.0.1", small.port)) as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nx: ")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(1000):
                raw.sendall(b"x" * 1000)
        with contextlib.suppress(ConnectionResetError):
            assert raw.recv(1000).startswith(b"HTTP/1.1 400 ")


def test_the_number_of_headers(serve_script):
    """100 headers are served, 101 get 431; so do too many trailers of a chunked body."""
    server = serve_script("plain", "max_headers=100")
    head, end = b"GET /health HTTP/1.1\r\nconnection: close\r\nhost: x\r\n", b"\r\n"
    chunks = b"POST /tokenize HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
    for data, status in (
        (head + b"a:\r\n" * 98 + end, 200),
        (head + b"a:\r\n" * 99 + end, 431),
        (head + b"a:\r\n" * 9000, 431),
        (chunks + b"a:\r\n" * 9000, 431),
    ):
        with socket.create_connection(("127.0.0.1", server.port), timeout=120) as raw:
            raw.sendall(data)
            assert raw.recv(1000).startswith(b"HTTP/1.1 %d " % status)
    assert server.request("GET", "/health").status == 200


def test_open_requests(serve_script):
    """A request beyond max_open_requests gets 503 with Retry-After at once; /health still answers."""
    server = serve_script("paced", "max_open_requests=2")
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            connection = stack.enter_context(contextlib.closing(server.connect()))
            body = json.dumps({"model": "scripted", "prompt": "a", "max_tokens": 1000, "stream": True})
            connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
            connection.getresponse().fp.readline()
        refused = server.request("GET", "/v1/models")
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert refused.error["code"] == "too_many_requests"
        assert server.request("GET", "/health").status == 200


def test_connections(serve_script):
    """Connections up to max_connections are served; the next one waits until another ends, and the log has one line."""
    server = serve_script("plain", "max_connections=3")
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(contextlib.closing(server.connect())) for _ in range(4)]
        for connection in connections[:3]:
            connection.request("GET", "/health")
            assert server.answer(connection).status == 200
        connections[3].request("GET", "/health")
        assert "max-connections" in server.wait_for_log(level="warning")["message"]
        connections[3].sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connections[3].sock.recv(1)
        connections[3].sock.settimeout(30)
        connections[0].close()
        assert server.answer(connections[3]).status == 200
    assert sum("max-connections" in line["message"] for line in server.log) == 1


def test_few_open_files(serve):
    """With 64 file descriptors further connections wait and the log stays short; a larger limit is an error."""
    server = serve("--log-level=info", shell="ulimit -n 64")
    with contextlib.ExitStack() as stack:
        for _ in range(90):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        assert "max-connections" in server.wait_for_log(level="warning")["message"]
        time.sleep(1)
    assert server.request("GET", "/health").status == 200
    assert len(server.log) < 10
    command = f"ulimit -n 64; exec {sys.executable} -m decoding serve --port=0 --max-connections=1000"
    refused = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "max_connections=1000: must be at most" in refused.stderr


def test_the_queue(serve_script):
    """With one running and one waiting sequence a third request gets 429 with Retry-After at once."""
    server = serve_script("paced", "max_running=1", "max_waiting=1")
    with contextlib.ExitStack() as stack:
        for number in range(2):
            connection = stack.enter_context(contextlib.closing(server.connect()))
            body = json.dumps({"model": "scripted", "prompt": "a", "max_tokens": 2000, "stream": True})
            connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
            if number == 0:
                connection.getresponse().fp.readline()
        server.wait_until(lambda: server.metric("decoding_engine_waiting") == 1)
        refused = server.complete(model="scripted")
        assert (refused.status, refused.error["type"]) == (429, "rate_limit_error")
        assert int(refused.headers["retry-after"]) >= 1
        assert server.metric("decoding_engine_waiting") == 1
        for path in ("/v1/completions", "/v1/chat/completions"):  # refused before the body is parsed
            unparsed = server.request("POST", path, b"{", {"content-type": "application/json"})
            assert (unparsed.status, unparsed.error["code"]) == (429, "queue_full")
            labels = f'{{route="{path}",status="429"}}'
            assert server.metric(f"decoding_requests_total{labels}") == (2 if path == "/v1/completions" else 1)
        assert server.request("POST", "/tokenize", b"{", {"content-type": "application/json"}).status == 400
    # both have disconnected, so there is room again
    server.wait_until(lambda: server.complete(model="scripted", max_tokens=1).status == 200)


def test_the_time_of_a_request(serve_script):
    """A request beyond request_timeout gets 504, or an error event if its stream has begun."""
    server = serve_script("paced", "request_timeout=3")
    assert server.complete(max_tokens=2).status == 200
    with ThreadPoolExecutor(2) as pool:
        slow, stream = pool.map(lambda stream: server.complete(max_tokens=4000, stream=stream), (False, True))
    assert (slow.status, slow.error["code"]) == (504, "timeout")
    *chunks, last = stream.events
    assert last["error"]["code"] == "timeout"
    assert len(chunks) > 1
    silent = serve_script("slow", "request_timeout=0.3")
    unread = silent.complete(prompt="a" * 600, max_tokens=2, stream=True)  # the prompt takes two steps of one second
    assert (unread.status, unread.error["code"]) == (504, "timeout")


def test_the_time_of_a_body_and_of_headers(serve_script):
    """A body that does not arrive gets 408; a connection whose headers do not arrive is closed."""
    server = serve_script("plain", "body_timeout=0.3", "header_timeout=0.3")
    with contextlib.closing(server.connect()) as connection:
        connection.putrequest("POST", "/v1/completions")
        connection.putheader("content-type", "application/json")
        connection.putheader("content-length", "100")
        connection.endheaders(b"{")
        answer = server.answer(connection)
        assert (answer.status, answer.error["code"]) == (408, "body_timeout")
    for beginning in (b"", b"GET /health HTTP/1.1\r\nhost: x\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=120) as raw:
            raw.sendall(beginning)
            assert raw.recv(100) == b""


def test_the_time_of_a_reader(serve_script):
    """A client that pauses gets its whole stream; a client that stops reading is disconnected after send_timeout."""
    body = json.dumps({**MUCH, "max_tokens": 900, "stream": True}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
    request = head + b"content-length: %d\r\n\r\n" % len(body) + body
    patient = serve_script("plain")
    with narrow_connection(patient) as raw:
        raw.sendall(request)
        time.sleep(0.5)
        assert b"".join(iter(lambda: raw.recv(1 << 16), b"")).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    server = serve_script("plain", "send_timeout=1", "max_open_requests=1")
    with narrow_connection(server) as raw:
        raw.sendall(request)
        raw.recv(1)  # the engine may have finished by now: only the answer is too long to be sent
        server.wait_until(lambda: server.request("GET", "/v1/models").status == 200)
        answer = bytearray()
        with contextlib.suppress(ConnectionResetError):
            while piece := raw.recv(1 << 16):
                answer += piece
        assert b"data: [DONE]" not in answer


@pytest.mark.parametrize(
    "limit", ["max_unread_bytes=100000", "max_total_unread_bytes=1000000 max_unread_bytes=1000000"]
)
def test_unread_bytes(serve_script, limit):
    """A stream whose client does not read ends with an error event when its unread bytes exceed a limit.

    The limits are per stream and over all streams. A stream whose client reads is complete, whatever its size.
    """
    server = serve_script("plain", *limit.split(), "max_open_requests=10")
    body = json.dumps({**MUCH, "max_tokens": 2000, "stream": True}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
    with narrow_connection(server) as raw:
        raw.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        server.wait_until(lambda: server.metric("decoding_engine_sampled_tokens_total"))
        server.wait_until_idle()
        answer = b"".join(iter(lambda: raw.recv(1 << 16), b""))
    assert b'"code": "unread_stream"' in answer[-400:]
    assert answer.count(b"data: {") < 16_000
    assert server.complete(**{**MUCH, "max_tokens": 250}, stream=True).events[-1] == "[DONE]"


def test_the_table_of_the_documentation():
    """The table in docs/server.md has exactly the limits, with their defaults."""
    page = (Path(__file__).parents[2] / "docs" / "server.md").read_text()
    section = page.split("## Limits\n")[1].split("\n## ")[0]
    told = re.findall(r"^\| `--([a-z-]+)` \| ([\d,.]+) ", section, flags=re.M)
    limits, server = Limits(), ServerSettings()
    names = [name.replace("-", "_") for name, _ in told]
    derived = {
        "max_prompt_chars": limits.prompt_chars,
        "max_body_bytes": server.body_bytes,
        "max_total_body_bytes": server.total_body_bytes,
        "max_connections": DEFAULT_CONNECTIONS,
    }
    defaults = [
        float(derived.get(name) or getattr(limits if hasattr(limits, name) else server, name)) for name in names
    ]
    assert defaults == [float(value.replace(",", "")) for _, value in told]
    unbounded = ("api", "api_keys", "log_level", "log_prompts", "playground")
    bounded = [name for name in ServerSettings.__slots__ if name not in unbounded]
    assert sorted(names) == sorted([*Limits.__slots__, *bounded])


def test_the_documentation_names_every_flag():
    """Each flag of `decoding serve` is on the page of the server."""
    page = (Path(__file__).parents[2] / "docs" / "server.md").read_text()
    help_page = subprocess.run(
        [sys.executable, "-m", "decoding", "serve", "--help"], capture_output=True, text=True, check=True
    ).stdout
    flags = set(re.findall(r"--[a-z-]+[a-z]", help_page)) - {"--help"}
    named = set(re.findall(r"--[a-z-]+[a-z]", page))
    assert {"--max-n", "--keep-alive"} < flags
    assert {flag for flag in flags if not {flag, flag.replace("--", "--no-", 1)} & named} == set()


def test_limits_that_do_not_nest():
    """A limit on a total must be at least the limit on a single item."""
    for fields in ({"max_total_body_bytes": 10**6}, {"max_total_unread_bytes": 10**6}):
        with pytest.raises(ParameterError, match="must be at least max_"):
            ServerSettings(**fields)
    assert ServerSettings(api=ApiSettings(limits=Limits(max_prompt_tokens=10**8))).total_body_bytes > 10**9


def test_refusals_are_quick(server):
    """Requests with huge numbers or lists get a short error, and serving continues."""
    for fields in (
        {"n": 10**9},
        {"stop": ["a"] * 200_000},
        {"prompt": [[1]] * 100_000},
        {"logit_bias": {"a" * 500_000: 1}},
    ):
        answer = server.complete(**fields)
        assert answer.status == 400
        assert len(answer.body) < 2000
    assert server.request("GET", "/health").status == 200
