"""From results to the JSON objects of the Chat Completions API: those of the Completions API in another shape."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Sequence
from typing import NotRequired, TypedDict

from decoding.completions_api.schema import (
    ChoiceObject,
    LogprobsObject,
    UsageObject,
    choice_object,
    usage_object,
)
from decoding.engine.outputs import Choice, CompletionResult, Delta, Usage
from decoding.types import FinishReason

_BYTES = re.compile(r"bytes:((?:\\x[0-9a-f]{2})+)")


class TopLogprobObject(TypedDict):
    """A token that could have been drawn; `bytes` are those of its text."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprobObject(TypedDict):
    """A token of the reply. by_mode, an extension: its log-probability in each mode, if there are several."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprobObject]
    by_mode: NotRequired[dict[str, float]]


class ChatLogprobsObject(TypedDict):
    """Log-probabilities of a reply, one entry per token."""

    content: list[TokenLogprobObject]
    refusal: None


class MessageObject(TypedDict):
    """A reply."""

    role: str
    content: str
    refusal: None


class DeltaObject(TypedDict):
    """A piece of a reply; the first one of a choice has its role."""

    role: NotRequired[str]
    content: str


class ChatChoiceObject(TypedDict):
    """One choice; `stop_reason`, `token_ids`, `seed` and `beam_score` are extensions of the API."""

    index: int
    message: MessageObject
    logprobs: ChatLogprobsObject | None
    finish_reason: FinishReason | None
    stop_reason: str | int | None
    token_ids: list[int]
    seed: int
    beam_score: NotRequired[float]


class ChatChunkChoiceObject(TypedDict):
    """A piece of a choice."""

    index: int
    delta: DeltaObject
    logprobs: ChatLogprobsObject | None
    finish_reason: FinishReason | None
    stop_reason: str | int | None
    token_ids: list[int]
    seed: int


class ChatCompletionObject(TypedDict):
    """The answer to a chat request that does not stream."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoiceObject]
    usage: UsageObject


class ChatChunkObject(TypedDict):
    """One event of a stream; `usage` is null, except where the request's stream_options ask for it."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoiceObject]
    usage: UsageObject | None


def chat_object(
    results: Sequence[CompletionResult], *, system_fingerprint: str, model: str, num_top: int = 0
) -> ChatCompletionObject:
    """Return the answer for the results of one chat request. num_top: its top_logprobs."""
    choices = [choice for result in results for choice in result.choices]
    return {
        "id": new_chat_id(),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": system_fingerprint,
        "choices": [chat_choice_object(choice, index, num_top) for index, choice in enumerate(choices)],
        "usage": usage_object(Usage.sum([result.usage for result in results])),
    }


def chat_choice_object(choice: Choice, index: int, num_top: int) -> ChatChoiceObject:
    """Return one choice as number `index` of its answer. num_top: its top_logprobs."""
    wire = choice_object(choice, index)
    reply: ChatChoiceObject = {
        "index": index,
        "message": {"role": "assistant", "content": wire["text"], "refusal": None},
        "logprobs": _logprobs(wire, num_top),
        "finish_reason": wire["finish_reason"],
        "stop_reason": wire["stop_reason"],
        "token_ids": wire["token_ids"],
        "seed": wire["seed"],
    }
    if "beam_score" in wire:
        reply["beam_score"] = wire["beam_score"]
    return reply


class ChatStreamWriter:
    """The chunks of one streamed reply."""

    def __init__(self, *, model: str, system_fingerprint: str, num_top: int = 0) -> None:
        self._id = new_chat_id()
        self._created = int(time.time())
        self._model = model
        self._system_fingerprint = system_fingerprint
        self._num_top = num_top
        self._begun: set[int] = set()

    def chunk(self, delta: Delta, usage: Usage | None = None) -> ChatChunkObject:
        """Return the chunk for one delta, with the usage so far if it was asked for."""
        wire = choice_object(delta, delta.index)
        piece: DeltaObject = {"content": wire["text"]}
        if delta.index not in self._begun:
            self._begun.add(delta.index)
            piece = {"role": "assistant", **piece}
        choice: ChatChunkChoiceObject = {
            "index": delta.index,
            "delta": piece,
            "logprobs": _logprobs(wire, self._num_top),
            "finish_reason": wire["finish_reason"],
            "stop_reason": wire["stop_reason"],
            "token_ids": wire["token_ids"],
            "seed": wire["seed"],
        }
        return self._object([choice], usage)

    def usage_chunk(self, usage: Usage) -> ChatChunkObject:
        """Return the last chunk of a stream with include_usage: no choices."""
        return self._object([], usage)

    def _object(self, choices: list[ChatChunkChoiceObject], usage: Usage | None) -> ChatChunkObject:
        return {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._model,
            "system_fingerprint": self._system_fingerprint,
            "choices": choices,
            "usage": None if usage is None else usage_object(usage),
        }


def new_chat_id() -> str:
    """Return a random id."""
    return f"chatcmpl-{secrets.token_hex(12)}"


def _logprobs(wire: ChoiceObject, num_top: int) -> ChatLogprobsObject | None:
    columns = wire["logprobs"]
    return None if columns is None else {"content": _entries(columns, num_top), "refusal": None}


def _entries(columns: LogprobsObject, num_top: int) -> list[TokenLogprobObject]:
    """Return one entry per token of a reply, whose tokens all have log-probabilities."""
    entries: list[TokenLogprobObject] = []
    rows = zip(columns["tokens"], columns["token_logprobs"], columns["top_logprobs"], strict=True)
    for token, logprob, top in rows:
        assert logprob is not None
        likeliest = list((top or {}).items())[:num_top]  # the token itself may stand behind them
        entries.append(
            {
                "token": token,
                "logprob": logprob,
                "bytes": bytes_of(token),
                "top_logprobs": [
                    {"token": text, "logprob": value, "bytes": bytes_of(text)} for text, value in likeliest
                ],
            }
        )
    for entry, modes in zip(entries, columns.get("by_mode", []), strict=False):
        entry["by_mode"] = modes
    return entries


def bytes_of(token: str) -> list[int]:
    r"""Return the bytes of a token as log-probabilities spell it: its text, or `bytes:\xe2\x80`."""
    found = _BYTES.fullmatch(token)
    return list(bytes.fromhex(found[1].replace("\\x", "")) if found else token.encode())
