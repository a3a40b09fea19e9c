"""JSON Schemas against public cases: a schema is enforced or refused by name, and no invalid instance is accepted."""

import json
import subprocess
import sys
import tarfile
from collections import Counter

import pytest

from decoding import ParameterError, SamplingParams
from decoding.engine.grammar import Grammar
from decoding.json_schema import ANNOTATIONS, ENFORCED
from decoding.testing.scripted import byte_tokenizer

pytest.importorskip("llguidance")

TOKENIZER = byte_tokenizer([], ["<eos>"])
DRAFTS = ("draft4", "draft6", "draft7", "draft2019-09", "draft2020-12")
BY_SHAPE = ("date.json", "date-time.json", "time.json")
"""Formats that are enforced by shape: 29 February is allowed in every year, and a leap second in any hour."""
OTHER_REGEX = ("ecmascript-regex.json",)
"""In ECMAScript \\S does not match U+FEFF; here it does."""


def compiled(schema):
    """Return the grammar of a schema, or None if the schema is refused."""
    try:
        kind, source = SamplingParams(structured={"json": schema}).structured
        return Grammar(kind, source, TOKENIZER.vocab_size, TOKENIZER)
    except ParameterError:
        return None


def accepts(grammar, instance):
    """Return True if a common serialisation of the instance is a sentence of the grammar."""
    for options in ({}, {"separators": (",", ":")}, {"ensure_ascii": False}):
        matcher = grammar.matcher()
        data = list(json.dumps(instance, **options).encode())
        if matcher.num_valid(data) == len(data):
            for byte in data:
                matcher.append(byte)
            if matcher.may_end:
                return True
    return False


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"type": "integer", "minimum": 3, "exclusiveMaximum": 12}, [3, 11], [2, 12, 3.5, "3"]),
        ({"type": "integer", "multipleOf": 3}, [6, -3], [4]),
        ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "ééé"], ["a", "abcd"]),
        ({"type": "string", "pattern": "^a+$"}, ["aa"], ["ab", ""]),
        ({"type": "string", "format": "ipv4"}, ["127.0.0.1"], ["256.0.0.1"]),
        ({"type": "array", "items": {"type": "null"}, "minItems": 1, "maxItems": 2}, [[None]], [[], [None] * 3, [1]]),
        ({"type": "array", "prefixItems": [{"const": 1}], "items": False}, [[1]], [[2], [1, 1]]),
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, [{"a": 1}, {"b": "x"}], [{"a": "x"}]),
        ({"type": "object", "required": ["a"]}, [{"a": []}], [{}, {"b": 1}]),
        ({"type": "object", "maxProperties": 1}, [{}, {"a": 1}], [{"a": 1, "b": 1}]),
        ({"patternProperties": {"^\U0001f432*$": {"type": "integer"}}}, [{"\U0001f432": 1}], [{"\U0001f432": "x"}]),
        ({"enum": ["a", 1, None, {"b": [2]}]}, ["a", 1, None, {"b": [2]}], ["b", 2, {"b": [3]}]),
        ({"allOf": [{"type": "integer"}, {"minimum": 5}]}, [5], [4, "x"]),
        ({"$defs": {"x": {"enum": [7]}}, "$ref": "#/$defs/x"}, [7], [8]),
        ({"oneOf": [{"type": "integer"}, {"type": "string"}]}, [1, "a"], [1.5, None]),
        ({"minLength": 2}, [1, "ab", {}], ["a"]),
    ],
)
def test_keywords_are_enforced(schema, right, wrong):
    """Valid instances of a schema are sentences of its grammar, invalid ones are not."""
    grammar = compiled(schema)
    assert [instance for instance in right if not accepts(grammar, instance)] == []
    assert [instance for instance in wrong if accepts(grammar, instance)] == []


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"not": {"type": "null"}}, "must not have not at the root"),
        ({"properties": {"a": {"if": {}, "then": {}}}}, "must not have if at /properties/a"),
        ({"items": [{"nullable": True}]}, "must not have nullable at /items/0"),
        ({"anyOf": [{}, {"uniqueItems": True}]}, "must not have uniqueItems at /anyOf/1"),
        ({"$defs": {"a": {"contentEncoding": "base64"}}}, "must not have contentEncoding at /\\$defs/a"),
        ({"format": "phone"}, "must not have format at the root with 'phone'"),
        ({"exclusiveMinimum": True, "minimum": 3}, "must have a number as exclusiveMinimum"),
        ({"x-guidance": {"lenient": True}}, "must not have x-guidance"),
        ({"properties": {"a": {"$id": "b"}}}, "must not have \\$id at /properties/a"),
        ({"items": 3}, "must have an object at /items"),
    ],
)
def test_other_keywords_are_refused_by_name(schema, message):
    """An unsupported keyword is an error with its name and position before anything is compiled."""
    with pytest.raises(ParameterError, match=message):
        SamplingParams(structured={"json": schema})


def test_the_depth_is_bounded():
    """A schema that is nested too deeply is an error."""
    schema = {}
    for _ in range(40):
        schema = {"type": "array", "items": schema}
    with pytest.raises(ParameterError, match="nested at most 32 deep"):
        SamplingParams(structured={"json": schema})


def test_keywords_are_enforced_or_annotations():
    """No keyword is both enforced and an annotation."""
    assert ENFORCED.isdisjoint(ANNOTATIONS)


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """Return the folder of the official test suite, from the source archive of `jsonschema`."""
    folder = tmp_path_factory.mktemp("jsonschema")
    wanted = ["--no-deps", "--no-binary", "jsonschema", "-d", str(folder), "jsonschema==4.26.0"]
    done = subprocess.run([sys.executable, "-m", "pip", "download", "-q", *wanted], capture_output=True, check=False)
    archives = list(folder.glob("*.tar.gz"))
    if done.returncode or not archives:
        pytest.skip("needs the source archive of jsonschema 4.26.0 from the package index")
    with tarfile.open(archives[0]) as archive:
        archive.extractall(folder, filter="data")
    return folder / "jsonschema-4.26.0" / "json" / "tests"


@pytest.mark.slow
@pytest.mark.parametrize("draft", DRAFTS)
def test_the_official_suite(suite, draft):
    """No instance that the suite calls invalid is a sentence of an enforced schema."""
    counts, wrong = Counter(), []
    for path in sorted((suite / draft).rglob("*.json")):
        for case in json.loads(path.read_text()):
            grammar = compiled(case["schema"])
            counts["refused" if grammar is None else "enforced"] += 1
            for test in case["tests"] if grammar is not None else ():
                accepted = accepts(grammar, test["data"])
                counts["valid", accepted] += test["valid"]
                if accepted and not test["valid"] and path.name not in (*BY_SHAPE, *OTHER_REGEX):
                    wrong.append((path.name, case["schema"], test["data"]))
    assert wrong == []
    assert counts["enforced"] > 90
    assert counts["valid", True] > 10 * counts["valid", False]
