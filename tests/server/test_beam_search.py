"""Beam search over HTTP, in batch files and on the command line gives the library's hypotheses."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from decoding import LLM
from decoding.engine.beam_params import BeamSearchParams

PROMPT = "def add(a, b):\n"


@pytest.fixture(scope="module")
def choices():
    """Return the hypotheses of the library."""
    params = BeamSearchParams(beam_width=4, n=2, max_tokens=8, length_penalty=0.5, early_stopping="never")
    return LLM().beam_search(PROMPT, params).choices


FIELDS = {"use_beam_search": True, "best_of": 4, "n": 2, "max_tokens": 8, "length_penalty": 0.5}
BODY = {"model": "bundled", "prompt": PROMPT, "early_stopping": "never", **FIELDS}


def texts_and_scores(body):
    """Return the texts and scores of an answer."""
    return [(choice["text"], choice["beam_score"]) for choice in body["choices"]]


def test_over_http(server, choices):
    """Concurrent beam searches and completions each get their own answer; beam_score is the library's score."""
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(server.request, "POST", "/v1/completions", BODY) for _ in range(3)]
        others = [pool.submit(server.complete, max_tokens=6, seed=4) for _ in range(3)]
        bodies = [answer.result().json for answer in answers]
        texts = {other.result().json["choices"][0]["text"] for other in others}
    assert [texts_and_scores(body) for body in bodies] == [[(one.text, one.beam_score) for one in choices]] * 3
    assert bodies[0]["usage"]["completion_tokens"] == sum(len(one.token_ids) for one in choices)
    assert len(texts) == 1


@pytest.mark.parametrize(
    ("fields", "param", "rule"),
    [
        ({"stream": True, "best_of": None}, "stream", "must be false or absent with use_beam_search"),
        ({"top_p": 0.5, "seed": 3}, "seed", "must be absent in a beam search"),
        ({"num_beam_groups": 3}, "num_beam_groups", "must divide beam_width=4"),
        ({"use_beam_search": False}, "length_penalty", "must come with use_beam_search=true"),
        ({"early_stopping": "sometimes"}, "early_stopping", 'must be True, False or "never"'),
        ({"prompt": "x " * 9000}, "prompt", "must fit"),
    ],
)
def test_wrong_requests(server, fields, param, rule):
    """A wrong request gets 400 with the field's name."""
    answer = server.request("POST", "/v1/completions", {**BODY, **fields})
    assert (answer.status, answer.error["param"]) == (400, param)
    assert rule in answer.error["message"]


def test_beam_search_in_a_chat_request(chat_server):
    """A chat request can use beam search and gets the hypotheses in order of score."""
    messages = [{"role": "user", "content": "Add"}]
    body = {"model": "bundled", "messages": messages, **FIELDS}
    replies = chat_server.request("POST", "/v1/chat/completions", body).json["choices"]
    assert [one["index"] for one in replies] == [0, 1]
    assert replies[0]["beam_score"] >= replies[1]["beam_score"]
    assert replies[0]["message"]["content"]


def test_in_batch_files_and_on_the_command_line(tmp_path, choices):
    """`decoding batch` and `decoding complete` return the library's hypotheses."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps({"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": BODY}) + "\n")
    command = [sys.executable, "-m", "decoding"]
    subprocess.run([*command, "batch", source, target], check=True, capture_output=True)
    assert texts_and_scores(json.loads(target.read_text())["response"]["body"]) == [
        (one.text, one.beam_score) for one in choices
    ]
    flags = ["--beam-width=4", "--n=2", "--max-tokens=8", "--length-penalty=0.5", "--early-stopping=never"]
    done = subprocess.run([*command, "complete", PROMPT, *flags], check=True, capture_output=True, text=True)
    lines = [f"--- hypothesis {one.index}: {one.finish_reason}, score {one.beam_score:.6f} ---" for one in choices]
    assert [line for line in done.stdout.splitlines() if line.startswith("--- hyp")] == lines
    assert choices[0].text in done.stdout
