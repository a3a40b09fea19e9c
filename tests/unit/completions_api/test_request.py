"""From a request's JSON to SamplingParams: every field, its range, and the errors."""

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
    """Return the parsed request with these fields in addition to model and prompt."""
    return parse_completion({"model": "m", "prompt": "p", **fields}, ApiSettings() if settings is None else settings)


def refusal(settings=None, **fields):
    """Return the ApiError of such a request."""
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
    """Every form of a prompt becomes a list of prompts."""
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
    """Both ends of a field's range are accepted; values beyond, booleans and strings are refused."""
    attribute = "context_frequency_penalty" if name == "repetition_penalty" else name
    for value in (low, high):
        assert getattr(parse(**{name: value}).params, attribute) == value
    for value in (below, above, True, "1", [1], {}, float("nan"), float("inf")):
        assert refusal(**{name: value}).param == name
    if isinstance(below, int):
        assert refusal(**{name: 1.0}).param == name


def test_a_field_with_its_default_changes_nothing():
    """A field that has its schema's default changes no parameter."""
    for field in FIELDS:
        if "default" in field.schema:
            request = parse(**{field.name: field.schema["default"]})
            assert (request.params, request.stream) == (SamplingParams(), False)


def test_every_parameter_of_the_library_has_a_field():
    """Every parameter of SamplingParams has a field of the same name."""
    assert set(SamplingParams.__slots__) <= set(BY_NAME)


@pytest.mark.parametrize("name", ["top_k", "no_repeat_ngram_size", "dry_range"])
def test_zero_and_minus_one_disable(name):
    """0 and -1 disable these fields, as in other servers, and become None."""
    for value in (0, -1):
        assert getattr(parse(**{name: value}).params, name) is None
    assert getattr(parse(**{name: 3}).params, name) == 3
    assert refusal(**{name: -2}).param == name


def test_both_meanings_of_repetition_penalty():
    """repetition_penalty is additive by default, with a hint from 1.0 on, and multiplicative by setting."""
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
    """A key of logit_bias must be the canonical decimal of a token id, so that no two keys are equal."""
    assert refusal(logit_bias={key: 1}).param == "logit_bias"


def test_a_bias():
    """logit_bias takes numbers from -100 to 100 by token id; other values raise an error with the key."""
    assert parse(logit_bias={"7": -100, "0": 100}).params.logit_bias == ((0, 100.0), (7, -100.0))
    for bias in (100.5, -101, None, "1", True):
        assert "key '7'" in refusal(logit_bias={"7": bias}).message


def test_stream_options():
    """stream_options needs stream, and accepts only its two fields, as booleans or null."""
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
def test_an_unknown_field_suggests_a_known_one(name, meant):
    """The error of an unknown field suggests the field of a similar name or meaning."""
    assert f"did you mean {meant}?" in refusal(**{name: 1}).message


def test_problems_are_bounded():
    """The error of a request with 1,000 unknown fields stays below 2,500 characters."""
    error = refusal(**{f"field{i}" * 50: "x" * 10_000 for i in range(1000)})
    assert len(error.message) < 2500
    assert "more" in error.message


def test_settings_are_checked():
    """A limit of zero or an unknown mode in the settings raises a ParameterError."""
    with pytest.raises(ParameterError, match="max_n=0") as caught:
        Limits(max_n=0, max_stop=-1)
    assert len(caught.value.problems) == 2
    with pytest.raises(ParameterError, match="unknown_fields='maybe'"):
        ApiSettings(unknown_fields="maybe")


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity"])
def test_nan_and_infinity_name_their_field(name):
    """NaN and infinity raise an error that names the field, or invalid JSON in an ignored field."""
    body = parse_object(f'{{"model": "m", "prompt": "p", "top_p": {name}}}'.encode())
    with pytest.raises(ApiError, match=f"top_p={name}") as caught:
        parse_completion(body)
    assert caught.value.param == "top_p"
    with pytest.raises(ApiError, match="not valid JSON"):
        parse_completion(parse_object(f'{{"model": "m", "prompt": "p", "metadata": [{name}]}}'.encode()))


def test_integers_that_are_too_long_to_read():
    """An integer of 5,000 digits is an error of its own field only."""
    body = parse_object(('{"model": "m", "prompt": [1, 2], "seed": 7, "n": ' + "9" * 5000 + "}").encode())
    with pytest.raises(ApiError, match="n=<an integer of 5000 digits>") as caught:
        parse_completion(body)
    assert caught.value.param == "n"


def test_parsed_bodies_are_json():
    """parse_object agrees with json.loads."""
    fields = {"model": "m", "prompt": "\u00e9\U0001f600", "logit_bias": {"1": 0.5}, "stop": ["a"], "n": 2, "seed": None}
    assert parse_object(json.dumps(fields).encode()) == fields
    assert parse_object(json.dumps(fields, ensure_ascii=False).encode()) == fields
