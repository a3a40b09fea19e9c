"""Valid and invalid values of a parameter's domain."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from hypothesis import strategies as st

from decoding.domains import (
    Boolean,
    Domain,
    Integer,
    LogitBias,
    Number,
    OrNone,
    Strings,
    Text,
    TokenIds,
    TokenSequences,
    Word,
    WordOrCount,
    Words,
    required,
)
from decoding.object_domains import ObjectDomain
from decoding.parameters import Parameter
from decoding.testing.strategies.rows import token_ids
from decoding.testing.strategies.texts import texts

Strategy: TypeAlias = st.SearchStrategy[Any]

_NOT_INTEGERS: tuple[Any, ...] = (1.0, 1.5, "1", True, [1], float("nan"), b"1", 1j)
_NOT_NUMBERS: tuple[Any, ...] = (np.nan, np.inf, -np.inf, 1e39, 10**400, "1", True, [], 1j)
_NOT_TOKEN_IDS: tuple[Any, ...] = (1, "12", b"12", [-1], [2**31], [1.0], [True], ["1"], [None], {1: 2})
_NOT_SEQUENCES: tuple[Any, ...] = (1, "", b"x", [1, 2], [[]], [""], [[-1]], [[1.0]], [b"x"], ["\ud800"], {"a": 1})
_NOT_BIASES: tuple[Any, ...] = (1, "1", {"1": 1.0}, {-1: 1.0}, {True: 1.0}, {1: float("nan")}, {1: 1e39}, {1: "1"})
_NOT_PAIRS: tuple[Any, ...] = ([1], [(1, 1), (1, 2)], [(1, 1, 1)])


def valid_values(row: Parameter, vocab_size: int) -> Strategy:
    """Draw values of a parameter that fit a vocabulary: the table's corners, then its usual interval and its domain."""
    ids = token_ids(vocab_size, max_size=6)
    match required(row.domain):
        case Integer(low, high):
            first, last = row.usual or (low, min(high, low + 16))
            return _with_corners(row, st.integers(int(first), int(last)))
        case Number() as number:
            return _with_corners(row, _numbers(number, row.usual))
        case Boolean():
            return st.booleans()
        case Word(words):
            return st.sampled_from(words)
        case Words(words):
            return st.sampled_from(words) | st.lists(st.sampled_from(words), min_size=1)
        case WordOrCount(words):
            first, last = row.usual or (1, 16)
            return st.sampled_from(words) | st.integers(int(first), int(last))
        case TokenIds(required=is_required):
            return ids.filter(bool) if is_required else ids
        case TokenSequences():
            return st.lists(ids.filter(bool), max_size=3)
        case LogitBias():
            bias = st.sampled_from((-100.0, 100.0)) | st.floats(-100.0, 100.0)
            return st.dictionaries(st.integers(0, vocab_size - 1), bias, max_size=6)
        case Strings():
            return st.lists(texts(min_size=1, max_size=4), max_size=3)
        case Text():
            return texts()
        case ObjectDomain() as domain_of_objects:
            return st.sampled_from(domain_of_objects.valid)
    raise TypeError(f"domain={row.domain!r}: must be one of decoding.domains")


def _with_corners(row: Parameter, values: Strategy) -> Strategy:
    return st.sampled_from(row.corners) | values if row.corners else values


def _numbers(number: Number, usual: tuple[float, float] | None) -> Strategy:
    if number.is_bounded:
        middle = (number.low + number.high) / 2
        values = st.sampled_from((number.low, middle, number.high)) | st.floats(number.low, number.high)
        return values if usual is None else values | st.floats(*usual)
    return st.floats(*usual) if usual else st.floats(max(number.low, -4.0), max(number.low + 4.0, 4.0))


def invalid_values(domain: Domain) -> tuple[Any, ...]:
    """Draw values that a domain must refuse."""
    values = _invalid(required(domain))
    takes_none = isinstance(domain, OrNone | Text | TokenIds | TokenSequences | LogitBias | Strings)
    return values if takes_none else (*values, None)


def _invalid(domain: Domain) -> tuple[Any, ...]:
    match domain:
        case Integer(low, high):
            return (*_NOT_INTEGERS, low - 1, high + 1, 10**4000)
        case Number() as number:
            return (*_NOT_NUMBERS, *_outside(number))
        case Boolean():
            return (0, 1, "true", 1.0)
        case Word(words):
            return ("", words[0].upper(), 1, True, [words[0]], words[0].encode())
        case Words(words):
            return ("", words[0].upper(), 1, [], [words[0], words[0].upper()], [1], {words[0]: 1}, words[0].encode())
        case WordOrCount():
            return ("prompt", "", 0, -1, 1.0, True, 2**31)
        case TokenIds(required=is_required):
            return (*_NOT_TOKEN_IDS, [], ()) if is_required else _NOT_TOKEN_IDS
        case TokenSequences():
            return (*_NOT_SEQUENCES, [None])
        case LogitBias():
            return (*_NOT_BIASES, *_NOT_PAIRS)
        case Strings():
            return (1, b"x", "", ["a", ""], [1], {"a": 1}, "\ud800", [None])
        case Text():
            return (1, b"x", ["x"], "\udfff")
        case ObjectDomain() as domain_of_objects:
            return domain_of_objects.invalid
    raise TypeError(f"domain={domain!r}: must be one of decoding.domains")


def _outside(number: Number) -> tuple[float, ...]:
    """Draw finite numbers just beyond the bounds, and one that float32 rounds to an open bound."""
    below = () if number.low == -np.inf else (number.low - 1e-9, number.low - 1.0)
    above = () if number.high == np.inf else (number.high + 0.01, number.high + 1.0)
    return (*below, *above, *((0, 0.0, -0.0, 1e-60) if number.low_is_open else ()))
