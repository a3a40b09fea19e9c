"""RequestHandle: one request of an event loop, from the first piece of its answer to the last."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

from decoding.engine.outputs import CompletionResult, Delta
from decoding.engine.request import Request
from decoding.engine.tasks.completion import CompletionTask
from decoding.errors import DecodingError, EngineError, ParameterError


class News(NamedTuple):
    """The outcome of a step for one prompt of a request; `error` ends the request."""

    handle: RequestHandle
    prompt: int = 0
    deltas: Sequence[Delta] = ()
    result: CompletionResult | None = None
    is_first: bool = False
    error: DecodingError | None = None


class RequestHandle:
    """One request: iterate over its deltas, or wait for its results. Made by `AsyncEngine.submit`.

        handle = await engine.submit(prompt, params, stream=True)
        async for delta in handle:
            ...

    num_prompts, num_prompt_tokens: of the request. To be used by the loop that submitted it, and no other thread.

    For AsyncEngine only: `requests`, `is_streamed`, `take`, `fail`; and for its thread `tasks`, `first_index` and
    `broken`, an error that it could not post.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        stream: bool,
        abort: Callable[[RequestHandle], None],
        end: Callable[[RequestHandle, DecodingError], None],
    ) -> None:
        self.num_prompts = len(requests)
        self.num_prompt_tokens = sum(len(request.token_ids) for request in requests)
        self.num_unstarted = self._num_open = len(requests)
        self.requests = requests
        self.is_streamed = stream
        self.tasks: list[CompletionTask] = []
        self.broken: DecodingError | None = None
        num_choices = itertools.accumulate((request.params.n for request in requests), initial=0)
        self.first_index = list(num_choices)[:-1]  # choices are numbered prompt by prompt
        self._abort = abort
        self._end = end
        self._deltas: deque[Delta] = deque()
        self._results: list[CompletionResult | None] = [None] * len(requests)
        self._error: DecodingError | None = None
        self._news = asyncio.Event()

    @property
    def is_done(self) -> bool:
        """True if everything has come, or the request has failed."""
        return self._error is not None or not self._num_open

    def abort(self) -> None:
        """Free everything before the engine's next step; does nothing once all is done."""
        if not self.is_done:
            self._abort(self)
            self.fail(EngineError("the request was aborted"))

    def end(self, error: DecodingError) -> None:
        """Abort the request, but deliver the text that was held back for a stop string before the error."""
        if not self.is_done:
            self._end(self, error)

    async def __aiter__(self) -> AsyncIterator[Delta]:
        """Iterate over the deltas of all choices of all prompts. Leaving the iteration aborts the request.

        Raises EngineClosedError or EngineError if the engine ends; a choice's own error is in its last delta.
        """
        if not self.is_streamed:
            raise ParameterError.single("stream", False, "must be True to iterate over deltas")
        try:
            while True:
                while self._deltas:
                    yield self._deltas.popleft()
                if self.is_done:
                    break
                self._news.clear()
                await self._news.wait()
            self._raise_error()
        finally:
            self.abort()

    async def results(self) -> list[CompletionResult]:
        """Wait for the results, as of `LLM.complete` with on_error="status" for a list; cancelling aborts."""
        try:
            while not self.is_done:
                self._news.clear()
                await self._news.wait()
            self._raise_error()
            return [result for result in self._results if result is not None]
        finally:
            self.abort()

    def take(self, news: News) -> None:
        """Take the outcome of a step."""
        if not self.is_done:
            self._deltas.extend(news.deltas)
            self.num_unstarted -= news.is_first
            if news.result is not None:
                self._results[news.prompt] = news.result
                self._num_open -= 1
            if news.error is not None:
                self._error = news.error
        self._news.set()

    def fail(self, error: DecodingError) -> None:
        """End the request with an error, unless it is done."""
        if not self.is_done:
            self._error = error
        self._news.set()

    def _raise_error(self) -> None:
        """Raise the error that ended the request, if any, and drop the reference to it.

        Its traceback will refer to frames that refer to the handle: a reference cycle.
        """
        if self._error is not None:
            error, self._error = self._error, EngineError(f"the request has failed: {self._error}")
            try:
                raise error
            finally:
                del error
