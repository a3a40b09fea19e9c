"""The server under test: sends requests with the model filled in, and wraps answers that check their own shape."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, NoReturn, TypeAlias

from decoding.conformance.client import Answer, Client, Request
from decoding.conformance.outcome import FailedError, NotOfferedError

Fields: TypeAlias = Mapping[str, Any]

NUM_TOKENS = 24
"""Tokens of the completion that many checks compare with."""

ABSENT = object()
"""As a field's value: the field is not sent at all."""

_PROMPTS = ("Once upon a time", "def add(a, b):", "The", "1 2 3 4 5")
_OPEN_PROMPTS = ("The", "She", "I", "A", "x = ", "(")
"""Prompts with many likely continuations."""

_SHOWN = 300


def shown(value: object) -> str:
    """Return a value as evidence: one line of limited length."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split()) if not isinstance(value, str) else repr(text)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


class Completion:
    """An answer of status 200 that is JSON: a completion object, or what claims to be one."""

    def __init__(self, answer: Answer) -> None:
        self.request: Request = answer.request
        self.answer = answer
        try:
            self.object: dict[str, Any] = json.loads(answer.body)
        except ValueError:
            self.fail(f"the body is not JSON: {shown(answer.text)}")
        self.require(isinstance(self.object, dict), f"the body is not JSON object: {shown(answer.text)}")

    @property
    def choices(self) -> list[dict[str, Any]]:
        """The list of choices."""
        choices = self.object.get("choices")
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            self.fail(f"choices is not a list of objects: {shown(choices)}")
        return choices

    @property
    def choice(self) -> dict[str, Any]:
        """The first choice."""
        self.require(len(self.choices) >= 1, "there are no choices")
        return self.choices[0]

    @property
    def text(self) -> str:
        """The first choice's text."""
        text = self.choice.get("text")
        if not isinstance(text, str):
            self.fail(f"choices[0].text is not a string: {shown(text)}")
        return text

    @property
    def logprobs(self) -> dict[str, list[Any]]:
        """The first choice's log-probabilities."""
        return self.logprobs_of(self.choice)

    def logprobs_of(self, choice: Mapping[str, Any]) -> dict[str, list[Any]]:
        """A choice's log-probabilities; without any, logprobs are not offered."""
        logprobs = choice.get("logprobs")
        if logprobs is None:
            raise NotOfferedError("logprobs were asked for, and are null")
        columns = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        lists = isinstance(logprobs, dict) and all(isinstance(logprobs.get(name), list) for name in columns)
        self.require(lists, f"logprobs lacks one of the columns {', '.join(columns)}: {shown(logprobs)}")
        return dict(logprobs)

    @property
    def usage(self) -> dict[str, int]:
        """The usage block."""
        usage = self.object.get("usage")
        names = ("prompt_tokens", "completion_tokens", "total_tokens")
        if not isinstance(usage, dict) or not all(type(usage.get(name)) is int for name in names):
            self.fail(f"usage does not have three integers: {shown(usage)}")
        return usage

    def require(self, holds: bool, evidence: str) -> None:
        """Fail with this evidence unless the condition holds."""
        if not holds:
            self.fail(evidence)

    def fail(self, evidence: str) -> NoReturn:
        """Fail with this evidence."""
        raise FailedError(evidence, self.request)


class Target:
    """A server, a model of it, and what is known about it so far."""

    def __init__(self, client: Client, model: str, *, prompt: str | None = None, num_draws: int = 400) -> None:
        self.client = client
        self.model = model
        self.num_draws = num_draws
        self._prompt = prompt

    def body(self, fields: Fields) -> dict[str, Any]:
        """Return a request with these fields; by default it is greedy, short, and has the usual prompt."""
        prompt = {} if "prompt" in fields else {"prompt": self.prompt}
        body = {"model": self.model, **prompt, "max_tokens": NUM_TOKENS, "temperature": 0, **fields}
        return {name: value for name, value in body.items() if value is not ABSENT}

    def complete(self, *, needs: Sequence[str] = (), **fields: Any) -> Completion:
        """Return a completion; fail if the server does not give one.

        needs: optional fields. If the server refuses the request with a 4xx or 501, they are not offered, which is no
            failure.
        """
        answer = self.client.send(self.body(fields))
        self.require_ok(answer, needs)
        return Completion(answer)

    def complete_choices(self, n: int, **fields: Any) -> Completion:
        """Return a completion of n choices. With another number of choices, n is not offered; n.count reports that."""
        completion = self.complete(n=n, needs=["n"], **fields)
        if len(completion.choices) != n * (len(fields["prompt"]) if isinstance(fields.get("prompt"), list) else 1):
            raise NotOfferedError(f"n is ignored: {len(completion.choices)} choices where {n} were asked for")
        return completion

    def complete_all(self, requests: Sequence[Fields]) -> list[Completion]:
        """Return several completions, requested at the same time as far as the load allows."""
        with ThreadPoolExecutor(self.client.load.concurrency) as pool:
            return list(pool.map(lambda fields: self.complete(**fields), requests))

    def require_ok(self, answer: Answer, needs: Sequence[str] = ()) -> None:
        """Raise NotOfferedError if an optional field was refused, FailedError for any other status than 200."""
        if needs and (400 <= answer.status < 500 or answer.status == 501):
            raise NotOfferedError(f"{', '.join(needs)} refused with status {answer.status}: {shown(answer.text)}")
        if answer.status != 200:
            raise FailedError(f"status {answer.status}: {shown(answer.text)}", answer.request)

    @cached_property
    def prompt(self) -> str:
        """A prompt that the model continues with text."""
        if self._prompt is not None:
            return self._prompt
        for prompt in _PROMPTS:
            if len(self.complete(prompt=prompt).text.strip("\ufffd \n")) >= 8:
                return prompt
        return _PROMPTS[0]

    @cached_property
    def open_prompt(self) -> str:
        """The prompt, out of a few, whose next token is least certain, so that statistics find most."""
        certainty = {}
        for prompt in (self.prompt, *_OPEN_PROMPTS):
            logprobs = self.complete(prompt=prompt, max_tokens=1, logprobs=1, needs=["logprobs"]).logprobs
            if logprobs["token_logprobs"]:
                certainty[prompt] = float(logprobs["token_logprobs"][0])
        return min(certainty, key=lambda prompt: certainty[prompt], default=self.prompt)

    @cached_property
    def greedy(self) -> Completion:
        """The usual prompt's greedy completion of NUM_TOKENS tokens."""
        return self.complete()

    @cached_property
    def text(self) -> str:
        """The text of that completion, at least eight characters, for checks of stop strings."""
        text = self.greedy.text.rstrip("\ufffd")
        if len(text) < 8:
            raise NotOfferedError(f"the model's greedy completion is too short: {shown(text)} (another --prompt?)")
        return text

    @cached_property
    def tokens(self) -> list[str]:
        """The tokens of that completion, by its logprobs."""
        return [str(token) for token in self.complete(logprobs=1, needs=["logprobs"]).logprobs["tokens"]]
