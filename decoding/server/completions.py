"""POST /v1/completions: one request from its JSON to its answer, streamed or whole."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from decoding.async_engine import RequestHandle
from decoding.completions_api.chat_schema import ChatStreamWriter
from decoding.completions_api.errors import ApiError
from decoding.completions_api.request import CompletionRequest, parse_completion
from decoding.completions_api.schema import StreamWriter, completion_json, completion_object
from decoding.engine.beam_params import BeamSearchParams
from decoding.engine.outputs import CompletionResult, Delta, Usage
from decoding.server.beams import BeamHandle
from decoding.server.body import read_json
from decoding.server.service import Served, Service, wire_error

_T = TypeVar("_T")

_QUICKLY_WRITTEN = 1000
"""Tokens whose JSON is made within the event loop; of more it is made in a thread."""


class ClientGoneError(Exception):
    """The client is gone, so the answer is not needed."""


async def complete(service: Service, request: Request) -> Response:
    """Answer one request; ApiError or an error of the library's where it cannot be."""
    parsed = parse_completion(await read_json(request, service.settings), service.settings.api)
    record: dict[str, Any] = request.scope["record"]
    record["model"] = parsed.model[:128]
    service.hint(parsed.hints)
    if service.settings.log_prompts:
        record["prompt"] = parsed.prompts
    completion = Completion(service, service.model(parsed.model), parsed, record)
    return await (completion.streamed(request) if parsed.stream else completion.whole(request))


class Completion:
    """One completion: the request, the engine's handle of it, and the measures of its progress."""

    def __init__(self, service: Service, model: Served, parsed: CompletionRequest, record: dict[str, Any]) -> None:
        self._service = service
        self._settings = service.settings
        self._model = model
        self._parsed = parsed
        self._record = record
        self._started = time.monotonic()

    async def whole(self, request: Request) -> Response:
        """All choices at once, as one JSON object."""
        handle: RequestHandle | BeamHandle
        handle = await self._submit() if self._parsed.beams is None else self._beam_handle(self._parsed.beams)
        try:
            results = await _unless_gone(request, handle.results(), self._settings.request_timeout)
        except ClientGoneError:
            self._note_gone()
            raise
        except Exception as error:
            raise wire_error(error, self._parsed.given) from error
        finally:
            handle.abort()
        self._raise_failed(results)
        self._count(results)
        num_tokens = sum(len(choice.token_ids) for result in results for choice in result.choices)
        if num_tokens <= _QUICKLY_WRITTEN:
            return Response(self._written(results), media_type="application/json")
        return Response(await asyncio.to_thread(self._written, results), media_type="application/json")

    async def streamed(self, request: Request) -> Response:
        """Server-sent events. What goes wrong before the first piece, or the first keep-alive, is a real HTTP error."""
        handle = await self._submit()
        pieces = aiter(handle)
        first = asyncio.ensure_future(anext(pieces, None))
        try:
            patience = min(self._settings.keep_alive, self._settings.request_timeout)
            if await _first_of(request, first, patience):
                self._raise_error(first.result())
            elif patience == self._settings.request_timeout:
                raise _timeout(patience)
        except BaseException as error:
            first.cancel()
            handle.abort()
            if isinstance(error, Exception) and not isinstance(error, ClientGoneError):
                raise wire_error(error, self._parsed.given) from error
            self._note_gone()
            raise
        events = self._events(handle, first, pieces)
        return _Stream(handle, first, events, sep="\n", ping=self._settings.keep_alive)

    def _written(self, results: list[CompletionResult]) -> str:
        return completion_json(completion_object(results, **self._shared()))

    def _writer(self) -> StreamWriter | ChatStreamWriter:
        return StreamWriter(**self._shared())

    def _shared(self) -> dict[str, Any]:
        """Return the fields that all objects of the answer share."""
        fingerprint = self._model.llm.system_fingerprint
        return {"model": self._parsed.model, "system_fingerprint": fingerprint, "echo": self._parsed.params.echo}

    async def _submit(self) -> RequestHandle:
        try:
            prompts = self._parsed.prompts
            prompt = prompts[0] if len(prompts) == 1 else prompts  # one alone is called "prompt" in errors
            return await self._model.engine.submit(prompt, self._parsed.params, stream=self._parsed.stream)
        except Exception as error:
            raise wire_error(error, self._parsed.given) from error

    def _beam_handle(self, beams: BeamSearchParams) -> BeamHandle:
        return BeamHandle(self._model.llm, self._parsed.prompts, beams)

    async def _events(
        self, handle: RequestHandle, first: asyncio.Future[Delta | None], pieces: AsyncIterator[Delta]
    ) -> AsyncIterator[ServerSentEvent]:
        """The events of a stream, an error at its end included."""
        left = self._settings.request_timeout - (time.monotonic() - self._started)
        expiry = _Expiry(handle, left)
        try:
            async for event in self._chunks(handle, first, pieces):
                yield event
            yield ServerSentEvent("[DONE]", sep="\n")
        except Exception as error:
            failure = (
                _timeout(self._settings.request_timeout) if expiry.is_over else wire_error(error, self._parsed.given)
            )
            self._record["code"] = failure.code
            yield _event(failure.body())
        except BaseException:  # the response was closed under us: the client has gone
            self._note_gone()
            raise
        finally:
            expiry.cancel()

    async def _chunks(
        self, handle: RequestHandle, first: asyncio.Future[Delta | None], pieces: AsyncIterator[Delta]
    ) -> AsyncIterator[ServerSentEvent]:
        writer = self._writer()
        progress = _Progress(handle) if self._parsed.continuous_usage else None
        delta = await first
        while delta is not None:
            self._raise_error(delta)
            usage = None if progress is None else progress.after(delta)
            yield _event(writer.chunk(delta, usage))
            delta = await anext(pieces, None)
        await asyncio.sleep(0)  # whose text ends in the same step gets its last piece before this stream is wound up
        results = await handle.results()
        self._count(results)
        if self._parsed.include_usage:
            yield _event(writer.usage_chunk(_usage(results)))

    def _count(self, results: list[CompletionResult]) -> None:
        """Put what the engine measured into the metrics and the log."""
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


