"""Checks of bad requests: each is refused with the field's name, and the server keeps working."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from decoding.conformance.check import Check, Checks
from decoding.conformance.client import Answer, NoAnswerError
from decoding.conformance.outcome import FailedError, NotOfferedError
from decoding.conformance.target import Target, shown

check = Checks()

_PENALTY = ([-2, 2, 0.5], [-2.1, 2.1, "0", True, [0]])

RANGES: dict[str, tuple[list[Any], list[Any]]] = {
    "temperature": ([0, 1, 2], [-0.1, 2.1, "1", True, [1]]),
    "top_p": ([0.5, 1], [-0.1, 1.1, "1", True]),
    "n": ([1, 2], [0, -1, 129, 1.5, "2", True]),
    "best_of": ([1, 2], [-1, 21, 1.5, "2", True]),
    "max_tokens": ([1], [-1, 1.5, "1", True]),
    "frequency_penalty": _PENALTY,
    "presence_penalty": _PENALTY,
    "logprobs": ([0, 5], [-1, 6, 1.5, "1"]),
    "seed": ([0, 1, 2**31], [1.5, "1", 2**63, True]),
    "stop": (["\x03", ["\x03", "\x04", "\x05", "\x06"]], ["", ["\x03", ""], 1, [1], {"a": 1}]),
    "logit_bias": ([{}, {"5": 1.5}], [{"5": 101}, {"5": -101}, {"x": 1}, {"-1": 1}, {"5": "1"}, [5], {"999999999": 1}]),
    "echo": ([False], ["yes", 1]),
    "stream": ([False], ["yes", 1]),
    "suffix": ([], [1, ["x"]]),
    "prompt": (["a"], [1, {}, [1.5], [["a"]], [-1], [10**9], []]),
    "model": ([], [1, ["a"], {}]),
}
"""For each field, values within the documented range, and values that must be refused."""


def _range_check(name: str) -> Callable[[Target], None]:
    good, bad = RANGES[name]

    def run(target: Target) -> None:
        refused = {shown(v): a for v in good if (a := _send(target, name, v)).status != 200}
        if good and len(refused) == len(good):
            raise NotOfferedError(f"{name} is refused, whatever its value: {shown(next(iter(refused.values())).text)}")
        if refused:
            value, answer = next(iter(refused.items()))
            raise FailedError(f"{name}={value} is refused: status {answer.status} {shown(answer.text)}", answer.request)
        _require_refused([(f"{name}={shown(value)}", _send(target, name, value)) for value in bad])

    return run


def _send(target: Target, name: str, value: object) -> Answer:
    return target.client.send(target.body({"max_tokens": 1, name: value}))


def _require_refused(tries: list[tuple[str, Answer]]) -> None:
    """Fail unless every answer is a 4xx; the failure shows the first request with another answer."""
    wrong = [(what, answer) for what, answer in tries if not 400 <= answer.status < 500]
    if wrong:
        evidence = ", ".join(f"{what}: status {answer.status}" for what, answer in wrong)
        raise FailedError(evidence, wrong[0][1].request)


check.checks.extend(
    Check(
        f"range.{name}",
        f"{name} takes its documented values, and refuses others with a 4xx.",
        "A value that is ignored, clamped or answered with a 500 hides a mistake.",
        _range_check(name),
    )
    for name in RANGES
)


@check(
    "error.body", "An error is {error: {message, type, param, code}}.", "Clients show the message, and switch on it."
)
def _(target: Target) -> None:
    answer = _send(target, "max_tokens", -1)
    _require_refused([("max_tokens=-1", answer)])
    try:
        error = json.loads(answer.body)["error"]
        missing = [name for name in ("message", "type", "param", "code") if name not in error]
        right = isinstance(error["message"], str) and error["message"] and not missing
    except (ValueError, KeyError, TypeError):
        missing, right = [], False
    if not right:
        evidence = f"lacks {', '.join(missing)}" if missing else "no error object"
        raise FailedError(f"{evidence}: {shown(answer.text)}", answer.request)


@check("error.param", "An error names the field that is wrong.", "Else its reader has to guess.")
def _(target: Target) -> None:
    for name, value in (("max_tokens", -1), ("temperature", "hot"), ("top_p", 7), ("prompt", {"a": 1})):
        answer = _send(target, name, value)
        if 400 <= answer.status < 500 and name not in answer.text.replace(f'"{value}"', ""):
            raise FailedError(f"{name}={value!r} is refused without its name: {shown(answer.text)}", answer.request)


@check("error.json", "A body that is no JSON object is a 4xx.", "A broken client must not look like a broken server.")
def _(target: Target) -> None:
    bodies = (b"", b"{", b"[]", b'"text"', b"null", b"\xff\xfe", b'{"prompt": "a" "model": 1}')
    _require_refused([(shown(body.decode("latin-1")), target.client.send(body)) for body in bodies])


@check(
    "error.numbers",
    "NaN, 1e400 and numbers of 6,000 digits are a 4xx, in every number field.",
    "Several CVEs of inference servers began so.",
)
def _(target: Target) -> None:
    tries = []
    for name in ("temperature", "top_p", "frequency_penalty", "max_tokens", "n", "logprobs", "seed"):
        for number in ("NaN", "Infinity", "-1e400", "9" * 6000):
            body = json.dumps(target.body({name: 0, "max_tokens": 1}) | {name: 0})
            hostile = body.replace(f'"{name}": 0', f'"{name}": {number}')
            tries.append((f"{name}={number[:9]}", target.client.send(hostile.encode())))
    _require_refused(tries)


@check("error.no_prompt", "A request without a prompt is a 4xx.", "It is the one field that must be there.")
def _(target: Target) -> None:
    answer = target.client.send({"model": target.model, "max_tokens": 1})
    _require_refused([("no prompt", answer)])


@check("error.model", "A model that the server does not have is a 404.", "Else one reads another model's answers.")
def _(target: Target) -> None:
    answer = _send(target, "model", "no-such-model-anywhere")
    if answer.status != 404:
        raise FailedError(f"status {answer.status}: {shown(answer.text)}", answer.request)


@check("error.method", "GET /completions is a 405 or a 404.", "A browser's visit is no failure of the server.")
def _(target: Target) -> None:
    answer = target.client.send(None, method="GET")
    if answer.status not in (404, 405):
        raise FailedError(f"status {answer.status}", answer.request)


@check("error.stream", "A bad request that streams is an HTTP error.", "An event inside a 200 is seen by no client.")
def _(target: Target) -> None:
    answer = target.client.send(target.body({"stream": True, "max_tokens": -1}))
    _require_refused([("max_tokens=-1 with stream", answer)])


@check(
    "error.large", "A prompt that does not fit the context is a 4xx.", "It must neither crash nor be cut in silence."
)
def _(target: Target) -> None:
    answer = target.client.send(target.body({"prompt": "word " * 300_000, "max_tokens": 1}))
    _require_refused([("a prompt of 300,000 words", answer)])


@check("error.half", "A client that goes away in the middle of its request harms nobody.", "Networks break.")
def _(target: Target) -> None:
    for _ in range(target.client.load.concurrency):
        target.client.send_half(target.body({}))
    _require_alive(target, "half a body and a closed connection")


@check("error.alive", "After all bad requests a good one is answered as before.", "One client must not end the others.")
def _(target: Target) -> None:
    _require_alive(target, "the bad requests")


def _require_alive(target: Target, after: str) -> None:
    try:
        completion = target.complete()
    except NoAnswerError as error:
        raise FailedError(f"after {after}: {error}", error.request) from error
    completion.require(completion.text == target.greedy.text, f"after {after}: {shown(completion.text)}")
