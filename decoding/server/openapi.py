"""The OpenAPI document: requests from the fields of the API, answers from the types in completions_api."""

from __future__ import annotations

import types
from functools import cache
from typing import Any, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

from pydantic import BaseModel, ConfigDict, create_model

from decoding.completions_api.errors import ErrorObject
from decoding.completions_api.fields import FIELDS, HARMLESS
from decoding.completions_api.schema import ChunkObject, CompletionObject
from decoding.completions_api.settings import ApiSettings
from decoding.parameters import Parameter
from decoding.params import PARAMETERS

_ERRORS = {
    400: "A value breaks its rule; `param` names the first one that does.",
    401: "No valid API key.",
    404: "No such model.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    415: "The body is no JSON.",
    429: "The queue is full; Retry-After says when to try again.",
    431: "The headers are too large.",
    500: "The model failed.",
    503: "Shutting down, or too many requests are open; Retry-After says when to try again.",
    504: "The completion took too long.",
}


@cache
def model_of(typed_dict: type) -> type[BaseModel]:
    """Return a pydantic model with the fields of a TypedDict, so that a shape is defined once."""
    fields: dict[str, Any] = {}
    for name, hint in get_type_hints(typed_dict, include_extras=True).items():
        optional = get_origin(hint) is NotRequired
        fields[name] = (_converted(get_args(hint)[0]), None) if optional else (_converted(hint), ...)
    config = ConfigDict(protected_namespaces=(), extra="forbid")
    return create_model(typed_dict.__name__, __config__=config, __doc__=typed_dict.__doc__, **fields)


def _converted(hint: Any) -> Any:
    """Return a type in which every TypedDict is replaced by its pydantic model."""
    if is_typeddict(hint):
        return model_of(hint)
    origin, arguments = get_origin(hint), tuple(map(_converted, get_args(hint)))
    if origin in (types.UnionType, Union):
        return Union[arguments]  # noqa: UP007 - made at run time
    return origin[arguments] if origin in (list, dict) else hint


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the descriptions of error answers for FastAPI."""
    return {status: {"model": model_of(ErrorObject), "description": _ERRORS[status]} for status in statuses}


def completion_responses() -> dict[int | str, dict[str, Any]]:
    """Return all answers of POST /v1/completions."""
    return answer_responses(CompletionObject, ChunkObject, "completion")


def answer_responses(whole: type, piece: type, what: str) -> dict[int | str, dict[str, Any]]:
    """Return the answers of a route that answers with one object, or with a stream of chunks."""
    chunk = model_of(piece).model_json_schema(ref_template="#/components/schemas/{model}")
    chunk.pop("$defs", None)
    stream = {"schema": {"type": "string", "description": "With stream: events whose data is", "contentSchema": chunk}}
    return {
        200: {
            "model": model_of(whole),
            "description": f"The {what}; with stream its pieces as server-sent events, then `[DONE]`.",
            "content": {"text/event-stream": stream},
        },
        **error_responses(400, 401, 404, 408, 413, 415, 429, 431, 500, 503, 504),
    }


def json_body(schema: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    """Return the part of an operation that describes its body."""
    content = {"application/json": {"schema": schema, "examples": {"example": {"value": example}}}}
    return {"requestBody": {"required": True, "content": content}}


def completion_schema(settings: ApiSettings, vocab_size: int, *, needs_model: bool) -> dict[str, Any]:
    """Return the JSON Schema of a completion request, with this server's limits and its largest vocabulary.

    needs_model: True if a request must name its model, because there are several.
    """
    properties = {}
    required = ["model", "prompt"] if needs_model else ["prompt"]
    for field in FIELDS:
        schema = _with_ids_below(field.schema_under(settings), vocab_size)
        null = [] if field.name in required else [{"type": "null"}]
        kind = "" if field.standard else "Extension. "
        described: dict[str, Any] = {"description": kind + field.description, "anyOf": [schema, *null]}
        if field.parameter is not None:
            described["x-parameter"] = _row_of(field.parameter)
        properties[field.name] = described
    harmless = {name: {"description": "Accepted, without effect."} for name in HARMLESS}
    return {
        "type": "object",
        "required": required,
        "properties": {**properties, **harmless},
        "additionalProperties": settings.unknown_fields == "ignore",
    }


def _row_of(parameter: Parameter) -> dict[str, Any]:
    """Return those columns of the table of parameters that JSON Schema cannot express. row: index in the table."""
    row = list(PARAMETERS).index(parameter.name)
    return {"row": row, "group": parameter.group, "stage": parameter.stage, "none": parameter.none}


def _with_ids_below(schema: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    """Return a schema in which the integers of arrays, all of them token ids, are below the vocabulary size."""
    changed = dict(schema)
    if "anyOf" in schema:
        changed["anyOf"] = [_with_ids_below(one, vocab_size) for one in schema["anyOf"]]
    if schema.get("items", {}).get("type") == "integer":
        changed["items"] = {**schema["items"], "maximum": vocab_size - 1}
    elif "items" in schema:
        changed["items"] = _with_ids_below(schema["items"], vocab_size)
    return changed
