"""From results to the JSON object of the Completions API (docs/semantics.md, sections 5 to 8)."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import NotRequired, TypedDict

from decoding.engine.outputs import Choice, CompletionResult, Delta, Logprobs, Usage
from decoding.errors import ParameterError
from decoding.types import FinishReason, LogprobsMode

WIRE_MINUS_INFINITY = -9999.0
"""The number sent for a log-probability of -inf, because JSON has no infinities."""


class LogprobsObject(TypedDict):
    """Columns of equal length; the first entry of an echoed prompt has null for its log-probabilities.

    Extensions: token_ids; bytes, each token's own bytes as integers, null where it has none; by_mode, each token's
    log-probability in every mode, where logprobs_mode named several; by_token_id, the log-probabilities of the ids of
    logprob_token_ids at each token.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]
    token_ids: list[int]
    bytes: list[list[int] | None]
    by_mode: NotRequired[list[dict[str, float]]]
    by_token_id: NotRequired[list[dict[str, float]]]


class ChoiceObject(TypedDict):
    """One choice, or a piece of one; `stop_reason`, `token_ids`, `seed` and `beam_score` are extensions of the API."""

    index: int
    text: str
    logprobs: LogprobsObject | None
    finish_reason: FinishReason | None
    stop_reason: str | int | None
    token_ids: list[int]
    seed: int
    beam_score: NotRequired[float]


class UsageObject(TypedDict):
    """Token counts of all prompts together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionObject(TypedDict):
    """The answer to a request that does not stream."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChoiceObject]
    usage: UsageObject


def completion_object(
    results: Sequence[CompletionResult],
    *,
    system_fingerprint: str,
    echo: bool = False,
    model: str | None = None,
    completion_id: str | None = None,
    created: int | None = None,
) -> CompletionObject:
    """Return the completion object for the results of one request, at least one, ready for `json.dumps`.

    Choices are ordered prompt by prompt: choice j of prompt i, of n choices each, has index i * n + j.
    echo: True if the request has echo, for `choice_object`.
    model: the model's name in the answer; None is its own.
    completion_id: None makes a random one. created: Unix time in seconds; None is now.
    Raises ParameterError where there are no results.
    """
    if not results:
        raise ParameterError.single("results", results, "must have at least one result")
    choices = [choice for result in results for choice in result.choices]
    return {
        "id": new_completion_id() if completion_id is None else completion_id,
        "object": "text_completion",
        "created": int(time.time()) if created is None else created,
        "model": results[0].model if model is None else model,
        "system_fingerprint": system_fingerprint,
        "choices": [choice_object(choice, index, echo=echo) for index, choice in enumerate(choices)],
        "usage": usage_object(Usage.sum([result.usage for result in results])),
    }


def choice_object(choice: Choice | Delta, index: int, *, echo: bool = False) -> ChoiceObject:
    """Return one choice, or a piece of one, as number `index` of its completion object.

    The token that ended the sequence has no entry in logprobs, because it is not in the text; with echo it has one,
    with the text "": harnesses that score a prompt by echo count on an entry for every token, prompt and output.
    """
    logprobs = choice.logprobs
    if logprobs is not None and isinstance(choice.stop_reason, int) and not echo:
        logprobs = _without_last(logprobs)
    wire: ChoiceObject = {
        "index": index,
        "text": choice.text,
        "logprobs": None if logprobs is None else logprobs_object(logprobs),
        "finish_reason": choice.finish_reason,
        "stop_reason": choice.stop_reason,
        "token_ids": choice.token_ids,
        "seed": choice.seed,
    }
    if isinstance(choice, Choice) and choice.beam_score is not None:
        wire["beam_score"] = choice.beam_score
    return wire


class ChunkObject(TypedDict):
    """One event of a stream; `usage` is null, except where the request's stream_options ask for it."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChoiceObject]
    usage: UsageObject | None


class StreamWriter:
    """Makes the chunks of one streamed completion, a chunk per delta."""

    def __init__(
        self, *, model: str, system_fingerprint: str, echo: bool = False, completion_id: str | None = None
    ) -> None:
        self._id = new_completion_id() if completion_id is None else completion_id
        self._created = int(time.time())
        self._echo = echo
        self._model = model
        self._system_fingerprint = system_fingerprint

    def chunk(self, delta: Delta, usage: Usage | None = None) -> ChunkObject:
        """Return the chunk for one delta, with the usage so far if it was asked for."""
        return self._object([choice_object(delta, delta.index, echo=self._echo)], usage)

    def usage_chunk(self, usage: Usage) -> ChunkObject:
        """Return the last chunk of a stream with include_usage, which has no choices."""
        return self._object([], usage)

    def _object(self, choices: list[ChoiceObject], usage: Usage | None) -> ChunkObject:
        return {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": self._model,
            "system_fingerprint": self._system_fingerprint,
            "choices": choices,
            "usage": None if usage is None else usage_object(usage),
        }


def new_completion_id() -> str:
    """Return a random completion id."""
    return f"cmpl-{secrets.token_hex(12)}"


def logprobs_object(logprobs: Logprobs) -> LogprobsObject:
    """Return the API's columns and our extensions, with -inf as -9999.0."""
    wire: LogprobsObject = {
        "tokens": logprobs.tokens,
        "token_logprobs": [None if value is None else _on_wire(value) for value in logprobs.token_logprobs],
        "top_logprobs": [None if top is None else _all_on_wire(top) for top in logprobs.top_logprobs],
        "text_offset": logprobs.text_offset,
        "token_ids": logprobs.token_ids,
        "bytes": [None if data is None else list(data) for data in logprobs.data],
    }
    if any(logprobs.by_mode):
        wire["by_mode"] = [_all_on_wire(values) for values in logprobs.by_mode]
    if any(logprobs.by_token_id):
        by_id = [{str(token_id): value for token_id, value in values.items()} for values in logprobs.by_token_id]
        wire["by_token_id"] = [_all_on_wire(values) for values in by_id]
    return wire


def usage_object(usage: Usage) -> UsageObject:
    """Return the API's usage object."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }


def _without_last(logprobs: Logprobs) -> Logprobs:
    return Logprobs(**{one.name: getattr(logprobs, one.name)[:-1] for one in fields(Logprobs)})


def _on_wire(logprob: float) -> float:
    return WIRE_MINUS_INFINITY if logprob == -math.inf else logprob


def _all_on_wire(logprobs: Mapping[str, float] | Mapping[LogprobsMode, float]) -> dict[str, float]:
    return {name: _on_wire(value) for name, value in logprobs.items()}
