"""Tests of loads_in_parts: the values and the errors of json.loads, for any text."""

from __future__ import annotations

import json
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoding.completions_api import json_parts
from decoding.completions_api.body import NotJson, RepeatedName, parse_object
from decoding.completions_api.errors import ApiError
from decoding.completions_api.json_parts import loads_in_parts
from decoding.json_file import repeated_name


def _object_of(pairs):
    repeated = repeated_name(pairs)
    return dict(pairs) if repeated is None else RepeatedName(repeated)


HOOKS = {"object_pairs_hook": _object_of, "parse_constant": NotJson}

CHARS = '"[]{},: \\\n\x00'
PIECES = [*CHARS, "\\u", "\\ud83d", "\\ude00", "0", "-", ".5", "e9", "NaN", "null", '"a":', "],", '", "', "é"]
STRINGS = st.text(max_size=40) | st.lists(st.sampled_from(PIECES), max_size=20).map("".join)
SCALARS = (
    st.sampled_from(["0", "-0", "-0.0", "1.5", "1E400", "12345678901234567890", "true", "false", "null", "-Infinity"])
    | st.sampled_from(
        ["NaN", '"\\ud83d"', '"\\ud83d\\ude00"', '"\\ude00\\ud83d"', '"\\\\"', '"\\/"', "[]", "{}", "[ ]"]
    )
    | st.integers().map(str)
    | st.floats(allow_nan=False, allow_infinity=False).map(str)
    | st.builds(json.dumps, STRINGS, ensure_ascii=st.booleans())
)
NAMES = st.builds(json.dumps, st.sampled_from(["a", "b", "c", "d", "", "e, ", "[", "\ud83d"]) | STRINGS)
COMMAS = st.sampled_from([",", ", ", " ,\n ", ","])


def _containers(inner):
    members = st.tuples(NAMES, st.sampled_from([":", ": ", " :\n"]), inner).map("".join)
    arrays = st.builds(lambda comma, items: f"[{comma.join(items)}]", COMMAS, st.lists(inner, max_size=30))
    return arrays | st.builds(lambda comma, items: f"{{{comma.join(items)}}}", COMMAS, st.lists(members, max_size=12))


TEXTS = st.recursive(SCALARS, _containers, max_leaves=60)


@st.composite
def changed_texts(draw):
    """JSON with up to three changes, after which it mostly is none."""
    text = draw(TEXTS)
    for _ in range(draw(st.integers(0, 3))):
        first = draw(st.integers(0, len(text)))
        last = draw(st.integers(first, min(len(text), first + 9)))
        text = text[:first] + draw(st.sampled_from(["", text[first:last] * 2, *PIECES])) + text[last:]
    return text


def short_parts(size, bounded=False):
    """Return patches for parts of this many characters, by default without a bound on the work that they cost."""
    spend = json_parts._Text._spend if bounded else lambda self, num_chars: None
    sizes = mock.patch.multiple(json_parts, _PART=size, _STRING_PART=size, _STEP=1)
    return sizes, mock.patch.object(json_parts._Text, "_spend", spend)


def outcome(loads, text):
    """The value, with the types and the order of everything in it, or the error with its text."""
    try:
        value = loads(text)
    except (ValueError, RecursionError) as error:
        return type(error), str(error)
    return type(value), repr(value), getattr(value, "name", None)


def plain(text):
    return json.loads(text, **HOOKS)


@given(TEXTS, st.integers(13, 70))
def test_values_are_those_of_json_loads(text, size):
    """JSON in parts of any size has the value of json.loads; only a repeated name leaves it to json.loads."""
    expected = plain(text)
    sizes, spend = short_parts(size)
    with sizes, spend:
        assert outcome(lambda text: loads_in_parts(text, HOOKS), text) == outcome(plain, text)
        if "with a name twice" not in repr(expected):
            assert repr(json_parts._Text(text, HOOKS, lambda: None).document()) == repr(expected)


@given(changed_texts(), st.integers(13, 70), st.booleans())
def test_errors_are_those_of_json_loads(text, size, bounded):
    """A text that is not JSON, or no longer, gives the error of json.loads with its position, or the value."""
    sizes, spend = short_parts(size, bounded)
    with sizes, spend:
        assert outcome(lambda text: loads_in_parts(text, HOOKS), text) == outcome(plain, text)


IDS = ", ".join(map(str, range(100_000, 120_000)))
LONG = "x" * 200_000
FACES = "\\ud83d\\ude00" * 40_000
HALVES = "\\n\\ud83d" * 40_000
BACKSLASHES = "\\\\" * 70_001


