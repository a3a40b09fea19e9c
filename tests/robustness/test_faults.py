"""Faults from outside: a row of NaN, the tokenizer of another model, an interrupt in C, a dropped connection."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from decoding import LLM, PromptError, Sampler, SamplingParams, SamplingState
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits


@pytest.mark.parametrize("bad", [0, 3, 7])
def test_batch_mates_of_a_nan_row_are_bit_equal(bad: int) -> None:
    """A NaN in one of eight rows fails that row; the other seven get the bits that they get without it."""
    logits = np.random.default_rng(0).normal(0, 3, (8, 1000)).astype(np.float32)
    broken = logits.copy()
    broken[bad, 500] = np.nan
    params = SamplingParams(seed=1, top_p=0.9, logprobs=5)

    def outputs(rows: np.ndarray) -> list[bytes]:
        states = [SamplingState(params, stream=number) for number in range(8)]
        output = Sampler(1000).sample(rows, states, on_error="status")
        assert [error is None for error in output.errors] == [not np.isnan(row).any() for row in rows]
        return [output.words[row].tobytes() + output.all_top_logprobs[row].tobytes() for row in range(8)]

    good, others = outputs(logits), outputs(broken)
    assert [row for row in range(8) if good[row] != others[row]] == [bad]


def test_a_tokenizer_with_ids_beyond_the_model() -> None:
    """Text with ids that the model lacks raises PromptError; other text works, and no such id is drawn."""
    llm = LLM.from_parts(ScriptedModel(hashed_logits(), vocab_size=128), byte_tokenizer())
    with pytest.raises(PromptError, match="195"):  # the first byte of the letter, in UTF-8
        llm.complete("caf\u00e9")
    (choice,) = llm.complete("cafe", SamplingParams(max_tokens=200, temperature=5.0, seed=0)).choices
    assert max(choice.token_ids) < 128


INTERRUPTED = """
import signal
import numpy as np
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore SIGINT
from decoding import Sampler, SamplingParams, SamplingState
logits = np.random.default_rng(0).normal(size=(64, 150_000)).astype(np.float32)
sampler = Sampler(150_000)
def draw():
    states = [SamplingState(SamplingParams(top_p=0.95, seed=i)) for i in range(64)]
    return sampler.sample(logits, states).token_ids.tolist()
first = draw()
try:
    print("ready", flush=True)
    while True:
        assert draw() == first
except KeyboardInterrupt:
    assert draw() == first
    print("interrupted, and right", flush=True)
"""


def test_ctrl_c_in_a_c_call() -> None:
    """An interrupt during sampling in C raises KeyboardInterrupt after the call, and the sampler stays correct."""
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    try:
        assert process.communicate(timeout=120)[0] == "interrupted, and right\n"
    finally:
        process.kill()  # if it is still running
    assert process.returncode == 0


@pytest.fixture(scope="module")
def port() -> object:
    """Yield the port of `decoding serve` with the bundled model."""
    pytest.importorskip("fastapi", reason="needs the extra `server`")
    command = [sys.executable, "-m", "decoding", "serve", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    found = None
    while found is None:
        found = re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
    yield int(found[1])
    process.terminate()
    process.communicate(timeout=120)


BODY = json.dumps({"model": "bundled", "prompt": "def f(", "max_tokens": 24, "seed": 1, "stream": True}).encode()
REQUEST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
REQUEST += b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(BODY), BODY)


def exchange(port: int, sent: int, read: int) -> bytes:
    """Send the first `sent` bytes of the request, read the first `read` bytes of the answer, and disconnect."""
    with socket.create_connection(("127.0.0.1", port), timeout=120) as line:
        line.sendall(REQUEST[:sent])
        answer = b""
        while len(answer) < read and (some := line.recv(min(4096, read - len(answer)))):
            answer += some
        return answer


def text_of(answer: bytes) -> str:
    """Return the streamed text."""
    events = re.findall(rb"^data: (\{.*\})\r?$", answer, flags=re.M)
    return "".join(choice["text"] for event in events for choice in json.loads(event)["choices"])


@pytest.mark.parametrize("step", [13, pytest.param(1, marks=pytest.mark.slow)])
def test_a_dropped_connection(port: int, step: int) -> None:
    """A client may disconnect after any byte of a request or answer: the next request gets the same answer.

    Every 13th byte by default, every byte in the slow tier.
    """
    whole = exchange(port, len(REQUEST), 10**6)
    assert len(text_of(whole)) > 10
    for sent in range(0, len(REQUEST), step):
        exchange(port, sent, 0)
    for read in range(0, len(whole), 40 * step):
        exchange(port, len(REQUEST), read)
    assert text_of(exchange(port, len(REQUEST), 10**6)) == text_of(whole)
