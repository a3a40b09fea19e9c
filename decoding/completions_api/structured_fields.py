"""The two other spellings of `structured`: vLLM's `structured_outputs`, and the chat API's `response_format`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from decoding.completions_api.domain_schema import BOOLEAN, STRING, Schema
from decoding.errors import Problem, shown
from decoding.object_domains import Structured
from decoding.validation import RuleError

SPELLINGS = ("structured", "structured_outputs", "response_format")
"""Fields that mean the parameter `structured`; a request may have one of them."""

_ANY_OBJECT = {"json": {"type": "object"}}
_STRUCTURED = Structured()

STRUCTURED_OUTPUTS_SCHEMA: Schema = {
    **_STRUCTURED.schema,
    "properties": {**_STRUCTURED.schema["properties"], "json_object": {"type": "boolean", "const": True}},
}
RESPONSE_FORMAT_SCHEMA: Schema = {
    "type": "object",
    "properties": {
        "type": {**STRING, "enum": ["text", "json_object", "json_schema"]},
        "json_schema": {
            "type": "object",
            "properties": {
                "name": STRING,
                "description": STRING,
                "schema": {"type": "object"},
                "strict": {"anyOf": [BOOLEAN, {"type": "null"}]},
            },
            "required": ["name", "schema"],
            "additionalProperties": False,
        },
    },
    "required": ["type"],
    "additionalProperties": False,
}


def structured_outputs(value: Any) -> Any:
    """Return the grammar of vLLM's object: one of json, regex, choice, grammar, json_object. Null is absent."""
    if not isinstance(value, Mapping):
        raise RuleError("must be an object with one of json, regex, choice, grammar and json_object")
    given = {name: one for name, one in value.items() if one is not None}
    if given == {"json_object": True}:
        given = _ANY_OBJECT
    unknown = [name for name in given if name not in ("json", "regex", "choice", "grammar")]
    if unknown:
        name = shown(unknown[0])
        raise RuleError(f"must have one of json, regex, choice, grammar and json_object=true; {name} is none of them")
    return _STRUCTURED(given)


def response_format(value: Any) -> Any:
    """Return the grammar of a response format; None for {"type": "text"}."""
    kind = value.get("type") if isinstance(value, Mapping) else None
    allowed = {"text": {"type"}, "json_object": {"type"}, "json_schema": {"type", "json_schema"}}
    if kind not in ("text", "json_object", "json_schema"):
        raise RuleError("must be an object with the type text, json_object or json_schema")
    extra = sorted(map(str, set(value) - allowed[kind]))
    if extra:
        raise RuleError(f"must not have {shown(extra[0])} beside the type {kind}")
    if kind == "text":
        return None
    return _STRUCTURED(_ANY_OBJECT) if kind == "json_object" else _json_schema(value.get("json_schema"))


def _json_schema(value: Any) -> Any:
    """Return the grammar of {"name", "schema", "strict", "description"}; the schema is always enforced."""
    if not isinstance(value, Mapping) or not isinstance(value.get("schema"), Mapping):
        raise RuleError("must have an object with a schema, which is an object, as json_schema")
    if not isinstance(value.get("name"), str):
        raise RuleError("must have a string as json_schema.name")
    extra = sorted(map(str, set(value) - {"name", "schema", "strict", "description"}))
    if extra:
        raise RuleError(f"must not have {shown(extra[0])} in json_schema")
    if not isinstance(value.get("strict"), bool | None) or not isinstance(value.get("description"), str | None):
        raise RuleError("must have True, False or null as json_schema.strict, and a string as its description")
    return _STRUCTURED({"json": value["schema"]})


def merge(values: dict[str, Any], problems: list[Problem]) -> None:
    """Put the value of the other spellings under `structured`; two spellings at once are a problem."""
    given = {name: values.pop(name) for name in SPELLINGS if name in values}
    names = list(given)
    for name in names[1:]:
        problems.append(Problem(name, shown(given[name]), f"must not come with {names[0]}, which means the same"))
    if names and given[names[0]] is not None:
        values["structured"] = given[names[0]]
