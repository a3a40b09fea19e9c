"""POST /v1/completions: a request from its JSON to its answer, streamed or whole."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from decoding.async_engine import RequestHandle
from decoding.completions_api.chat_schema import ChatChoiceObject, ChatCompletionObject, ChatStreamWriter
from decoding.completions_api.errors import ApiError
from decoding.completions_api.json_pieces import json_pieces
from decoding.completions_api.request import CompletionRequest, parse_completion
from decoding.completions_api.schema import (
    ChoiceObject,
    CompletionObject,
    StreamWriter,
    choice_object,
    completion_object,
)
from decoding.engine.beam_params import BeamSearchParams
from decoding.engine.outputs import Choice, CompletionResult, Delta, Usage
from decoding.server.beams import BeamHandle
from decoding.server.body import read_json
from decoding.server.event_stream import Event, EventStream, Outbox, joined
from decoding.server.piecewise import PiecewiseResponse
from decoding.server.service import Served, Service, wire_error
from decoding.server.waiting import ClientGoneError, first_of, timeout_error, unless_gone

_QUICKLY_WRITTEN = 500
"""Tokens whose JSON is made within the event loop at once; that of more is made in pieces."""
_NO_CHOICES = '"choices": []'


async def complete(service: Service, request: Request) -> Response:
    """Answer one request. Raise ApiError or an error of the library if it cannot be answered."""
    api, default_model = service.settings.api, service.default_model
    parsed = await read_json(request, service, lambda fields: parse_completion(fields, api, default_model))
    record: dict[str, Any] = request.scope["record"]
    record["model"] = parsed.model[:128]
    service.hint(parsed.hints)
    if service.settings.log_prompts:
        record["prompt"] = parsed.prompts
    completion = Completion(service, service.model(parsed.model), parsed, record)
    return await (completion.streamed(request) if parsed.stream else completion.whole(request))


class Completion:
    """A completion: the request, its handle in the engine, and the metrics of its progress."""

    def __init__(self, service: Service, model: Served, parsed: CompletionRequest, record: dict[str, Any]) -> None:
        self._service = service
        self._settings = service.settings
        self._model = model
        self._parsed = parsed
        self._record = record
        self._started = time.monotonic()

    async def whole(self, request: Request) -> Response:
        """Return all choices as one JSON object."""
        handle: RequestHandle | BeamHandle
        handle = await self._submit(request) if self._parsed.beams is None else self._beam_handle(self._parsed.beams)
        try:
            results = await unless_gone(request, handle.results(), self._settings.request_timeout)
        except ClientGoneError:
            self._note_gone()
            raise
        except ApiError:
            raise
        except Exception as error:
            raise wire_error(error, self._parsed.given) from error
        finally:
            handle.abort()
        self._raise_failed(results)
        self._count(results)
        num_tokens = sum(len(choice.token_ids) for result in results for choice in result.choices)
        if num_tokens <= _QUICKLY_WRITTEN:
            return Response(json.dumps(self._object(results), allow_nan=False), media_type="application/json")
        return PiecewiseResponse(self._parts(results), media_type="application/json")

    async def streamed(self, request: Request) -> Response:
        """Return a stream of events. An error before the first piece or keep-alive is raised, as an HTTP error."""
        handle = await self._submit(request)
        expiry = self._expiry(handle)
        pieces = aiter(handle)
        first = asyncio.ensure_future(anext(pieces, None))
        try:
            if await first_of(request, first, self._settings.keep_alive):
                self._raise_error(first.result())
        except BaseException as error:
            expiry.cancel()
            first.cancel()
            handle.abort()
            if isinstance(error, ApiError):
                raise
            if isinstance(error, Exception) and not isinstance(error, ClientGoneError):
                failure = wire_error(error, self._parsed.given)
                error.__traceback__ = None  # it refers to this frame, which refers to `first` and so to the error
                raise failure from error
            self._note_gone()
            raise
        stream = self._stream(handle, first, pieces)
        stream.on_end = lambda: self._wind_up(handle, first, expiry, stream)
        return stream

    def _expiry(self, handle: RequestHandle) -> asyncio.TimerHandle:
        """End the request at its timeout; text held back for a stop string is sent before the error."""
        seconds = self._settings.request_timeout
        left = max(0.0, seconds - (time.monotonic() - self._started))
        return asyncio.get_running_loop().call_later(left, lambda: handle.end(timeout_error(seconds)))

    def _stream(
        self, handle: RequestHandle, first: asyncio.Future[Delta | None], pieces: AsyncIterator[Delta]
    ) -> _Stream:
        settings, budget = self._settings, self._service.unread
        outbox = Outbox(
            settings.max_unread_bytes,
            budget,
            budget.limit // settings.max_open_requests,
            lambda: handle.end(_unread()),
        )
        events = self._events(handle, first, pieces)
        return _Stream(events, outbox, settings.keep_alive, is_silent=not first.done())

    def _wind_up(
        self,
        handle: RequestHandle,
        first: asyncio.Future[Delta | None],
        expiry: asyncio.TimerHandle,
        stream: EventStream,
    ) -> None:
        """Free the engine's resources of a stream, even if it ended before its first event."""
        expiry.cancel()
        first.cancel()
        handle.abort()
        if not stream.was_taken:
            self._note_gone()

    async def _parts(self, results: list[CompletionResult]) -> AsyncIterator[bytes]:
        """Write a long answer choice by choice, and let other tasks run after each part.

        A choice is freed once it is written, because freeing the millions of objects of 100 MB at once would block the
        loop.
        """
        envelope = self._object([replace(result, choices=[]) for result in results])
        before, choices, after = json.dumps(envelope, allow_nan=False).partition(_NO_CHOICES)
        separator = before + choices[:-1]
        for index, choice in enumerate(_taken(results)):
            wire = await asyncio.to_thread(self._choice, choice, index)
            for part in joined(chain((separator,), json_pieces(wire))):
                yield part
                await asyncio.sleep(0)
            separator = ", "
        yield (choices[-1] + after).encode()

    def _object(self, results: list[CompletionResult]) -> CompletionObject | ChatCompletionObject:
        return completion_object(results, **self._shared())

    def _choice(self, choice: Choice, index: int) -> ChoiceObject | ChatChoiceObject:
        return choice_object(choice, index, echo=self._parsed.params.echo)

    def _writer(self) -> StreamWriter | ChatStreamWriter:
        return StreamWriter(**self._shared())

    def _shared(self) -> dict[str, Any]:
        """Return the fields that all objects of the answer share."""
        fingerprint = self._model.llm.fingerprint(self._parsed.profile)
        return {"model": self._parsed.model, "system_fingerprint": fingerprint, "echo": self._parsed.params.echo}

    async def _submit(self, request: Request) -> RequestHandle:
        prompts = self._parsed.prompts
        prompt = prompts[0] if len(prompts) == 1 else prompts  # one alone is called "prompt" in errors
        parsed = self._parsed
        submission = self._model.engine.submit(prompt, parsed.params, stream=parsed.stream, profile=parsed.profile)
        try:
            return await unless_gone(request, submission, self._settings.request_timeout)
        except ClientGoneError:
            self._note_gone()
            raise
        except ApiError:
            raise
        except Exception as error:
            raise wire_error(error, self._parsed.given) from error

    def _beam_handle(self, beams: BeamSearchParams) -> BeamHandle:
        return BeamHandle(self._model.llm, self._parsed.prompts, beams)

    async def _events(
        self, handle: RequestHandle, first: asyncio.Future[Delta | None], pieces: AsyncIterator[Delta]
    ) -> AsyncIterator[Event]:
        """Yield the events of a stream; an error is the last event."""
        try:
            async for event in self._chunks(handle, first, pieces):
                yield event
            yield b"[DONE]"
        except Exception as error:
            failure = wire_error(error, self._parsed.given)
            error.__traceback__ = None  # it refers to this frame, which refers to `first` and so to the error
            self._record["code"] = failure.code
            yield json.dumps(failure.body()).encode()

    async def _chunks(
        self, handle: RequestHandle, first: asyncio.Future[Delta | None], pieces: AsyncIterator[Delta]
    ) -> AsyncIterator[Event]:
        writer = self._writer()
        progress = _Progress(handle) if self._parsed.continuous_usage else None
        delta = await first
        while delta is not None:
            self._raise_error(delta)
            usage = None if progress is None else progress.after(delta)
            yield await _chunk_event(writer, delta, usage)
            delta = await anext(pieces, None)
        await asyncio.sleep(0)  # whose text ends in the same step gets its last piece before this stream is wound up
        results = await handle.results()
        self._count(results)
        if self._parsed.include_usage:
            yield json.dumps(writer.usage_chunk(_usage(results))).encode()

    def _count(self, results: list[CompletionResult]) -> None:
        """Add the engine's measurements to the metrics and the log."""
        metrics, model, usage = self._service.metrics, self._parsed.model, _usage(results)
        metrics.prompt_tokens.labels(model).inc(usage.prompt_tokens)
        metrics.completion_tokens.labels(model).inc(usage.completion_tokens)
        for result in results:
            metrics.queue.labels(model).observe(result.metrics.queue_seconds)
            metrics.first_token.labels(model).observe(result.metrics.first_token_seconds)
            if result.metrics.per_token_seconds:
                metrics.per_token.labels(model).observe(result.metrics.per_token_seconds)
        self._record |= {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "queue_seconds": round(results[0].metrics.queue_seconds, 6),
            "first_token_seconds": round(results[0].metrics.first_token_seconds, 6),
        }

    def _note_gone(self) -> None:
        self._service.metrics.aborted.labels(self._parsed.model).inc()
        self._record["code"] = "client_gone"

    def _raise_failed(self, results: list[CompletionResult]) -> None:
        for result in results:
            for choice in result.choices:
                if choice.error is not None:
                    raise wire_error(choice.error, self._parsed.given)

    def _raise_error(self, delta: Delta | None) -> None:
        if delta is not None and delta.error is not None:
            raise wire_error(delta.error, self._parsed.given)


