"""Checks of constraints on the text, such as grammars and banned strings, which a server need not offer."""

from __future__ import annotations

import json
import re
from typing import Any

from decoding.conformance.check import Checks
from decoding.conformance.outcome import FailedError, NotOfferedError
from decoding.conformance.target import Completion, Target, shown

check = Checks()

_REGEX = "(bad|good)[.,]{1,2}"
_SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "kind": {"enum": ["good", "bad"]}},
    "required": ["ok", "kind"],
    "additionalProperties": False,
}


def _structured(target: Target, field: str, value: Any, **fields: Any) -> Completion:
    """Return the greedy completion under a grammar; fail if it is cut."""
    completion = target.complete(needs=[field], max_tokens=96, **{field: value}, **fields)
    reason = completion.choice.get("finish_reason")
    completion.require(reason == "stop", f"finish_reason is {reason!r} where the grammar ends the text")
    return completion


@check("grammar.regex", "A text under structured_outputs.regex matches it as a whole.", "Programs parse what comes.")
def _(target: Target) -> None:
    completion = _structured(target, "structured_outputs", {"regex": _REGEX})
    matches = re.fullmatch(_REGEX, completion.text) is not None
    completion.require(matches, f"{shown(completion.text)} does not match {_REGEX}")


@check("grammar.choice", "A text under structured_outputs.choice is one of the choices.", "Labels are compared.")
def _(target: Target) -> None:
    choices = ["good", "bad", "a poodle"]
    completion = _structured(target, "structured_outputs", {"choice": choices}, temperature=1, seed=7)
    completion.require(completion.text in choices, f"the text is {shown(completion.text)}")


@check("grammar.json", "A text under response_format.json_schema is JSON of the schema.", "Programs parse what comes.")
def _(target: Target) -> None:
    value = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": _SCHEMA}}
    completion = _structured(target, "response_format", value)
    try:
        found = json.loads(completion.text)
    except ValueError:
        completion.fail(f"{shown(completion.text)} is not JSON")
    right = isinstance(found, dict) and set(found) == {"ok", "kind"} and found["kind"] in ("good", "bad")
    completion.require(right and isinstance(found["ok"], bool), f"{shown(completion.text)} is not of the schema")


@check(
    "grammar.bad",
    "A grammar that cannot be compiled is a 4xx, and the next request is answered.",
    "One client must not end the others.",
)
def _(target: Target) -> None:
    field = "structured_outputs"
    target.complete(needs=[field], max_tokens=8, **{field: {"regex": _REGEX}})
    answer = target.client.send(target.body({field: {"regex": "("}}))
    if not 400 <= answer.status < 500:
        raise FailedError(f"status {answer.status}: {shown(answer.text)}", answer.request)
    target.complete()


@check("banned.text", "A text never has one of banned_strings in it.", "What must not be said must not be said.")
def _(target: Target) -> None:
    middle = len(target.text) // 2
    banned = [target.text[middle : middle + 2], target.text[:3]]
    if any("\ufffd" in one for one in banned):
        raise NotOfferedError("the greedy completion has a broken character")
    completion = target.complete(needs=["banned_strings"], banned_strings=banned)
    found = [one for one in banned if one in completion.text]
    completion.require(not found, f"{shown(found)} in {shown(completion.text)}")