@pytest.mark.parametrize(
    "text",
    [
        f'{{"prompt": [{IDS}]}}',
        f' \n{{ "model" : "m", "prompt" :\t[ {IDS} ] , "n":1 }} ',
        f'{{"prompt": [[{IDS}], [{IDS}], []], "suffix": "[1, 2"}}',
        f'{{"prompt": ["{LONG}", "{LONG}"], "stop": ["], [", "\\"," , "]"]}}',
        f'{{"prompt": "{FACES}"}}',
        f'{{"prompt": "x{FACES}"}}',
        f'{{"prompt": "xy{FACES}{BACKSLASHES}"}}',
        f'{{"prompt": "{HALVES}"}}',
        f'{{"prompt": [{IDS.replace(", ", chr(10))}]}}',
        f'{{"prompt": [{IDS},]}}',
        f'{{"prompt": [,{IDS}]}}',
        f'{{"prompt": [{IDS}, , {IDS}]}}',
        f'{{"prompt": [{IDS}]}}}}',
        f'{{"prompt": [{IDS}]]}}',
        f'{{"prompt": [{IDS}}}]',
        f'{{"prompt": [{IDS}',
        f'{{"prompt": [{IDS}, 01, {IDS}]}}',
        f'{{"prompt": [{IDS}, １２, {IDS}]}}',
        f'{{"prompt": [{IDS}, {"9" * 6000}, {IDS}]}}',
        f'{{"prompt": [{IDS}, NaN, -Infinity, 1e999, true, {IDS}]}}',
        f'{{"prompt": [{IDS}], "prompt": [{IDS}]}}',
        f'{{"prompt": [{IDS}], "metadata": {{"a": 1, "b": [{IDS}], "a": 2}}}}',
        f'{{"prompt": [{IDS}]; "n": 1}}',
        f'{{"prompt" [{IDS}]}}',
        f"{{prompt: [{IDS}]}}",
        f'{{"prompt": "{LONG}',
        f'{{"prompt": "{LONG}\\ud83d',
        f'{{"prompt": "{LONG}\\',
        f'{{"prompt": "{LONG}\n"}}',
        f'{{"prompt": "{LONG}\\u12"}}',
        f'{{"prompt": "{LONG}\\x"}}',
        f'{{"prompt": "{LONG}" "n": 1}}',
        "[" * 20_000,
        f"{'[' * 500}{IDS}{']' * 500}",
        f'{{"a": {{"b": [{{"c": [{{"d": [[[[[[{IDS}]]]]]]}}]}}]}}}}',
        f"[{IDS}]",
        "[" + "[1], " * 30_000 + "[2]]",
        "[" + '{"a": [1, "], {"]}, ' * 10_000 + "3]",
        "{" + ", ".join(f'"{name}": [{name}, ", "]' for name in range(20_000)) + "}",
        f'"{LONG}"',
        f"\ufeff[{IDS}]",
        " " * 100_000,
    ],
    ids=str.__len__,
)
def test_long_texts(text):
    """Long texts in parts of the usual size: well formed, or broken in one place."""
    assert outcome(lambda text: loads_in_parts(text, HOOKS), text) == outcome(plain, text)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": list(range(131_072)), "max_tokens": 5},
        {"prompt": [list(range(1000))] * 128},
        {"prompt": ['It is "so", [he] {says},\n' * 300] * 128},
        {"prompt": 'It is "so", [he] says,\n' * 30_000},
        {"prompt": "\U0001f600, " * 30_000},
        {"prompt": "a", "logit_bias": {str(token_id): 1.5 for token_id in range(50_000)}},
        {"prompt": "a", "bad_words": [[token_id] for token_id in range(50_000)]},
        {"messages": [{"role": "user", "content": 'Is it "so"?\n' * 30}] * 1000},
    ],
    ids=lambda fields: f"{[*fields]} {type(fields.get('prompt')).__name__}",
)
def test_no_call_parses_more_than_a_part(fields):
    """The standard library gets no more than a part at once of bodies as clients send them."""
    text = json.dumps({"model": "m", **fields, "n": 1})
    lengths = []
    decode = json.JSONDecoder.raw_decode

    def raw_decode(self, text, idx=0):
        value, end = decode(self, text, idx)
        lengths.append(end - idx)
        return value, end

    with mock.patch.object(json.JSONDecoder, "raw_decode", raw_decode):
        assert loads_in_parts(text, HOOKS) == json.loads(text)
        lengths.pop()  # that of json.loads
    assert max(lengths) <= json_parts._STRING_PART + 2
    assert sum(lengths) >= len(text) / 2


def test_short_texts_are_parsed_at_once():
    """A text of one part is left to json.loads."""
    with mock.patch.object(json_parts, "_Text", side_effect=AssertionError):
        assert loads_in_parts(json.dumps([1] * 5000), HOOKS) == [1] * 5000


@pytest.mark.parametrize("position", [0, 300_000, 700_000])
def test_the_position_of_a_byte_that_is_not_utf8(position):
    """A byte that is not UTF-8 is named by its position in the whole body."""
    data = bytearray(json.dumps({"prompt": "é" * 400_000}, ensure_ascii=False).encode())
    data[position] = 0xFF
    with pytest.raises(ApiError, match=rf"must be UTF-8 \(byte {position} is not\)"):
        parse_object(bytes(data))


@pytest.mark.parametrize("text", ["é€😀, " * 200_000, '"\\[{,' * 100_000])
def test_long_bodies(text):
    """Characters of several bytes, and marks within strings, may lie across the parts of a long body."""
    fields = {"prompt": text, "n": [1, 2, 3]}
    assert parse_object(json.dumps(fields, ensure_ascii=False).encode(), 100) == fields
    fields["n"] = [1] * 100
    with pytest.raises(ApiError, match="must have at most 100 values"):
        parse_object(json.dumps(fields, ensure_ascii=False).encode(), 100)


@pytest.mark.parametrize(
    "end", ["", "]", ",]}", "x]}", "], }", '], "a}', "]} 1", '], "a": "\x00"}', '], "a": {"b": [tru]}}']
)
def test_no_call_parses_more_than_a_part_of_a_text_that_is_not_json(end):
    """An error after a million characters is found without parsing them at once."""
    text = f'{{"model": "m", "prompt": [[{IDS}], [{IDS}' + end
    expected = outcome(plain, text)
    lengths = []
    decode = json.JSONDecoder.decode

    def counted(self, text):
        lengths.append(len(text))
        return decode(self, text)

    with mock.patch.object(json.JSONDecoder, "decode", counted):
        assert outcome(lambda text: loads_in_parts(text, HOOKS), text) == expected
    assert max(lengths) <= json_parts._PART + 2
