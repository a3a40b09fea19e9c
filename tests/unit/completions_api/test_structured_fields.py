"""The three fields of the API that take a grammar."""

import pytest

from decoding.completions_api.errors import ApiError, api_error
from decoding.completions_api.request import parse_completion
from decoding.errors import EmptySupportError, ParameterError

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def parse(**body):
    """Return the sampling parameters of a request."""
    return parse_completion({"model": "m", "prompt": "p", **body}).params


@pytest.mark.parametrize(
    ("field", "value", "same"),
    [
        ("structured", {"regex": "a+"}, {"regex": "a+"}),
        ("structured_outputs", {"regex": "a+", "json": None}, {"regex": "a+"}),
        ("structured_outputs", {"choice": ["a", "b", "a"]}, {"choice": ["a", "b"]}),
        ("structured_outputs", {"json": '{"type": "null"}'}, {"json": {"type": "null"}}),
        ("structured_outputs", {"json_object": True}, {"json": {"type": "object"}}),
        ("structured_outputs", {"grammar": 'start: "a"'}, {"grammar": 'start: "a"'}),
        ("response_format", {"type": "json_object"}, {"json": {"type": "object"}}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}, {"json": SCHEMA}),
    ],
)
def test_spellings(field, value, same):
    """Each of the three fields becomes the parameter `structured`."""
    assert parse(**{field: value}) == parse(structured=same)


def test_text_is_no_grammar():
    """The type "text" and null mean that there is no grammar."""
    assert parse(response_format={"type": "text"}).structured is None
    assert parse(response_format=None, structured_outputs=None).structured is None


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("structured_outputs", {}, "must be an object with one of"),
        ("structured_outputs", "a+", "must be an object"),
        ("structured_outputs", {"regex": ""}, "not empty"),
        ("structured_outputs", {"json_object": False}, "none of them"),
        ("structured_outputs", {"regex": "a", "whitespace_pattern": " "}, "'whitespace_pattern' is none of them"),
        ("structured_outputs", {"regex": "a", "choice": ["a"]}, "must be an object with one of"),
        ("structured_outputs", {"json": {"not": {}}}, "must not have not at the root"),
        ("response_format", {"type": "xml"}, "must be an object with the type"),
        ("response_format", {"type": "json_schema"}, "must have an object with a schema"),
        ("response_format", {"type": "json_object", "schema": {}}, "must not have 'schema' beside"),
        ("response_format", {"type": "json_schema", "json_schema": {"schema": SCHEMA}}, "json_schema.name"),
    ],
)
def test_a_wrong_grammar_names_its_field(field, value, message):
    """A wrong grammar is a 400 that names the field."""
    with pytest.raises(ApiError, match=message) as caught:
        parse(**{field: value})
    assert (caught.value.status, caught.value.param) == (400, field)


def test_two_spellings_at_once_are_refused():
    """Two of the fields in one request are refused, even if they agree."""
    with pytest.raises(ApiError, match="must not come with structured_outputs"):
        parse(structured_outputs={"json_object": True}, response_format={"type": "json_object"})


def test_an_error_of_the_compiler_names_the_given_field():
    """An error for `structured` is reported under the field that the request used."""
    error = ParameterError.single("structured", {"regex": "("}, "cannot be followed")
    assert api_error(error, {"response_format"}).param == "response_format"
    assert api_error(error, {"structured"}).param == "structured"


@pytest.mark.parametrize("field", ["structured", "structured_outputs", "response_format", "banned_strings"])
def test_empty_support_names_the_field_that_banned(field):
    """EmptySupportError is a 400 that names the field which banned the tokens."""
    error = api_error(EmptySupportError(0, "hard_masks"), {field, "prompt", "model"})
    assert (error.status, error.param) == (400, field)
