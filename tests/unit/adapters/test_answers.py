"""Answers of batch lines: each depends on its line only."""

import json

import pytest

from decoding import LLM
from decoding.adapters.ray.answers import answers, seed_of
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits


@pytest.fixture
def llm():
    """Return an LLM around a scripted model."""
    return LLM.from_parts(ScriptedModel(hashed_logits(1), 256), byte_tokenizer(), name="mock")


def line(custom_id, **body):
    request = {"model": "mock", "prompt": f"prompt {custom_id}", "max_tokens": 6} | body
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": request})


def test_bytes_do_not_depend_on_other_lines_or_order(llm):
    """Lines give the same bytes alone, together and in reverse order."""
    lines = [line("a"), line("b", seed=3), line("c", n=2, temperature=0.5), line("d", prompt=["x", "y"])]
    together = answers(llm, lines)
    assert [answers(llm, [one])[0] for one in lines] == together
    assert answers(llm, lines[::-1]) == together[::-1]


def test_seeds_follow_from_the_line(llm):
    """A request without a seed draws with the seed derived from its line."""
    without = line("a", temperature=1.0)
    fields = json.loads(without)
    fields["body"]["seed"] = seed_of(without.encode())
    first, second = (json.loads(answer) for answer in answers(llm, [without, json.dumps(fields)]))
    assert first["response"]["body"]["choices"] == second["response"]["body"]["choices"]
    assert seed_of(without.encode()) != seed_of(line("b").encode())


def test_wrong_lines_are_answered(llm):
    """Every line gets an answer, also invalid JSON, bad bodies, unknown models and too long prompts."""
    lines = ["{", line("a", model="other"), line("b", temperature=-1), line("c", prompt="x" * 2000), line("d")]
    lines.append('{"custom_id": "e", "custom_id": "f", "method": "POST", "url": "/v1/completions", "body": {}}')
    found = [json.loads(answer) for answer in answers(llm, lines)]
    statuses = [one["response"] and one["response"]["status_code"] for one in found]
    assert statuses == [None, 404, 400, 400, 200, None]
    assert [one["custom_id"] for one in found[:5]] == [None, "a", "b", "c", "d"]
    assert answers(llm, lines) == answers(llm, lines)


def test_the_engine_is_left_empty(llm):
    """If the engine fails, its requests are removed, and the same lines succeed afterwards."""
    lines = [line("a"), line("b")]
    expected = answers(llm, lines)
    step, llm.engine.step = llm.engine.step, lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        answers(llm, lines)
    llm.engine.step = step
    assert llm.stats.num_running == llm.stats.num_waiting == 0
    assert answers(llm, lines) == expected
