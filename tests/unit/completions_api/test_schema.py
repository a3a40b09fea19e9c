"""Results in the JSON of the Completions API."""

import json
import math

import pytest

from decoding.completions_api.schema import StreamWriter, completion_object
from decoding.engine.outputs import Choice, CompletionResult, Delta, Logprobs, Usage
from decoding.errors import ParameterError
from decoding.llm import LLM
from decoding.params import SamplingParams
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, fixed_reply, hashed_logits


def choice(index, **changes):
    """Return a choice with two tokens; if stop_reason is an id, the second token ended it."""
    logprobs = Logprobs(
        ["a", "é"],
        [97, 256],
        [None, -math.inf],
        [None, {"": -math.inf, "b": -0.5}],
        [0, 1],
        [None, 300],
        data=[None, "é".encode()],
    )
    fields = {"text": "a", "token_ids": [97, 256], "finish_reason": "stop", "stop_reason": None, "logprobs": logprobs}
    return Choice(index=index, seed=-7, **{**fields, **changes})


def result(*choices):
    """Return a result with these choices."""
    return CompletionResult(list(choices), Usage(3, 4), [1, 2, 3], "tiny")


def test_the_whole_object():
    """The JSON object has every field of the API in JSON's own types, with -9999.0 for -inf."""
    made = completion_object([result(choice(0))], system_fingerprint="fp", completion_id="cmpl-1", created=5)
    assert json.loads(json.dumps(made, allow_nan=False)) == {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 5,
        "model": "tiny",
        "system_fingerprint": "fp",
        "choices": [
            {
                "index": 0,
                "text": "a",
                "logprobs": {
                    "tokens": ["a", "é"],
                    "token_logprobs": [None, -9999.0],
                    "top_logprobs": [None, {"": -9999.0, "b": -0.5}],
                    "text_offset": [0, 1],
                    "token_ids": [97, 256],
                    "bytes": [None, [195, 169]],
                },
                "finish_reason": "stop",
                "stop_reason": None,
                "token_ids": [97, 256],
                "seed": -7,
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
    }


def test_the_token_that_ended_the_sequence_has_no_entry():
    """The end token has no log-probability entry but stays in token_ids; a stop string drops no entry."""
    ended, cut = completion_object(
        [result(choice(0, stop_reason=256), choice(1, stop_reason="x"))], system_fingerprint="fp"
    )["choices"]
    assert ended["logprobs"]["tokens"] == ["a"]
    assert {len(column) for column in ended["logprobs"].values()} == {1}
    assert ended["token_ids"] == [97, 256]
    assert cut["logprobs"]["tokens"] == ["a", "é"]


def test_with_echo_the_token_that_ended_the_sequence_keeps_its_entry():
    """With echo the end token keeps its entry, whole or streamed, because scoring needs one entry per token."""
    ended = choice(0, stop_reason=256)
    (whole,) = completion_object([result(ended)], system_fingerprint="fp", echo=True)["choices"]
    assert whole["logprobs"]["tokens"] == ["a", "é"]
    delta = Delta(0, "a", [97, 256], "stop", 256, ended.logprobs, -7)
    for echo, tokens in ((True, ["a", "é"]), (False, ["a"])):
        writer = StreamWriter(model="m", system_fingerprint="fp", echo=echo)
        assert writer.chunk(delta)["choices"][0]["logprobs"]["tokens"] == tokens


def test_two_modes_are_both_reported():
    """With two values of logprobs_mode, each token has its log-probability in both."""
    llm = LLM.from_parts(ScriptedModel(hashed_logits(), 256), byte_tokenizer())
    params = SamplingParams(logprobs=1, logprobs_mode=("scaled", "raw"), temperature=0.5, seed=1, max_tokens=2)
    (told,) = completion_object([llm.complete("x", params)], system_fingerprint="fp")["choices"]
    logprobs = told["logprobs"]
    assert [entry["scaled"] for entry in logprobs["by_mode"]] == logprobs["token_logprobs"]
    assert all(set(entry) == {"scaled", "raw"} for entry in logprobs["by_mode"])


def test_choices_are_ordered_prompt_by_prompt():
    """Choice j of prompt i has index i * n + j, and usage is the sum over all prompts."""
    results = [result(choice(0, text="00"), choice(1, text="01")), result(choice(0, text="10"), choice(1, text="11"))]
    made = completion_object(results, system_fingerprint="fp")
    assert [(c["index"], c["text"]) for c in made["choices"]] == [(0, "00"), (1, "01"), (2, "10"), (3, "11")]
    assert made["usage"] == {"prompt_tokens": 6, "completion_tokens": 8, "total_tokens": 14}
    assert made["id"].startswith("cmpl-")
    assert made["id"] != completion_object(results, system_fingerprint="fp")["id"]


def test_no_results_are_refused():
    """An empty list of results raises a ParameterError."""
    with pytest.raises(ParameterError, match="results"):
        completion_object([], system_fingerprint="fp")


def test_an_eos_that_the_model_drew():
    """A drawn EOS counts in usage, and has neither text nor an entry."""
    model = ScriptedModel(fixed_reply([104, 105, 256], prompt_length=1), 257, eos_token_ids=(256,))
    llm = LLM.from_parts(model, byte_tokenizer(special=["<eos>"]))
    made = completion_object(
        [llm.complete("x", SamplingParams(temperature=0.0, logprobs=1))], system_fingerprint=llm.system_fingerprint
    )
    (only,) = made["choices"]
    assert (only["text"], only["finish_reason"], only["logprobs"]["tokens"]) == ("hi", "stop", ["h", "i"])
    assert made["usage"]["completion_tokens"] == 3


def test_minus_infinity_is_finite_in_json():
    """A log-probability of -inf, as of a dropped alternative, is -9999.0 in strict JSON."""
    llm = LLM.from_parts(ScriptedModel(hashed_logits(), 256), byte_tokenizer())
    params = SamplingParams(top_k=1, logprobs=3, logprobs_mode="final", seed=1, max_tokens=2)
    made = completion_object([llm.complete("x", params)], system_fingerprint="fp")
    text = json.dumps(made, allow_nan=False)
    assert "-9999.0" in text
