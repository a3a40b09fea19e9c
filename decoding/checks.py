"""Rules for the values of parameters: each check returns the value in the one form it is kept in, or says its rule.

A check is a function from a value to that form; it raises RuleError with the rule as text, and the caller adds the
parameter's name and the value. The ones with arguments (`integer(0, 7)`) make a check.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, TypeAlias

from decoding.errors import shown
from decoding.types import LOGPROBS_MODES, REPETITION_SCOPES

Check: TypeAlias = Callable[[Any], object]

INT32_MAX = 2**31 - 1

_IDS = "token ids: integers from 0 to 2,147,483,647"


class RuleError(Exception):
    """The rule that a value breaks, as text."""


def to_float32(value: float) -> float:
    """The float32 nearest to `value`, as a float; OverflowError where that is not finite."""
    rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return rounded


def integer(low: int, high: int = INT32_MAX) -> Check:
    """An integer of Python or numpy, no bool, from low to high."""
    rule = f"must be an integer from {low:,} to {high:,}"

    def check(value: Any) -> int:
        if not _is_integer(value) or not low <= value <= high:
            raise RuleError(rule)
        return int(value)

    return check


def real(rule: str, accepts: Callable[[float], bool] = lambda number: True) -> Callable[[Any], float]:
    """A real number, no bool, that is finite and accepted both as it is and rounded to float32."""

    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise RuleError(rule)
        try:
            number = float(value)
            fits = math.isfinite(number) and accepts(number) and accepts(to_float32(number))
        except OverflowError:
            fits = False
        if not fits:
            raise RuleError(rule)
        return number

    return check


def real_in(low: float, high: float) -> Check:
    """A real number of a closed interval."""
    return real(f"must be a number from {low:g} to {high:g}", lambda number: low <= number <= high)


def or_none(check: Check) -> Check:
    """None, or what `check` accepts."""

    def check_given(value: Any) -> object:
        try:
            return None if value is None else check(value)
        except RuleError as error:
            raise RuleError(f"{error} or None") from None

    return check_given


finite = real("must be a finite number (as a float32)")
not_negative = real("must be a finite number >= 0 (as a float32)", lambda number: number >= 0.0)
positive = real("must be a finite number > 0 (as a float32)", lambda number: number > 0.0)
at_least_one = real("must be a finite number >= 1 (as a float32)", lambda number: number >= 1.0)


def one_of(*words: str) -> Check:
    """One of these words."""
    rule = "must be " + " or ".join(map(repr, words))

    def check(value: Any) -> object:
        if not isinstance(value, str) or value not in words:
            raise RuleError(rule)
        return value

    return check


def boolean(value: object) -> bool:
    """True or False itself."""
    if not isinstance(value, bool):
        raise RuleError("must be True or False")
    return value


def logprobs_mode(value: Any) -> str | tuple[str, ...]:
    """One mode, or several, each kept once; a list of one is that one."""
    rule = "must be one or several of " + ", ".join(repr(mode) for mode in LOGPROBS_MODES)
    modes = (value,) if isinstance(value, str) else _elements(value, rule)
    if not modes or not all(isinstance(mode, str) and mode in LOGPROBS_MODES for mode in modes):
        raise RuleError(rule)
    distinct = tuple(dict.fromkeys(modes))
    return distinct if len(distinct) > 1 else distinct[0]


def repetition_scope(value: Any) -> str | int:
    """One of the words, or how many of the last tokens."""
    if isinstance(value, str) and value in REPETITION_SCOPES:
        return value
    if _is_integer(value) and 1 <= value <= INT32_MAX:
        return int(value)
    raise RuleError("must be 'prompt+output', 'output', or an integer >= 1 (the last so many tokens)")


def token_ids(value: Any) -> tuple[int, ...]:
    """Any number of ids, each kept once; None is none."""
    return () if value is None else tuple(dict.fromkeys(_ids(value, f"must be {_IDS}")))


def some_token_ids(value: Any) -> tuple[int, ...] | None:
    """At least one id, or None."""
    ids = token_ids(value)
    if value is not None and not ids:
        raise RuleError("must name at least one token id, or be None for all of them")
    return None if value is None else ids


def token_sequences(value: Any) -> tuple[str | tuple[int, ...], ...]:
    """Any number of sequences, each a string or token ids, none empty, each kept once; a lone string is one."""
    rule = f"must be several sequences, none of them empty, each a string or {_IDS}"
    if value is None:
        return ()
    items = (value,) if isinstance(value, str) else _elements(value, rule)
    sequences = tuple(item if isinstance(item, str) else _ids(item, rule) for item in items)
    if not all(sequences):
        raise RuleError(rule)
    _require_unicode(*(item for item in sequences if isinstance(item, str)))
    return tuple(dict.fromkeys(sequences))


def logit_bias(value: Any) -> tuple[tuple[int, float], ...]:
    """A mapping, or pairs, from token id to finite bias; kept as pairs sorted by id."""
    rule = "must map token ids (integers from 0 to 2,147,483,647) to finite numbers"
    if value is None:
        return ()
    pairs = tuple(value.items()) if isinstance(value, Mapping) else value
    pairs = tuple(pairs) if isinstance(pairs, list) else pairs
    if not isinstance(pairs, tuple) or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        raise RuleError(rule)
    biases: dict[int, float] = {}
    for token_id, bias in pairs:
        if not _is_token_id(token_id):
            raise RuleError(f"{rule}; key {shown(token_id)} is none")
        try:
            biases[int(token_id)] = finite(bias)
        except RuleError:
            raise RuleError(f"{rule}; key {shown(token_id)} has {shown(bias)}") from None
    if len(biases) != len(pairs):
        raise RuleError("must name each token id once")
    return tuple(sorted(biases.items()))


def strings(value: Any) -> tuple[str, ...]:
    """A string or several, none of them empty, each kept once; None is none."""
    rule = "must be a string or several, none of them empty"
    if value is None:
        return ()
    several = (value,) if isinstance(value, str) else _elements(value, rule)
    if not all(isinstance(string, str) and string for string in several):
        raise RuleError(rule)
    _require_unicode(*several)
    return tuple(dict.fromkeys(several))


def text_or_none(value: Any) -> str | None:
    """A string that has an encoding, or None."""
    if value is not None and (not isinstance(value, str) or not _is_encodable(value)):
        raise RuleError("must be a string of valid Unicode, or None")
    return value


def _is_integer(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_token_id(value: Any) -> bool:
    return _is_integer(value) and bool(0 <= value <= INT32_MAX)


def _elements(value: Any, rule: str) -> tuple[Any, ...]:
    """What can be iterated, as a tuple: no mapping, no bytes; a 0-d array claims to be iterable and is not."""
    if isinstance(value, (bytes, Mapping)):
        raise RuleError(rule)
    try:
        return tuple(value)
    except TypeError:
        raise RuleError(rule) from None


def _ids(value: Any, rule: str) -> tuple[int, ...]:
    ids = _elements(value, rule)
    if isinstance(value, str) or not all(_is_token_id(token_id) for token_id in ids):
        raise RuleError(rule)
    return tuple(int(token_id) for token_id in ids)


def _require_unicode(*texts: str) -> None:
    if not all(_is_encodable(text) for text in texts):
        raise RuleError("must be valid Unicode (no lone surrogates)")


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