class _Stream(EventSourceResponse):
    """A response that frees what the engine holds of it at its end, also where it ends before its first event."""

    def __init__(
        self, handle: RequestHandle, first: asyncio.Future[Delta | None], events: AsyncIterator[Any], **options: Any
    ) -> None:
        super().__init__(events, **options)
        self._handle = handle
        self._first = first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._first.cancel()
            self._handle.abort()


class _Progress:
    """Usage in the middle of a stream."""

    def __init__(self, handle: RequestHandle) -> None:
        self._prompt_tokens = handle.num_prompt_tokens
        self._sampled: dict[int, int] = {}

    def after(self, delta: Delta) -> Usage:
        """The usage once `delta` has been sent."""
        self._sampled[delta.index] = delta.num_sampled
        return Usage(self._prompt_tokens, sum(self._sampled.values()))


class _Expiry:
    """Ends a stream that takes too long."""

    def __init__(self, handle: RequestHandle, seconds: float) -> None:
        self.is_over = False
        self._handle = handle
        self._timer = asyncio.get_running_loop().call_later(max(0.0, seconds), self._expire)

    def _expire(self) -> None:
        self.is_over = True
        self._handle.abort()

    def cancel(self) -> None:
        """The stream has ended in time."""
        self._timer.cancel()


def _usage(results: list[CompletionResult]) -> Usage:
    return Usage.sum([result.usage for result in results])


def _event(body: object) -> ServerSentEvent:
    return ServerSentEvent(json.dumps(body), sep="\n")


def _timeout(seconds: float) -> ApiError:
    return ApiError(504, f"the completion took more than {seconds:g} s", code="timeout")


async def _unless_gone(request: Request, work: Awaitable[_T], seconds: float) -> _T:
    """The result of `work`; ApiError 504 where it takes longer, ClientGoneError where the client does not wait."""
    task = asyncio.ensure_future(work)
    try:
        if not await _first_of(request, task, seconds):
            raise _timeout(seconds)
        return task.result()
    finally:
        task.cancel()


async def _first_of(request: Request, task: asyncio.Future[Any], seconds: float) -> bool:
    """Wait for `task` at most so long; whether it is done. ClientGoneError where the client goes first."""
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if gone.done() and not task.done():
            raise ClientGoneError
        return task.done()
    finally:
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
