"""JSON Schemas that structured output can enforce: keywords that it cannot enforce are refused by name.

A compiler that ignores a keyword gives texts that break the schema, so a schema is walked before it is compiled. The
keywords are those of drafts 4 to 2020-12 that llguidance 1.9 implements; it refuses what it cannot combine (a `oneOf`
whose branches overlap, a pattern with look-around) when the schema is compiled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from decoding.errors import shown
from decoding.validation import RuleError, is_integer, is_real

MAX_DEPTH = 32
"""Maximum depth of nested schemas, including the outermost."""

_SCHEMAS = ("anyOf", "allOf", "oneOf", "prefixItems", "items")
_NAMED_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions")
_SCHEMA = ("items", "additionalItems", "additionalProperties")
_VALUES = ("type", "enum", "const", "required", "pattern", "format", "$ref")
_COUNTS = ("minProperties", "maxProperties", "minItems", "maxItems", "minLength", "maxLength")
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
ENFORCED = frozenset((*_SCHEMAS, *_NAMED_SCHEMAS, *_SCHEMA, *_VALUES, *_COUNTS, *_NUMBERS))
"""Keywords that restrict the text."""

ANNOTATIONS = frozenset(
    ("$comment", "default", "deprecated", "description", "examples", "readOnly", "title", "writeOnly")
)
"""Keywords that restrict nothing, by the specification."""

_AT_ROOT = ("$schema", "$id")

FORMATS = frozenset(("date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid"))
"""Formats that are enforced; dates and times by their shape (docs/semantics.md, section 11)."""


class _Place(NamedTuple):
    """Path of a schema within another. Its text is built only for an error, because keys may be long."""

    parent: _Place | None
    names: tuple[str, ...]
    depth: int

    def __str__(self) -> str:
        place: _Place | None = self
        names: list[str] = []
        while place is not None:
            names[:0] = place.names
            place = place.parent
        return f"/{'/'.join(names)}" if names else "the root"


def check_schema(schema: Any) -> None:
    """Raise RuleError, with the path, for the first keyword of a schema that cannot be enforced."""
    open_schemas: list[tuple[_Place, Any]] = [(_Place(None, (), 1), schema)]
    while open_schemas:
        place, one = open_schemas.pop()
        if place.depth > MAX_DEPTH:
            raise RuleError(f"must have schemas nested at most {MAX_DEPTH} deep")
        if isinstance(one, bool) and place.parent is not None:
            continue
        if not isinstance(one, Mapping):
            raise RuleError(f"must have an object at {place}, not {shown(one)}")
        for name, value in one.items():
            _check_keyword(place, name, value)
        open_schemas += [(_Place(place, names, place.depth + 1), inner) for names, inner in _inner_schemas(one)]


def _check_keyword(place: _Place, name: str, value: Any) -> None:
    if name in ANNOTATIONS or (name in _AT_ROOT and place.parent is None):
        return
    if name not in ENFORCED:
        raise RuleError(f"must not have {name} at {place}: this keyword is not enforced")
    if name == "format" and (not isinstance(value, str) or value not in FORMATS):
        formats = ", ".join(sorted(FORMATS))
        raise RuleError(f"must not have format at {place} with {shown(value)}: formats are {formats}")
    if name in _COUNTS and not (is_integer(value) and value >= 0):
        raise RuleError(f"must have an integer >= 0 as {name} at {place}, not {shown(value)}")
    if name in _NUMBERS and not is_real(value):
        raise RuleError(f"must have a number as {name} at {place}, not {shown(value)}")


def _inner_schemas(schema: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the schemas that are directly in a schema, each with the names that lead to it."""
    for name in _SCHEMAS:
        if isinstance(schema.get(name), list):
            yield from (((name, str(index)), inner) for index, inner in enumerate(schema[name]))
    for name in _NAMED_SCHEMAS:
        if isinstance(schema.get(name), Mapping):
            yield from (((name, str(key)), inner) for key, inner in schema[name].items())
    for name in _SCHEMA:
        if name in schema and not isinstance(schema[name], list):
            yield (name,), schema[name]


def has_keyword(schema: Any, keyword: str) -> bool:
    """Return True if a schema, or one within it, has this keyword."""
    open_values = [schema]
    while open_values:
        one = open_values.pop()
        if isinstance(one, Mapping):
            if keyword in one:
                return True
            open_values += one.values()
        elif isinstance(one, list):
            open_values += one
    return False
