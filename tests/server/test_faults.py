"""A request that meets a fault of the model fails alone, and its error reveals nothing of the server's internals."""

from __future__ import annotations

import contextlib
import json
import threading


def complete_beside(server, **fields):
    """Send a request beside a valid one and return both answers."""
    answers = {}

    def good():
        answers["good"] = server.complete(prompt="good", seed=1, max_tokens=30)

    thread = threading.Thread(target=good)
    thread.start()
    bad = server.complete(**fields)
    thread.join()
    return bad, answers["good"]


def test_a_row_that_is_not_finite(serve_script):
    """A request whose logits are NaN gets 500; a concurrent request gets the answer that it gets alone."""
    server = serve_script("nan")
    alone = server.complete(prompt="good", seed=1, max_tokens=30).json["choices"]
    bad, good = complete_beside(server, prompt="N", max_tokens=5)
    assert (bad.status, bad.error["code"], bad.error["type"]) == (500, "model_error", "server_error")
    assert good.json["choices"] == alone
    assert server.complete(prompt="N", max_tokens=5, stream=True).status == 500


def test_a_row_that_fails_in_the_middle_of_a_stream(serve_script):
    """If the logits become NaN during a stream, the stream has the text so far and an error event, and no [DONE]."""
    server = serve_script("nan")
    answer = server.complete(prompt="M", max_tokens=50, stream=True)
    *chunks, last = answer.events
    assert answer.status == 200
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 5
    assert last["error"]["code"] == "model_error"


def test_a_model_that_raises(serve_script):
    """If the model raises, the request gets 500 without the exception's text; the traceback is in the log."""
    server = serve_script("broken")
    for stream in (False, True):
        answer = server.complete(prompt="B", max_tokens=5, stream=stream)
        assert (answer.status, answer.error["code"]) == (500, "internal_error")
        assert b"secret" not in answer.body
        assert b"0x7f" not in answer.body
    assert server.complete(prompt="a", max_tokens=5).status == 200
    assert "RuntimeError" in server.wait_for_log(message="a request failed")["traceback"]


def test_no_memory_for_a_request(serve_script):
    """If memory is exhausted, the request gets 503 with Retry-After, and serving continues."""
    server = serve_script("broken")
    for stream in (False, True):
        answer = server.complete(prompt="H", max_tokens=5, stream=stream)
        assert (answer.status, answer.error["code"]) == (503, "out_of_memory")
        assert int(answer.headers["retry-after"]) > 0
    assert server.complete(prompt="a", max_tokens=5).status == 200


def test_an_engine_that_dies_ends_the_process(serve_script):
    """If the engine dies, waiting requests and open streams get an error, and the process ends with exit code 1."""
    server = serve_script("broken")
    with contextlib.closing(server.connect()) as connection:
        body = {"model": "scripted", "prompt": "a", "max_tokens": 4000, "stream": True}
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        stream = connection.getresponse()
        assert stream.readline().startswith(b"data: ")
        answer = server.complete(model="scripted", prompt="D", max_tokens=5)
        assert answer.status in (500, 503)
        assert json.loads(stream.read().split(b"data: ")[-1])["error"]["type"] == "server_error"
    assert server.exit_code() == 1
    assert server.wait_for_log(message="an engine has died: the server ends")


def test_a_step_that_never_returns_does_not_block_sigterm(serve_script):
    """If a step never returns, SIGTERM ends the process after the grace period, with exit code 1 and a log line."""
    server = serve_script("broken", "shutdown_grace=0.1")
    with contextlib.closing(server.connect()) as connection:
        body = {"model": "scripted", "prompt": "W", "max_tokens": 5}
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        server.wait_until(lambda: "waits for ever\n" in server.lines)
        assert server.stop() == 1
    assert any("the process ends now" in line["message"] for line in server.log)


def test_comments_while_a_stream_is_silent(serve_script):
    """A silent stream sends comments.

    A comment is not followed by a blank line, because some clients take it for the end of an event.
    """
    server = serve_script("slow", "keep_alive=0.3")
    answer = server.complete(prompt="a", max_tokens=2, stream=True)
    assert answer.body.startswith(b": keep-alive\n")
    assert answer.body.count(b": keep-alive\n") >= 3
    assert b": keep-alive\n\n" not in answer.body
    assert [event["choices"][0]["finish_reason"] for event in answer.events[:-1]] == [None, "length"]


def test_no_comments_while_a_stream_is_busy(serve_script):
    """A stream whose pauses are shorter than keep_alive has no comments, however long it lasts."""
    server = serve_script("paced", "keep_alive=2")
    answer = server.complete(prompt="a", max_tokens=120, stream=True)
    assert answer.body.count(b"data: ") == 121
    assert b": keep-alive" not in answer.body


def test_held_text_comes_before_an_error(serve_script):
    """Text that a possible stop string held back is sent before the error event of a timeout or of the model."""
    stop = "a" * 3000
    server = serve_script("same", "request_timeout=2")
    *chunks, last = server.complete(prompt="x", max_tokens=3000, stop=stop, stream=True).events
    assert last["error"]["code"] == "timeout"
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks).strip("a") == ""
    assert sum(len(chunk["choices"][0]["token_ids"]) for chunk in chunks) > 1
    broken = serve_script("nan")
    *chunks, last = broken.complete(prompt="M", max_tokens=50, stop="c" * 90, stream=True).events
    assert last["error"]["code"] == "model_error"
    assert sum(len(chunk["choices"][0]["token_ids"]) for chunk in chunks) == 5
