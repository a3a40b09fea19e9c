"""POST /tokenize and /detokenize, GET /tokenizer_info, for evaluation harnesses that count tokens at the server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from decoding.async_engine import start_text_work
from decoding.completions_api.errors import ApiError, invalid
from decoding.completions_api.request import unknown_fields
from decoding.completions_api.settings import ApiSettings, Limits
from decoding.errors import Problem, TokenizerError, shown
from decoding.llm import LLM
from decoding.server.body import read_json
from decoding.server.openapi import error_responses, json_body
from decoding.server.service import Service
from decoding.text.tokenizer import Tokenizer
from decoding.validation import checked_token_ids, is_unicode

_MODEL = {"type": ["string", "null"], "description": "The name of one of the server's models (default: the first)."}
_STATUSES = (400, 401, 404, 408, 413, 415, 431, 503)


def add_token_routes(app: FastAPI, service: Service) -> None:
    """Add the routes to an application."""
    name = next(iter(service.models))
    settings = service.settings.api
    limit = settings.limits.max_prompt_tokens
    size = max(model.llm.vocab_size for model in service.models.values())
    others = {"additionalProperties": settings.unknown_fields == "ignore"}

    @app.post(
        "/tokenize",
        summary="Text to token ids",
        tags=["tokens"],
        responses=error_responses(*_STATUSES),
        openapi_extra=json_body({**_tokenize_schema(), **others}, {"model": name, "prompt": "def add(a, b):"}),
    )
    async def tokenize(request: Request) -> Response:
        optional = {"model": str, "add_special_tokens": bool, "parse_special": bool}
        fields = await read_json(request, service, lambda body: _checked(body, {"prompt": str}, optional, settings))
        _check_chars(fields["prompt"], settings.limits)
        llm = service.model(fields.get("model", name)).llm
        tokenizer, text, special = _tokenizer(llm), fields["prompt"], fields.get("add_special_tokens", True)
        parses = fields.get("parse_special", True)
        ids = await start_text_work(
            len(text), lambda check: tokenizer.encode(text, special, max_tokens=limit, parse_special=parses)
        )
        return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": llm.max_model_len})

    @app.post(
        "/detokenize",
        summary="Token ids to text",
        tags=["tokens"],
        responses=error_responses(*_STATUSES),
        openapi_extra=json_body({**_detokenize_schema(size), **others}, {"model": name, "tokens": [1, 2, 3]}),
    )
    async def detokenize(request: Request) -> Response:
        optional = {"model": str, "skip_special_tokens": bool}
        fields = await read_json(request, service, lambda body: _checked(body, {"tokens": list}, optional, settings))
        llm = service.model(fields.get("model", name)).llm
        tokenizer, ids = _tokenizer(llm), fields["tokens"]

        def decoded(check: Callable[[], None]) -> str:
            _check_ids(ids, llm, limit)
            return tokenizer.decode(ids, fields.get("skip_special_tokens", True))

        text = await start_text_work(len(ids), decoded)
        return JSONResponse({"prompt": text})

    @app.get(
        "/tokenizer_info",
        summary="The special tokens of the first model",
        tags=["tokens"],
        responses=error_responses(400, 401, 431, 503),
    )
    async def tokenizer_info() -> dict[str, str | None]:
        tokenizer = _tokenizer(service.model(name).llm)
        return {
            "bos_token": _text_of(tokenizer, tokenizer.bos_token_id),
            "eos_token": _text_of(tokenizer, tokenizer.eos_token_id),
            "chat_template": tokenizer.chat_template,
        }


def _tokenizer(llm: LLM) -> Tokenizer:
    try:
        return llm.tokenizer
    except TokenizerError:  # which names the model's folder; here it has the name by which it is served
        rule = "model: must be one with a tokenizer; this one takes and gives token ids only"
        raise ApiError(400, rule, param="model", code="invalid_value") from None


def _text_of(tokenizer: Tokenizer, token_id: int | None) -> str | None:
    return None if token_id is None else tokenizer.token_text(token_id, skip_special_tokens=False)


def _checked(
    body: Mapping[str, Any], required: Mapping[str, type], optional: Mapping[str, type], settings: ApiSettings
) -> dict[str, Any]:
    """Return the fields that are not null. Raise ApiError with every field of a wrong type."""
    names = {str: "a string of valid Unicode", bool: "a boolean", list: "an array"}
    known = {**required, **optional}
    fields = {name: value for name, value in body.items() if value is not None}
    unknown = unknown_fields(fields, known, settings)
    missing = [Problem(name, "null", "is required") for name in required if name not in fields]
    wrong = [
        Problem(name, shown(fields[name]), f"must be {names[kind]}")
        for name, kind in known.items()
        if name in fields and not _is_a(fields[name], kind)
    ]
    if unknown or missing or wrong:
        code = "unknown_field" if unknown else "missing_field" if missing else "invalid_value"
        raise invalid([*unknown, *missing, *wrong], code)
    return fields


def _is_a(value: Any, kind: type) -> bool:
    """Return True if the value has exactly this type and, if it is a string, is valid Unicode."""
    return type(value) is kind and (not isinstance(value, str) or is_unicode(value))


def _check_chars(text: str, limits: Limits) -> None:
    """Raise ApiError if a text has too many characters."""
    if len(text) > limits.prompt_chars:
        rule = f"must have at most {limits.prompt_chars:,} characters (--max-prompt-chars)"
        raise invalid([Problem("prompt", f"{len(text):,} characters", rule)])


def _check_ids(ids: list[Any], llm: LLM, limit: int) -> None:
    """Raise ApiError for too many ids, and ParameterError for the first id that is not in the vocabulary."""
    if len(ids) > limit:
        raise invalid(
            [Problem("tokens", f"{len(ids)} of them", f"must be at most {limit:,} token ids (--max-prompt-tokens)")]
        )
    checked_token_ids("tokens", ids, llm.vocab_size)


def _tokenize_schema() -> dict[str, Any]:
    properties = {
        "model": _MODEL,
        "prompt": {"type": "string", "description": "The text."},
        "add_special_tokens": {
            "type": ["boolean", "null"],
            "default": True,
            "description": "Add what the tokenizer puts around a text, such as a start token.",
        },
        "parse_special": {
            "type": ["boolean", "null"],
            "default": True,
            "description": "Text that spells a special token becomes it; if false, it is plain text.",
        },
    }
    return {"type": "object", "required": ["prompt"], "properties": properties}


def _detokenize_schema(vocab_size: int) -> dict[str, Any]:
    ids = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": vocab_size - 1}}
    properties = {
        "model": _MODEL,
        "tokens": {**ids, "description": "Token ids."},
        "skip_special_tokens": {
            "type": ["boolean", "null"],
            "default": True,
            "description": "Special tokens have no text.",
        },
    }
    return {"type": "object", "required": ["tokens"], "properties": properties}
