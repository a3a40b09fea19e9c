"""Domains of parameters: sets of values, with a rule in words and one form in which every value is kept.

A domain is data, so that several readers can follow it: SamplingParams checks with it, the command line reads flags
by it, the HTTP API derives its JSON Schema, the documentation its tables, and the test strategies valid and invalid
values. Calling a domain with a value returns the value in its one form, or raises RuleError.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from decoding.errors import ParameterError, shown
from decoding.sequence_table import SequenceTable
from decoding.types import LOGPROBS_MODES, P_LESS_RULES, REPETITION_SCOPES
from decoding.validation import (
    INT32_MAX,
    RuleError,
    elements_of,
    is_integer,
    is_real,
    is_unicode,
    plain_token_ids,
    to_float32,
    wrong_token_id,
)

TOKEN_IDS = "token ids: integers from 0 to 2,147,483,647"


class Domain(Protocol):
    """A set of values."""

    @property
    def rule(self) -> str:
        """The rule in words, beginning with "must"."""
        ...

    def __call__(self, value: Any) -> Any:
        """Return the value in the form in which it is kept. Raise RuleError if it is not in the domain."""
        ...


DomainT = TypeVar("DomainT", bound=Domain)


@dataclass(frozen=True, slots=True)
class Integer:
    """Integers from low to high."""

    low: int
    high: int = INT32_MAX

    @property
    def rule(self) -> str:
        """The rule in words."""
        return f"must be an integer from {self.low:,} to {self.high:,}"

    def __call__(self, value: Any) -> int:
        """Return a plain int."""
        if not is_integer(value) or not self.low <= value <= self.high:
            raise RuleError(self.rule)
        return int(value)


@dataclass(frozen=True, slots=True)
class Number:
    """Real numbers from low to high that are finite as a float32, too.

    low_is_open: low itself is excluded.
    """

    low: float = -math.inf
    high: float = math.inf
    low_is_open: bool = False

    @property
    def is_bounded(self) -> bool:
        """Return True for a closed interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def rule(self) -> str:
        """The rule in words."""
        if self.is_bounded:
            return f"must be a number from {self.low:g} to {self.high:g}"
        bound = f" {'>' if self.low_is_open else '>='} {self.low:g}" if math.isfinite(self.low) else ""
        return f"must be a finite number{bound} (as a float32)"

    def __call__(self, value: Any) -> float:
        """Return a plain float, not rounded."""
        if not is_real(value):
            raise RuleError(self.rule)
        try:
            number = float(value)
            fits = math.isfinite(number) and self._has(number) and self._has(to_float32(number))
        except OverflowError:
            fits = False
        if not fits:
            raise RuleError(self.rule)
        return number

    def _has(self, number: float) -> bool:
        return self.low <= number <= self.high and not (self.low_is_open and number == self.low)


@dataclass(frozen=True, slots=True)
class OrNone:
    """None, or a value of another domain."""

    domain: Domain

    @property
    def rule(self) -> str:
        """The rule in words."""
        return f"{self.domain.rule} or None"

    def __call__(self, value: Any) -> Any:
        """Return None, or the value in the other domain's form."""
        try:
            return None if value is None else self.domain(value)
        except RuleError as error:
            raise RuleError(f"{error} or None") from None


@dataclass(frozen=True, slots=True)
class Boolean:
    """True and False."""

    rule: str = "must be True or False"

    def __call__(self, value: Any) -> bool:
        """Return the value itself."""
        if not isinstance(value, bool):
            raise RuleError(self.rule)
        return value


@dataclass(frozen=True, slots=True)
class Word:
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def rule(self) -> str:
        """The rule in words."""
        return "must be " + " or ".join(map(repr, self.words))

    def __call__(self, value: Any) -> str:
        """Return the word."""
        if not isinstance(value, str) or value not in self.words:
            raise RuleError(self.rule)
        return value


@dataclass(frozen=True, slots=True)
class Words:
    """One of a few words, or several of them in an order that counts."""

    words: tuple[str, ...]

    @property
    def rule(self) -> str:
        """The rule in words."""
        return "must be one or several of " + ", ".join(map(repr, self.words))

    def __call__(self, value: Any) -> str | tuple[str, ...]:
        """Return one word, or several as a tuple without duplicates."""
        given = [value] if isinstance(value, str) else elements_of(value)
        if not given or not all(isinstance(word, str) and word in self.words for word in given):
            raise RuleError(self.rule)
        distinct = tuple(dict.fromkeys(given))
        return distinct if len(distinct) > 1 else distinct[0]


@dataclass(frozen=True, slots=True)
class WordOrCount:
    """One of a few words, or a number of tokens from 1."""

    words: tuple[str, ...]

    @property
    def rule(self) -> str:
        """The rule in words."""
        return f"must be {', '.join(map(repr, self.words))}, or an integer >= 1 (a number of last tokens)"

    def __call__(self, value: Any) -> str | int:
        """Return the word, or a plain int."""
        if isinstance(value, str) and value in self.words:
            return value
        if is_integer(value) and 1 <= value <= INT32_MAX:
            return int(value)
        raise RuleError(self.rule)


