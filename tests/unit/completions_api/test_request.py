"""From a request's JSON to SamplingParams: every field, its range, and what is said where it is broken."""

from __future__ import annotations

import json

import pytest

from decoding.completions_api.body import parse_object
from decoding.completions_api.errors import ApiError
from decoding.completions_api.fields import BY_NAME, FIELDS
from decoding.completions_api.request import parse_completion
from decoding.completions_api.settings import ApiSettings, Limits
from decoding.errors import ParameterError
from decoding.params import SamplingParams

MULTIPLICATIVE = ApiSettings(repetition_penalty_mode="multiplicative")


def parse(settings=None, **fields):
    """The parsed request with these fields beside model and prompt."""
    return parse_completion({"model": "m", "prompt": "p", **fields}, ApiSettings() if settings is None else settings)


def refusal(settings=None, **fields):
    """The ApiError of such a request."""
    with pytest.raises(ApiError) as caught:
        parse(settings, **fields)
    assert caught.value.status == 400
    return caught.value


def test_a_bare_request():
    """The API's defaults are those of SamplingParams."""
    request = parse()
    assert (request.model, request.prompts, request.params) == ("m", ["p"], SamplingParams())
    assert (request.stream, request.include_usage, request.continuous_usage, request.hints) == (False, False, False, ())


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("a", ["a"]), ("", [""]), (["a", ""], ["a", ""]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]])],
)
def test_the_shapes_of_a_prompt(prompt, expected):
    """A list of prompts in each case; what the model makes of them is not this module's business."""
    assert parse(prompt=prompt).prompts == expected


@pytest.mark.parametrize(
    ("name", "low", "high", "below", "above"),
    [
        ("temperature", 0, 2, -0.01, 2.01),
        ("top_p", 0, 1, -0.01, 1.01),
        ("frequency_penalty", -2, 2, -2.01, 2.01),
        ("presence_penalty", -2, 2, -2.01, 2.01),
        ("repetition_penalty", -2, 2, -2.01, 2.01),
        ("logprobs", 0, 5, -1, 6),
        ("n", 1, 128, 0, 129),
        ("best_of", 0, 20, -1, 21),
        ("seed", -(2**63), 2**63 - 1, -(2**63) - 1, 2**63),
        ("max_tokens", 0, 2**31 - 1, -1, 2**31),
    ],
)
def test_the_reference_ranges(name, low, high, below, above):
    """Both ends are in, what is beyond is out and named; a boolean and a string are never numbers."""
    attribute = "context_frequency_penalty" if name == "repetition_penalty" else name
    for value in (low, high):
        assert getattr(parse(**{name: value}).params, attribute) == value
    for value in (below, above, True, "1", [1], {}, float("nan"), float("inf")):
        assert refusal(**{name: value}).param == name
    if isinstance(below, int):
        assert refusal(**{name: 1.0}).param == name


def test_every_field_with_its_default_is_nothing():
    """What the schema calls a default changes no parameter."""
    for field in FIELDS:
        if "default" in field.schema:
            request = parse(**{field.name: field.schema["default"]})
            assert (request.params, request.stream) == (SamplingParams(), False)


def test_every_parameter_of_the_library_has_a_field():
    """By its own name, except the multiplicative repetition penalty, which is a setting's business."""
    assert set(SamplingParams.__slots__) <= set(BY_NAME)


@pytest.mark.parametrize("name", ["top_k", "no_repeat_ngram_size", "dry_range"])
def test_zero_and_minus_one_are_off(name):
    """As other servers have it; the library's own word is None."""
    for value in (0, -1):
        assert getattr(parse(**{name: value}).params, name) is None
    assert getattr(parse(**{name: 3}).params, name) == 3
    assert refusal(**{name: -2}).param == name


