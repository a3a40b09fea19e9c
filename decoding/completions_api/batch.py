"""The OpenAI batch file: one request per line in, one answer per line out, matched by `custom_id`."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from decoding.completions_api.body import parse_object
from decoding.completions_api.chat import ChatRequest, parse_chat
from decoding.completions_api.chat_schema import ChatCompletionObject
from decoding.completions_api.errors import ApiError, ErrorObject, invalid
from decoding.completions_api.request import CompletionRequest, parse_completion
from decoding.completions_api.schema import CompletionObject
from decoding.completions_api.settings import ApiSettings
from decoding.errors import Problem, shown

_URL, _CHAT_URL = "/v1/completions", "/v1/chat/completions"
_ID_PREFIX = "batch_req_"
_BEGINNING = f'{{"id": "{_ID_PREFIX}'.encode()
_FIELDS = ("custom_id", "method", "url", "body")


class BatchResponse(TypedDict):
    """The answer to one line, as the HTTP API would have given it."""

    status_code: int
    request_id: str
    body: CompletionObject | ChatCompletionObject | ErrorObject


class BatchOutput(TypedDict):
    """One line of the output file; `error` is for lines that are no request, whose `response` is null."""

    id: str
    custom_id: str | None
    response: BatchResponse | None
    error: dict[str, str | None] | None


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One line of the input file; `refusal` is why its body cannot be run, and `request` is then None.

    chat: the messages of a chat request, which are rendered to the request's prompt; None for a completion request.
    """

    custom_id: str
    request: CompletionRequest | None
    refusal: ApiError | None
    chat: ChatRequest | None = None


def parse_line(line: bytes, settings: ApiSettings | None = None) -> BatchLine:
    """Read one line: {"custom_id": ..., "method": "POST", "url": "/v1/completions", "body": {...}}.

    The url may be "/v1/chat/completions", too.
    Raises ApiError if the line itself is wrong; the error of a refused body is returned as `refusal`. A batch does not
    stream, so a body with "stream": true is refused.
    """
    fields = parse_object(line)
    problems = list(_problems(fields))
    if problems:
        raise invalid(problems)
    settings = ApiSettings() if settings is None else settings
    try:
        chat = parse_chat(fields["body"], settings) if fields["url"] == _CHAT_URL else None
        request = parse_completion(fields["body"], settings) if chat is None else chat.completion
        if request.stream:
            raise invalid([Problem("stream", "True", "must be false or absent in a batch")])
    except ApiError as error:
        return BatchLine(fields["custom_id"], None, error)
    return BatchLine(fields["custom_id"], request, None, chat)


def _problems(fields: Mapping[str, Any]) -> list[Problem]:
    custom_id = fields.get("custom_id")
    rules = {
        "custom_id": (isinstance(custom_id, str) and custom_id != "", "must be a string, not empty"),
        "method": (fields.get("method") == "POST", "must be 'POST'"),
        "url": (fields.get("url") in (_URL, _CHAT_URL), f"must be {_URL!r} or {_CHAT_URL!r}"),
        "body": (isinstance(fields.get("body"), dict), "must be an object, the request"),
        **{name: (False, "must be a field of a batch line") for name in fields if name not in _FIELDS},
    }
    return [Problem(name, shown(fields.get(name)), rule) for name, (is_right, rule) in rules.items() if not is_right]


def output_line(custom_id: str, answer: CompletionObject | ChatCompletionObject | ApiError) -> BatchOutput:
    """Return the output line of a request that was run, or refused."""
    status, body = (answer.status, answer.body()) if isinstance(answer, ApiError) else (200, answer)
    response: BatchResponse = {"status_code": status, "request_id": f"req_{secrets.token_hex(12)}", "body": body}
    return {"id": _new_id(), "custom_id": custom_id, "response": response, "error": None}


def error_line(custom_id: str | None, error: ApiError) -> BatchOutput:
    """Return the output line of an input line that is not a request, with its `custom_id` if that could be read."""
    return {
        "id": _new_id(),
        "custom_id": custom_id,
        "response": None,
        "error": {"code": error.code, "message": error.message},
    }


def _new_id() -> str:
    return f"{_ID_PREFIX}{secrets.token_hex(12)}"


def is_beginning(line: bytes) -> bool:
    """Return True if a line may be the beginning of an output line, as an interrupted run leaves it."""
    start = min(len(line), len(_BEGINNING))
    return line[:start] == _BEGINNING[:start]
