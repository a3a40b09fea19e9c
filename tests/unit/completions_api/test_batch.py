"""Tests of the lines of an OpenAI batch file."""

from __future__ import annotations

import json

import pytest

from decoding.completions_api.batch import error_line, output_line, parse_line
from decoding.completions_api.errors import ApiError, invalid
from decoding.completions_api.schema import completion_object
from decoding.errors import Problem
from decoding.llm import LLM
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits

LINE = {"custom_id": "a-1", "method": "POST", "url": "/v1/completions", "body": {"model": "m", "prompt": "x", "n": 2}}


def line(**changes):
    """Return a line of a batch file."""
    return json.dumps({**LINE, **changes}).encode()


def test_a_line_is_a_request():
    """A line is parsed to its id and the request in its body."""
    read = parse_line(line() + b"\n")
    assert (read.custom_id, read.refusal) == ("a-1", None)
    assert (read.request.prompts, read.request.params.n) == (["x"], 2)


@pytest.mark.parametrize(
    "body", [{"model": "m"}, {"model": "m", "prompt": "x", "n": 0}, {**LINE["body"], "stream": True}]
)
def test_a_body_that_is_refused(body):
    """A line with a bad body keeps its id, so that its answer is the API's 400."""
    read = parse_line(line(body=body))
    assert (read.custom_id, read.request) == ("a-1", None)
    assert output_line("a-1", read.refusal)["response"]["status_code"] == 400


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"custom_id": ""}, "custom_id"),
        ({"custom_id": 5}, "custom_id"),
        ({"method": "GET"}, "method"),
        ({"url": "/v1/embeddings"}, "url"),
        ({"body": []}, "body"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_line_with_a_wrong_field(wrong, param):
    """A line with a wrong or unknown field raises an ApiError that names the field."""
    with pytest.raises(ApiError) as caught:
        parse_line(line(**wrong))
    assert caught.value.param == param


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff"])
def test_a_line_that_is_no_json(data):
    """A line that is no JSON object raises an ApiError."""
    with pytest.raises(ApiError, match="body: "):
        parse_line(data)


def test_the_lines_of_the_output():
    """Answers, refusals and errors of lines have the form of the API's batch output."""
    llm = LLM.from_parts(ScriptedModel(hashed_logits(), 256), byte_tokenizer())
    answer = completion_object([llm.complete("x")], system_fingerprint="fp")
    good = json.loads(json.dumps(output_line("a", answer)))
    assert set(good) == {"id", "custom_id", "response", "error"}
    assert (good["custom_id"], good["response"]["status_code"], good["error"]) == ("a", 200, None)
    assert good["response"]["body"] == json.loads(json.dumps(answer))
    refused = output_line("b", invalid([Problem("n", "0", "must be more")]))
    assert refused["response"]["body"]["error"]["param"] == "n"
    bad = error_line(None, ApiError(400, "no", code="invalid_json"))
    assert (bad["response"], bad["error"]) == (None, {"code": "invalid_json", "message": "no"})
