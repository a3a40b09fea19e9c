"""JSON Schema of a parameter's domain, without null."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

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
from decoding.validation import INT32_MAX

Schema: TypeAlias = dict[str, Any]

_FLOAT32_MAX = (2 - 2**-23) * 2.0**127
_ROUNDS_TO_0 = 2.0**-150
"""The largest number that is 0 as a float32."""

STRING: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean"}
IDS: Schema = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": INT32_MAX}}
_NOT_EMPTY: Schema = {"type": "string", "minLength": 1}
_SEQUENCE: Schema = {"anyOf": [_NOT_EMPTY, {**IDS, "minItems": 1}]}


def schema_of(domain: Domain) -> Schema:
    """Return the JSON Schema of a domain's values, without null."""
    match required(domain):
        case Integer(low, high):
            return {"type": "integer", "minimum": low, "maximum": high}
        case Number() as number:
            return _number(number)
        case Boolean():
            return BOOLEAN
        case Word(words):
            return {**STRING, "enum": list(words)}
        case Words(words):
            word = {**STRING, "enum": list(words)}
            return {"anyOf": [word, {"type": "array", "items": word, "minItems": 1}]}
        case WordOrCount(words):
            return {"anyOf": [{**STRING, "enum": list(words)}, schema_of(Integer(1))]}
        case TokenIds(required=is_required):
            return {**IDS, "minItems": 1} if is_required else IDS
        case TokenSequences():
            return {"type": "array", "items": _SEQUENCE}
        case LogitBias(number):
            return {"type": "object", "additionalProperties": _number(number)}
        case Strings():
            return {"anyOf": [_NOT_EMPTY, {"type": "array", "items": _NOT_EMPTY}]}
        case Text():
            return STRING
        case ObjectDomain() as domain_of_objects:
            return domain_of_objects.schema
    raise TypeError(f"domain={domain!r}: must be one of decoding.domains")


def can_be_off(domain: Domain) -> bool:
    """Return True for a count or None: many clients write 0 or -1 for "off", so the API takes both."""
    return isinstance(domain, OrNone) and isinstance(domain.domain, Integer) and domain.domain.low == 1


def _number(number: Number) -> Schema:
    low = number.low if math.isfinite(number.low) else -_FLOAT32_MAX
    high = number.high if math.isfinite(number.high) else _FLOAT32_MAX
    if number.low_is_open:
        return {"type": "number", "exclusiveMinimum": low or _ROUNDS_TO_0, "maximum": high}
    return {"type": "number", "minimum": low, "maximum": high}
