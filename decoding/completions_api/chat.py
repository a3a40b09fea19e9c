"""From the JSON object of POST /v1/chat/completions to messages, options of the template and a completion request.

A chat request is a completion request whose prompt a template writes. Its own fields are read here; all others are
those of the Completions API, checked by its parser.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from decoding.completions_api.body import contains_not_json
from decoding.completions_api.errors import ApiError, invalid
from decoding.completions_api.fields import BY_NAME, HARMLESS
from decoding.completions_api.request import CompletionRequest, parse_completion, unknown_fields
from decoding.completions_api.settings import ApiSettings
from decoding.domains import Boolean, Integer, Word
from decoding.errors import Problem, shown
from decoding.validation import RuleError

_DEFAULT_SETTINGS = ApiSettings()
_FLAG = Boolean()

NOT_IN_CHAT = ("prompt", "suffix", "echo")
"""Fields of the Completions API that a chat request does not have."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A chat request whose fields are right; the messages are checked where they are rendered.

    options: arguments of `ChatFormat.prompt`. completion: the request without its prompt.
    """

    messages: list[Any]
    options: dict[str, Any]
    completion: CompletionRequest


@dataclass(frozen=True, slots=True)
class ChatField:
    """A field that only chat requests have. schema: its JSON Schema, without null."""

    name: str
    description: str
    schema: dict[str, Any]
    check: Callable[[Any], Any]
    standard: bool = True


def _messages(value: Any) -> Any:
    if not isinstance(value, list) or not value:
        raise RuleError("must be an array of messages, at least one")
    return value


def _objects(value: Any) -> Any:
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        raise RuleError("must be an array of objects")
    return value


def _object(value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise RuleError("must be an object")
    return value


_TEXT_PART = {"type": "object", "required": ["type", "text"], "properties": {"type": {"const": "text"}}}
_MESSAGE = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9_-]{0,63}$"},
        "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": _TEXT_PART}, {"type": "null"}]},
    },
}
_ARRAY = {"type": "array", "items": {"type": "object"}}

CHAT_FIELDS: tuple[ChatField, ...] = (
    ChatField(
        "messages",
        "The conversation, oldest message first. Contents are text, or text parts, which are joined with newlines.",
        {"type": "array", "items": _MESSAGE, "minItems": 1},
        _messages,
    ),
    ChatField(
        "max_completion_tokens",
        "The name that newer clients have for max_tokens. If neither is given, a reply ends by itself or with the"
        " context.",
        {"type": "integer", "minimum": 0},
        Integer(0),
    ),
    ChatField("logprobs", "Report the log-probability of each token.", {"type": "boolean"}, _FLAG),
    ChatField(
        "top_logprobs",
        "With logprobs: report this many of the most likely tokens at each position, too.",
        {"type": "integer", "minimum": 0},
        Integer(0),
    ),
    ChatField("tools", "Functions that the template describes to the model. Calls are not parsed.", _ARRAY, _objects),
    ChatField(
        "tool_choice",
        "auto, or none, which leaves the tools out. No call can be forced.",
        {"enum": ["auto", "none"]},
        Word(("auto", "none")),
    ),
    ChatField(
        "add_generation_prompt",
        "End the prompt with the beginning of a reply (default: true, unless the final message is continued).",
        {"type": "boolean"},
        _FLAG,
        standard=False,
    ),
    ChatField("continue_final_message", "Go on with the final message.", {"type": "boolean"}, _FLAG, standard=False),
    ChatField(
        "chat_template_kwargs",
        "Further names for the template, such as enable_thinking.",
        {"type": "object"},
        _object,
        standard=False,
    ),
)
"""Fields that the Completions API does not have, or has with another meaning."""

_CHECKS = {field.name: field.check for field in CHAT_FIELDS}
_KNOWN = tuple(name for name in (*_CHECKS, *BY_NAME, *HARMLESS) if name not in NOT_IN_CHAT)


def parse_chat(
    body: Mapping[str, Any], settings: ApiSettings = _DEFAULT_SETTINGS, model: str | None = None
) -> ChatRequest:
    """Check the JSON object of a chat request; an explicit null is the same as an absent field.

    model: the default model; None: the request must name one.

    Raises ApiError (400) with all problems; `param` names the first.
    """
    fields = {name: value for name, value in body.items() if value is not None}
    unknown = unknown_fields(fields, _KNOWN, settings)
    if model is not None:
        fields.setdefault("model", model)
    missing = [Problem(name, "null", "is required") for name in ("model", "messages") if name not in fields]
    problems: list[Problem] = []
    own: dict[str, Any] = {}
    for name in _CHECKS.keys() & fields.keys():
        try:
            own[name] = _CHECKS[name](fields[name])
        except RuleError as error:
            problems.append(Problem(name, shown(fields[name]), str(error)))
    problems += _cross_checks(own, fields, settings)
    told = None
    if unknown or missing or problems:
        code = "unknown_field" if unknown else "missing_field" if missing else "invalid_value"
        told = invalid([*unknown, *missing, *problems], code)
    completion = _completion(fields, own, settings, told)
    if told is not None:
        raise told
    if contains_not_json(list(body.values())):
        raise ApiError(400, "body: must have finite numbers, and no name twice in an object", code="invalid_json")
    return ChatRequest(own["messages"], _options(own), completion)


def _cross_checks(own: Mapping[str, Any], fields: Mapping[str, Any], settings: ApiSettings) -> list[Problem]:
    problems = []
    if "top_logprobs" in own and not own.get("logprobs"):
        problems.append(Problem("top_logprobs", shown(own["top_logprobs"]), "must come with logprobs=true"))
    if own.get("top_logprobs", 0) > (most := settings.limits.max_top_logprobs):
        rule = f"must be an integer from 0 to {most} (--max-top-logprobs)"
        problems.append(Problem("top_logprobs", shown(own["top_logprobs"]), rule))
    limit = own.get("max_completion_tokens")
    if limit is not None and fields.get("max_tokens", limit) != limit:
        rule = f"must be max_tokens={shown(fields['max_tokens'])}, or one of them absent"
        problems.append(Problem("max_completion_tokens", shown(limit), rule))
    return problems


def _completion(
    fields: Mapping[str, Any], own: Mapping[str, Any], settings: ApiSettings, told: ApiError | None
) -> CompletionRequest:
    """Return the completion request; if there are problems already, raise them together with its own."""
    others = {name: value for name, value in fields.items() if name in BY_NAME and name not in (*NOT_IN_CHAT, *_CHECKS)}
    if own.get("logprobs"):
        others["logprobs"] = min(own.get("top_logprobs", 0), settings.limits.max_top_logprobs)
    if "max_completion_tokens" in own:
        others["max_tokens"] = own["max_completion_tokens"]
    limits = replace(settings.limits, max_logprobs=settings.limits.max_top_logprobs)
    try:
        parsed = parse_completion({"model": "", **others, "prompt": [0]}, replace(settings, limits=limits))
    except ApiError as error:
        if told is None:
            raise
        raise ApiError(400, f"{told.message}; {error.message}", param=told.param, code=told.code) from None
    parsed = replace(parsed, prompts=[], given=frozenset(fields))
    if "max_tokens" in others:
        return parsed
    beams = None if parsed.beams is None else replace(parsed.beams, max_tokens=None)
    return replace(parsed, params=replace(parsed.params, max_tokens=None), beams=beams)


def _options(own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the template."""
    wanted = ("tools", "add_generation_prompt", "continue_final_message", "chat_template_kwargs")
    options = {name: own[name] for name in wanted if name in own}
    if own.get("tool_choice") == "none":
        options.pop("tools", None)
    return options
