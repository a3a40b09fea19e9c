"""Domains whose values are written as JSON objects, each with its JSON Schema and with examples for tests."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from decoding.errors import shown
from decoding.json_schema import check_schema
from decoding.validation import RuleError, elements_of, is_integer, is_unicode

MAX_SOURCE_BYTES = 65_536
"""Maximum bytes of a schema, a regular expression, a grammar, or all choices together."""
MAX_CHOICES = 4_096
MAX_PATTERN_SIZE = 1_024


class ObjectDomain(ABC):
    """A domain of JSON objects; a value is kept as a tuple, so that it can be hashed, pickled and compared.

    rule: the rule in words. schema: its JSON Schema. valid: values that it takes. invalid: values that it refuses.
    """

    rule: ClassVar[str]
    schema: ClassVar[dict[str, Any]]
    valid: ClassVar[tuple[Any, ...]]
    invalid: ClassVar[tuple[Any, ...]]

    @abstractmethod
    def __call__(self, value: Any) -> tuple[Any, ...]:
        """Return a value in the form in which it is kept; a value in that form is returned as it is."""


class Structured(ObjectDomain):
    """Grammars: {"json": schema}, {"regex": text}, {"choice": [texts]} or {"grammar": Lark}.

    Kept as a pair of the kind and its source: the schema as JSON text, the choices as a tuple.
    """

    rule = "must be an object with one of json, regex, choice and grammar"
    schema: ClassVar[dict[str, Any]] = {
        "type": "object",
        "properties": {
            "json": {"anyOf": [{"type": "object"}, {"type": "boolean"}, {"type": "string", "minLength": 1}]},
            "regex": {"type": "string", "minLength": 1},
            "choice": {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1},
            "grammar": {"type": "string", "minLength": 1},
        },
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
    }
    valid: ClassVar[tuple[Any, ...]] = (
        {"regex": "[0-9]{1,3}"},
        {"choice": ["yes", "no"]},
        {"json": {"type": "integer"}},
    )
    invalid: ClassVar[tuple[Any, ...]] = (
        *(1, "", "json", [], {}, {"regex": ""}, {"regex": 1}, {"regex": "a", "choice": ["a"]}, {"xml": "a"}),
        *({"choice": []}, {"choice": [""]}, {"choice": "a"}, {"choice": [1]}, {"grammar": ""}, {"grammar": "\ud800"}),
        *({"json": ""}, {"json": "{"}, {"json": []}, {"json": {"minimum": float("nan")}}, {"json": False}),
        *({"json": {"not": {}}}, {"json": {"type": "string", "unheard": 1}}),
    )

    def __call__(self, value: Any) -> tuple[str, Any]:
        """Return (kind, source)."""
        if isinstance(value, Mapping):
            items = list(value.items())
        else:
            elements = elements_of(value)
            items = [tuple(elements)] if elements is not None and len(elements) == 2 else []
        if len(items) != 1 or items[0][0] not in ("json", "regex", "choice", "grammar"):
            raise RuleError(self.rule)
        kind, source = items[0]
        if kind == "json":
            return kind, _schema_text(source)
        if kind == "choice":
            return kind, _choices(source)
        _check_text(kind, source)
        if kind == "grammar":
            _check_grammar(source)
        return kind, source


class RepetitionDetection(ObjectDomain):
    """Limits of repetitions, kept as the triple (max_pattern_size, min_pattern_size, min_count)."""

    rule = (
        f"must be an object with max_pattern_size (1 to {MAX_PATTERN_SIZE:,}), min_pattern_size (1 to max_pattern_size,"
        " default 1) and min_count (2 to 1,000,000)"
    )
    schema: ClassVar[dict[str, Any]] = {
        "type": "object",
        "properties": {
            "max_pattern_size": {"type": "integer", "minimum": 1, "maximum": MAX_PATTERN_SIZE},
            "min_pattern_size": {"type": "integer", "minimum": 1, "maximum": MAX_PATTERN_SIZE, "default": 1},
            "min_count": {"type": "integer", "minimum": 2, "maximum": 1_000_000},
        },
        "required": ["max_pattern_size", "min_count"],
        "additionalProperties": False,
    }
    valid: ClassVar[tuple[Any, ...]] = (
        {"max_pattern_size": 8, "min_count": 3},
        {"max_pattern_size": 4, "min_pattern_size": 2, "min_count": 2},
    )
    invalid: ClassVar[tuple[Any, ...]] = (
        *(1, "", [], {}, [1, 2], {"max_pattern_size": 8}, {"min_count": 3}, {"max_pattern_size": 0, "min_count": 2}),
        *({"max_pattern_size": 8, "min_count": 1}, {"max_pattern_size": 8, "min_count": True}, [8, 9, 2]),
        *({"max_pattern_size": 8, "min_pattern_size": 9, "min_count": 2}, {"max_pattern_size": 9.0, "min_count": 2}),
        {"max_pattern_size": 8, "min_count": 3, "size": 1},
    )

    def __call__(self, value: Any) -> tuple[int, int, int]:
        """Return (max_pattern_size, min_pattern_size, min_count)."""
        if isinstance(value, Mapping):
            if not set(value) <= {"max_pattern_size", "min_pattern_size", "min_count"}:
                raise RuleError(self.rule)
            numbers = [value.get("max_pattern_size"), value.get("min_pattern_size", 1), value.get("min_count")]
        else:
            numbers = elements_of(value) or []
        if len(numbers) != 3 or not all(map(is_integer, numbers)):
            raise RuleError(self.rule)
        largest, smallest, count = map(int, numbers)
        if not 1 <= smallest <= largest <= MAX_PATTERN_SIZE or not 2 <= count <= 1_000_000:
            raise RuleError(self.rule)
        return largest, smallest, count


def _schema_text(source: Any) -> str:
    """Return a JSON Schema as text, in the order of its properties, which is that of the text to come."""
    schema = source
    if isinstance(source, str):
        _check_text("json", source)
        try:
            schema = json.loads(source)
        except (ValueError, RecursionError):
            raise RuleError("must have a JSON Schema as json") from None
    if schema is True:
        schema = {}
    if _is_long(schema):
        raise RuleError(f"must have at most {MAX_SOURCE_BYTES:,} bytes as json")
    try:
        text = json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise RuleError("must have a JSON Schema as json") from None
    _check_text("json", text)
    check_schema(schema)
    return text


def _is_long(schema: Any) -> bool:
    """Return True if a schema has too many values for its text: each takes a byte and a comma, or a bracket."""
    open_values, num_values = [schema], 0
    while open_values and num_values <= MAX_SOURCE_BYTES // 2:
        value = open_values.pop()
        num_values += 1
        if isinstance(value, dict):
            open_values += value.values()
        elif isinstance(value, list | tuple):
            open_values += value
    return bool(open_values)


def _choices(source: Any) -> tuple[str, ...]:
    choices = elements_of(source)
    if not choices or len(choices) > MAX_CHOICES:
        raise RuleError(f"must have 1 to {MAX_CHOICES:,} texts as choice")
    for choice in choices:
        _check_text("choice", choice)
    if sum(len(choice.encode()) for choice in choices) > MAX_SOURCE_BYTES:
        raise RuleError(f"must have at most {MAX_SOURCE_BYTES:,} bytes as choice")
    return tuple(dict.fromkeys(choices))


def _check_text(kind: str, source: Any) -> None:
    if not isinstance(source, str) or not source or not is_unicode(source):
        raise RuleError(f"must have a text of valid Unicode, not empty, as {kind}")
    if len(source) > MAX_SOURCE_BYTES or len(source.encode()) > MAX_SOURCE_BYTES:
        raise RuleError(f"must have at most {MAX_SOURCE_BYTES:,} bytes as {kind}")


_REFUSED = {
    "%json": re.compile(r"%json\b"),
    "%llguidance": re.compile(r"%llguidance\b"),
    "temperature": re.compile(r"\[[^\[\]\n]*\btemperature\s*="),
}
"""Parts that a grammar must not have: schemas that are not checked, and settings without effect."""


def _check_grammar(source: str) -> None:
    for name, pattern in _REFUSED.items():
        found = pattern.search(source)
        if found:
            raise RuleError(f"must not have {name} in a grammar ({shown(found[0])})")
