"""Tokenising long texts does not delay shutdown or other requests."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading

TEXT = "def add(a, b):\n    return a + b\n"


def raw_request(path, **fields):
    """Return the bytes of a request."""
    body = json.dumps(fields).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def test_shutdown_does_not_wait_for_the_tokeniser(serve):
    """SIGTERM during the tokenising of nine megabytes ends the process with exit code 0; most clients get no 200."""
    server = serve("--shutdown-grace=0.1", "--max-prompt-tokens=10000000")
    request = raw_request("/tokenize", prompt=TEXT * 28_000)
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=120)) for _ in range(10)
        ]
        for client in clients:
            client.sendall(request)
        assert server.request("GET", "/health").status == 200
        assert server.stop(signal.SIGTERM) == 0
        answers = []
        for client in clients:
            with contextlib.suppress(OSError):
                answers.append(client.recv(100))
    assert sum(answer.startswith(b"HTTP/1.1 200 ") for answer in answers) < 5
    assert not any("Traceback" in line for line in server.lines)


def test_a_client_that_leaves_while_its_texts_are_tokenised_is_counted(serve):
    """If a client disconnects while its texts are tokenised, its request is aborted, and the next one is served."""
    server = serve()
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(raw_request("/v1/completions", model="bundled", prompt=[TEXT * 30] * 128, max_tokens=400))
    server.wait_until(lambda: server.metric("decoding_aborted_total") >= 1)
    assert server.complete(max_tokens=1).status == 200
    assert not [line for line in server.log if line["level"] == "error"]


def test_other_requests_while_long_texts_wait(server):
    """A completion is served beside six texts of 150 kB, and all six texts are tokenised."""
    answers = []

    def tokenise():
        answers.append(server.request("POST", "/tokenize", {"prompt": TEXT * 4500}).json["count"])

    threads = [threading.Thread(target=tokenise) for _ in range(6)]
    for thread in threads:
        thread.start()
    assert server.complete(max_tokens=1).status == 200
    for thread in threads:
        thread.join()
    assert len(answers) == 6
    assert len(set(answers)) == 1
