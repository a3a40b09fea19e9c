"""Tests of json_pieces: the text of json.dumps, in pieces of bounded size."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoding.completions_api.json_pieces import json_pieces

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@given(VALUES)
def test_the_pieces_are_the_text(value):
    """The pieces join to the text of json.dumps, for any value."""
    assert "".join(json_pieces(value)) == json.dumps(value)


@pytest.mark.parametrize("length", [0, 1, 255, 256, 257, 1000])
def test_long_lists_are_cut(length):
    """No piece has more than 256 entries of a list or of a column of log-probabilities."""
    columns = {"tokens": ["a"] * length, "top_logprobs": [{"a": -1.5}] * length}
    value = {"choices": [{"token_ids": list(range(length)), "logprobs": columns}, {"token_ids": []}]}
    pieces = list(json_pieces(value))
    assert json.loads("".join(pieces)) == value
    assert max(map(len, pieces)) < 256 * len('{"a": -1.5}, ') + 2


def test_nan_and_infinity_are_refused():
    """NaN and infinities raise a ValueError at any depth."""
    for value in (float("nan"), [float("inf")], {"a": [{"b": [float("nan")]}]}):
        with pytest.raises(ValueError, match="JSON"):
            list(json_pieces(value))
