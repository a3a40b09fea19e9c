"""POST /v1/chat/completions: a completion whose prompt the model's chat template writes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from decoding.completions_api.chat import CHAT_FIELDS, NOT_IN_CHAT, parse_chat
from decoding.completions_api.chat_schema import (
    ChatChoiceObject,
    ChatChunkObject,
    ChatCompletionObject,
    ChatStreamWriter,
    chat_choice_object,
    chat_object,
)
from decoding.engine.outputs import Choice, CompletionResult
from decoding.server.body import read_json
from decoding.server.completions import Completion
from decoding.server.openapi import answer_responses, completion_schema, json_body
from decoding.server.service import Service, wire_error


def add_chat_route(app: FastAPI, service: Service) -> None:
    """Add the route."""
    name = next(iter(service.models))
    messages = [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": "Hello"}]
    schema = chat_schema(service, max(model.llm.vocab_size for model in service.models.values()))

    @app.post(
        "/v1/chat/completions",
        summary="Reply to a conversation",
        responses=answer_responses(ChatCompletionObject, ChatChunkObject, "reply"),
        openapi_extra=json_body(schema, {"model": name, "messages": messages, "max_tokens": 16, "seed": 7}),
        tags=["completions"],
    )
    async def chat(request: Request) -> Response:
        return await reply(service, request)


async def reply(service: Service, request: Request) -> Response:
    """Answer one chat request. Raise ApiError or an error of the library if it cannot be answered."""
    api, default_model = service.settings.api, service.default_model
    parsed = await read_json(request, service, lambda fields: parse_chat(fields, api, default_model))
    record: dict[str, Any] = request.scope["record"]
    record["model"] = parsed.completion.model[:128]
    service.hint(parsed.completion.hints)
    if service.settings.log_prompts:
        record["prompt"] = parsed.messages
    model = service.model(parsed.completion.model)
    try:
        prompt = await asyncio.to_thread(model.llm.chat_prompt, parsed.messages, **parsed.options)
    except Exception as error:
        raise wire_error(error, parsed.completion.given) from error
    completion = ChatCompletion(service, model, replace(parsed.completion, prompts=[prompt.token_ids]), record)
    return await (completion.streamed(request) if parsed.completion.stream else completion.whole(request))


class ChatCompletion(Completion):
    """A completion whose answer has the shape of a chat reply."""

    def _object(self, results: list[CompletionResult]) -> ChatCompletionObject:
        return chat_object(results, **self._chat_fields())

    def _choice(self, choice: Choice, index: int) -> ChatChoiceObject:
        return chat_choice_object(choice, index, self._parsed.params.logprobs or 0)

    def _writer(self) -> ChatStreamWriter:
        return ChatStreamWriter(**self._chat_fields())

    def _chat_fields(self) -> dict[str, Any]:
        return {
            "model": self._parsed.model,
            "system_fingerprint": self._model.llm.fingerprint(self._parsed.profile),
            "num_top": self._parsed.params.logprobs or 0,
        }


def chat_schema(service: Service, vocab_size: int) -> dict[str, Any]:
    """Return the JSON Schema of a chat request: the fields of a completion request and the chat fields."""
    api = service.settings.api
    needs_model = service.default_model is None
    schema = completion_schema(api, vocab_size, needs_model=needs_model)
    properties = {name: one for name, one in schema["properties"].items() if name not in NOT_IN_CHAT}
    for field in CHAT_FIELDS:
        own = field.schema
        if field.name == "top_logprobs":
            own = {**own, "maximum": api.limits.max_top_logprobs}
        null = [] if field.name == "messages" else [{"type": "null"}]
        kind = "" if field.standard else "Extension. "
        properties[field.name] = {"description": kind + field.description, "anyOf": [own, *null]}
    return {**schema, "required": ["model", "messages"] if needs_model else ["messages"], "properties": properties}