@dataclass(frozen=True, slots=True)
class TokenIds:
    """Sequences of token ids, kept as tuples without duplicates. None is an empty one, or "all" if required.

    required: at least one id, or None for all of them.
    """

    required: bool = False

    @property
    def rule(self) -> str:
        """The rule in words."""
        return f"must be {TOKEN_IDS}" + (", at least one, or None for all of them" if self.required else "")

    def __call__(self, value: Any) -> tuple[int, ...] | None:
        """Return a tuple; None only if ids are required."""
        if value is None:
            return None if self.required else ()
        ids = _token_ids(value, self.rule)
        if self.required and not ids:
            raise RuleError(self.rule)
        return tuple(dict.fromkeys(ids))


@dataclass(frozen=True, slots=True)
class TokenSequences:
    """Lists of sequences of tokens, each a string or token ids, kept as tuples without duplicates."""

    rule: str = f"must be a list of sequences, none of them empty, each a string or {TOKEN_IDS}"

    def __call__(self, value: Any) -> tuple[str | tuple[int, ...], ...] | SequenceTable:
        """Return a tuple, or a SequenceTable as it is. A string alone is a list of one; None is an empty list."""
        if value is None:
            return ()
        if isinstance(value, SequenceTable):
            return value
        items = [value] if isinstance(value, str) else elements_of(value)
        if items is None:
            raise RuleError(self.rule)
        sequences = tuple(item if isinstance(item, str) else _token_ids(item, self.rule) for item in items)
        if not all(sequences):
            raise RuleError(self.rule)
        _require_unicode([item for item in sequences if isinstance(item, str)])
        return tuple(dict.fromkeys(sequences))


@dataclass(frozen=True, slots=True)
class LogitBias:
    """Mappings from token ids to numbers, kept as pairs sorted by id."""

    number: Number = Number()

    @property
    def rule(self) -> str:
        """The rule in words."""
        numbers = "finite numbers" if not self.number.is_bounded else self.number.rule.removeprefix("must be a ")
        return f"must map token ids (integers from 0 to 2,147,483,647) to {numbers}"

    def __call__(self, value: Any) -> tuple[tuple[int, float], ...]:
        """Return pairs of a mapping or of a list of pairs; None is an empty one."""
        pairs = () if value is None else tuple(value.items() if isinstance(value, Mapping) else self._pairs(value))
        biases: dict[int, float] = {}
        for token_id, bias in pairs:
            if wrong_token_id([token_id]) is not None:
                raise RuleError(f"{self.rule}; key {shown(token_id)} is not a token id")
            try:
                biases[int(token_id)] = self.number(bias)
            except RuleError:
                raise RuleError(f"{self.rule}; key {shown(token_id)} has {shown(bias)}") from None
        if len(biases) != len(pairs):
            raise RuleError("must name each token id once")
        return tuple(sorted(biases.items()))

    def _pairs(self, value: Any) -> list[Any] | tuple[Any, ...]:
        if isinstance(value, (list, tuple)) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
            return value
        raise RuleError(self.rule)


@dataclass(frozen=True, slots=True)
class Strings:
    """Lists of strings, none of them empty, kept as tuples without duplicates."""

    rule: str = "must be a string or a list of strings, none of them empty"

    def __call__(self, value: Any) -> tuple[str, ...]:
        """Return a tuple. A string alone is a list of one; None is an empty list."""
        if value is None:
            return ()
        strings = [value] if isinstance(value, str) else elements_of(value)
        if strings is None or not all(isinstance(string, str) and string for string in strings):
            raise RuleError(self.rule)
        _require_unicode(strings)
        return tuple(dict.fromkeys(strings))


@dataclass(frozen=True, slots=True)
class Text:
    """Strings of valid Unicode, and None."""

    rule: str = "must be a string of valid Unicode, or None"

    def __call__(self, value: Any) -> str | None:
        """Return the value itself."""
        if value is not None and (not isinstance(value, str) or not is_unicode(value)):
            raise RuleError(self.rule)
        return value


FINITE, NOT_NEGATIVE, AT_LEAST_ONE = Number(), Number(low=0.0), Number(low=1.0)
POSITIVE = Number(low=0.0, low_is_open=True)
SHARE = Number(0.0, 1.0)
COUNT = Integer(1)
MODES, SCOPE = Words(LOGPROBS_MODES), WordOrCount(REPETITION_SCOPES)
P_LESS = Word(P_LESS_RULES)


def checked(name: str, value: Any, domain: Domain) -> Any:
    """Return the value in the domain's form. Raise ParameterError with the name if it is not in the domain."""
    try:
        return domain(value)
    except RuleError as error:
        raise ParameterError.single(name, value, str(error)) from None


def required(domain: Domain) -> Domain:
    """Return the domain without None, where None stands for an absent value."""
    return domain.domain if isinstance(domain, OrNone) else domain


def _token_ids(value: Any, rule: str) -> tuple[int, ...]:
    ids = elements_of(value)
    plain = [] if ids is None else plain_token_ids(ids)
    if ids is None or len(plain) < len(ids):
        raise RuleError(rule)
    return tuple(plain)


def _require_unicode(texts: list[str]) -> None:
    if not all(map(is_unicode, texts)):
        raise RuleError("must be valid Unicode (no lone surrogates)")