class _Stream(EventStream):
    """A response that winds up its completion when it ends."""

    on_end: Callable[[], None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.on_end()
            del self.on_end  # which refers to this object


class _Progress:
    """The usage so far, for the chunks of a stream."""

    def __init__(self, handle: RequestHandle) -> None:
        self._prompt_tokens = handle.num_prompt_tokens
        self._sampled: dict[int, int] = {}

    def after(self, delta: Delta) -> Usage:
        """Return the usage once `delta` has been sent."""
        self._sampled[delta.index] = delta.num_sampled
        return Usage(self._prompt_tokens, sum(self._sampled.values()))


def _usage(results: list[CompletionResult]) -> Usage:
    return Usage.sum([result.usage for result in results])


async def _chunk_event(writer: StreamWriter | ChatStreamWriter, delta: Delta, usage: Usage | None) -> Event:
    """Return the event of a delta. If it has many tokens, such as an echoed prompt, the event is in pieces."""
    if len(delta.token_ids) <= _QUICKLY_WRITTEN:
        return json.dumps(writer.chunk(delta, usage), allow_nan=False).encode()
    return json_pieces(await asyncio.to_thread(writer.chunk, delta, usage))


def _taken(results: list[CompletionResult]) -> Iterator[Choice]:
    """Remove the choices from their results one by one, and yield them."""
    for result in results:
        choices = deque(result.choices)
        result.choices.clear()
        while choices:
            yield choices.popleft()


def _unread() -> ApiError:
    rule = "the stream has more unread bytes than --max-unread-bytes allows: it must be read as it comes"
    return ApiError(408, rule, code="unread_stream")
