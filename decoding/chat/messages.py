"""Checks of messages: what a template gets is plain JSON, a copy, and every error names its message and field."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from decoding.errors import PromptError, shown
from decoding.validation import is_unicode

Message = dict[str, Any]

_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_REASONING = ("reasoning_content", "thinking", "reasoning")  # names that engines and templates have for it
_MAX_DEPTH = 32
_LARGEST = 2**127


def checked_messages(messages: Any) -> list[Message]:
    """Return messages as plain JSON; PromptError for the first that breaks a rule.

    Each is a mapping with a role, and usually a content: text, None, or a list of text parts, which are joined with
    newlines. The arguments of tool calls may be objects, or JSON that spells one, as the OpenAI API has them; templates
    get objects. Other fields are passed on; reasoning goes by the names reasoning_content and thinking, whichever of
    reasoning_content, thinking and reasoning it came under.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, (str, bytes)) or not messages:
        raise _error("messages", messages, "must be a list of messages, at least one")
    return [_checked_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def plain(value: Any, name: str, depth: int = 0) -> Any:
    """Return a copy of a JSON value; PromptError if it is not JSON, or nested more than 32 deep."""
    if depth > _MAX_DEPTH:
        raise _error(name, value, f"must be nested at most {_MAX_DEPTH} deep")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if not is_unicode(value):
            raise _error(name, value, "must be valid Unicode (no lone surrogates)")
        return str(value)
    if isinstance(value, int) and -_LARGEST <= value < _LARGEST:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, Mapping):
        items = ((_checked_key(key, name), item) for key, item in value.items())
        return {key: plain(item, f"{name}.{key}", depth + 1) for key, item in items}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{name}[{index}]", depth + 1) for index, item in enumerate(value)]
    raise _error(name, value, "must be a value of JSON: finite, and an integer of at most 127 bits")


def _checked_key(key: Any, name: str) -> str:
    if not isinstance(key, str) or not is_unicode(key):
        raise _error(name, key, "must have strings of valid Unicode as keys")
    return str(key)


def _checked_message(message: Any, name: str) -> Message:
    if not isinstance(message, Mapping):
        raise _error(name, message, "must be an object with role and content")
    checked: Message = plain(message, name)
    role = checked.get("role")
    if not isinstance(role, str) or not _ROLE.fullmatch(role):
        raise _error(f"{name}.role", role, "must be a word, such as system, user or assistant")
    if "content" in checked:
        checked["content"] = _content(checked["content"], f"{name}.content")
    elif "tool_calls" not in checked:
        raise _error(f"{name}.content", None, "must be present, as text")
    if checked.get("tool_calls") is not None:
        checked["tool_calls"] = _tool_calls(checked["tool_calls"], f"{name}.tool_calls")
    reasoning = next((checked[key] for key in _REASONING if checked.get(key) is not None), None)
    return checked if reasoning is None else {"thinking": reasoning, **checked, "reasoning_content": reasoning}


def _content(content: Any, name: str) -> str | None:
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _error(name, content, "must be text, null, or a list of text parts")
    return "\n".join(_part_text(part, f"{name}[{index}]") for index, part in enumerate(content))


def _part_text(part: Any, name: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        raise _error(name, part, 'must be {"type": "text", "text": ...}: models here read text only')
    return str(part["text"])


def _tool_calls(calls: Any, name: str) -> list[Any]:
    if not isinstance(calls, list):
        raise _error(name, calls, "must be a list of tool calls")
    for index, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise _error(f"{name}[{index}]", call, "must be an object with a function")
        if isinstance(function.get("arguments"), str):
            function["arguments"] = _arguments(function["arguments"], f"{name}[{index}].function.arguments")
    return calls


def _arguments(text: str, name: str) -> Any:
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise _error(name, text, "must be an object, or JSON that spells one")
    return plain(arguments, name)


def texts_of(value: Any) -> Iterable[str]:
    """Yield every string of a plain value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from texts_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts_of(item)


def _error(name: str, value: Any, rule: str) -> PromptError:
    return PromptError(f"{name}={shown(value)}: {rule}", name)