def test_both_meanings_of_repetition_penalty():
    """Additive by default, with a hint where the value looks multiplicative; the other mode has the other range."""
    assert parse(repetition_penalty=-1.5).params.context_frequency_penalty == -1.5
    assert parse(repetition_penalty=1.0).hints
    assert not parse(repetition_penalty=0.9).hints
    other = parse(MULTIPLICATIVE, repetition_penalty=3, context_frequency_penalty=0.5)
    assert (other.params.repetition_penalty, other.params.context_frequency_penalty) == (3, 0.5)
    assert not other.hints
    assert refusal(MULTIPLICATIVE, repetition_penalty=0).param == "repetition_penalty"
    assert "which is the same here" in refusal(repetition_penalty=1, context_frequency_penalty=1).message


@pytest.mark.parametrize(
    "key", ["01", "+1", "-1", " 1", "1 ", "1.0", "1e3", "", "a", "\u0663", "1_0", str(2**31), "9" * 5000]
)
def test_keys_of_a_bias(key):
    """A token id has one spelling, so no two keys can mean the same."""
    assert refusal(logit_bias={key: 1}).param == "logit_bias"


def test_a_bias():
    """Numbers from -100 to 100, by token id."""
    assert parse(logit_bias={"7": -100, "0": 100}).params.logit_bias == ((0, 100.0), (7, -100.0))
    for bias in (100.5, -101, None, "1", True):
        assert "key '7'" in refusal(logit_bias={"7": bias}).message


def test_what_stream_options_ask_for():
    """Only with stream, only these, only booleans or null."""
    request = parse(stream=True, stream_options={"include_usage": True, "continuous_usage_stats": None})
    assert (request.include_usage, request.continuous_usage) == (True, False)
    for fields in (
        {"stream_options": {}},
        {"stream": True, "stream_options": {"x": True}},
        {"stream": True, "stream_options": {"include_usage": 1}},
        {"stream": True, "stream_options": True},
    ):
        assert refusal(**fields).param == "stream_options"


@pytest.mark.parametrize(
    ("name", "meant"),
    [("max_completion_tokens", "max_tokens"), ("stop_sequences", "stop"), ("temprature", "temperature")],
)
def test_an_unknown_field_is_told_which_one_was_meant(name, meant):
    """By what other APIs call it, or by its spelling."""
    assert f"did you mean {meant}?" in refusal(**{name: 1}).message


def test_problems_are_bounded():
    """A request with a thousand unknown fields gets an answer of a few lines."""
    error = refusal(**{f"field{i}" * 50: "x" * 10_000 for i in range(1000)})
    assert len(error.message) < 2500
    assert "more" in error.message


def test_settings_are_checked():
    """A limit of zero, or a mode that there is none of, is the operator's mistake and says so."""
    with pytest.raises(ParameterError, match="max_n=0") as caught:
        Limits(max_n=0, max_stop=-1)
    assert len(caught.value.problems) == 2
    with pytest.raises(ParameterError, match="unknown_fields='maybe'"):
        ApiSettings(unknown_fields="maybe")


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity"])
def test_what_json_does_not_have(name):
    """It parses, so that the field can be named; in a field that nobody reads it is an error all the same."""
    body = parse_object(f'{{"model": "m", "prompt": "p", "top_p": {name}}}'.encode())
    with pytest.raises(ApiError, match=f"top_p={name}") as caught:
        parse_completion(body)
    assert caught.value.param == "top_p"
    with pytest.raises(ApiError, match="not valid JSON"):
        parse_completion(parse_object(f'{{"model": "m", "prompt": "p", "metadata": [{name}]}}'.encode()))


def test_integers_that_are_too_long_to_read():
    """Only the field that has one is refused: others in the same body are read as ever."""
    body = parse_object(('{"model": "m", "prompt": [1, 2], "seed": 7, "n": ' + "9" * 5000 + "}").encode())
    with pytest.raises(ApiError, match="n=<an integer of 5000 digits>") as caught:
        parse_completion(body)
    assert caught.value.param == "n"


def test_parsed_bodies_are_json():
    """For an ordinary body the parser is json.loads."""
    fields = {"model": "m", "prompt": "\u00e9\U0001f600", "logit_bias": {"1": 0.5}, "stop": ["a"], "n": 2, "seed": None}
    assert parse_object(json.dumps(fields).encode()) == fields
    assert parse_object(json.dumps(fields, ensure_ascii=False).encode()) == fields
