"""AsyncEngine: the engine for an event loop, behind a bounded waiting queue.

One thread steps the engine. Commands of the loop (new requests, abortions) go through an inbox that is read between
steps; the engine's news come back in one call of the loop per step, however many streams there are. The loop never
waits for a step, and texts are tokenised in worker threads.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Literal, Protocol

from decoding.engine.candidate import Candidate
from decoding.engine.logits_processors import Processor
from decoding.engine.outputs import CompletionResult, Delta
from decoding.engine.request import Request
from decoding.engine.shared_engine import SharedEngine, check_streamable
from decoding.engine.stats import EngineStats
from decoding.engine.tasks.completion import CompletionTask
from decoding.errors import DecodingError, EngineClosedError, EngineError, OverloadedError, ParameterError
from decoding.sampling.stages import Profile

_PATIENCE = 0.05
"""Seconds that a step waits for an event loop that has other things to do."""
_STATS_SECONDS = 0.02
"""Age that `AsyncEngine.stats` may have while the engine is busy: counting takes a while."""


class HasEngine(Protocol):
    """An LLM, as an AsyncEngine sees it."""

    @property
    def engine(self) -> SharedEngine: ...


class RequestHandle:
    """One request: iterate over its deltas, or wait for its results. Made by `AsyncEngine.submit`.

        handle = await engine.submit(prompt, params, stream=True)
        async for delta in handle:
            ...

    num_prompts, num_prompt_tokens: of the request. To be used by the loop that submitted it, and no other thread.
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
        self._requests = requests
        self._stream = stream
        self._abort = abort
        self._end = end
        self._deltas: deque[Delta] = deque()
        self._results: list[CompletionResult | None] = [None] * len(requests)
        self._num_unstarted = self._num_open = len(requests)
        self._error: DecodingError | None = None
        self._news = asyncio.Event()
        self._tasks: list[CompletionTask] = []  # the engine thread's
        num_choices = itertools.accumulate((request.params.n for request in requests), initial=0)
        self._first_index = list(num_choices)[:-1]  # choices are numbered prompt by prompt

    @property
    def is_done(self) -> bool:
        """True if everything has come, or the request has failed."""
        return self._error is not None or not self._num_open

    def abort(self) -> None:
        """Free everything before the engine's next step; does nothing once all is done."""
        if not self.is_done:
            self._abort(self)
            self._fail(EngineError("the request was aborted"))

    def end(self, error: DecodingError) -> None:
        """Abort the request, but deliver the text that was held back for a stop string before the error."""
        if not self.is_done:
            self._end(self, error)

    async def __aiter__(self) -> AsyncIterator[Delta]:
        """Iterate over the deltas of all choices of all prompts. Leaving the iteration aborts the request.

        Raises EngineClosedError or EngineError if the engine ends; a choice's own error is in its last delta.
        """
        if not self._stream:
            raise ParameterError.single("stream", False, "must be True to iterate over deltas")
        try:
            while True:
                while self._deltas:
                    yield self._deltas.popleft()
                if self.is_done:
                    break
                self._news.clear()
                await self._news.wait()
            if self._error is not None:
                raise self._error
        finally:
            self.abort()

    async def results(self) -> list[CompletionResult]:
        """Wait for the results, as of `LLM.complete` with on_error="status" for a list; cancelling aborts."""
        try:
            while not self.is_done:
                self._news.clear()
                await self._news.wait()
        finally:
            self.abort()
        if self._error is not None:
            raise self._error
        return [result for result in self._results if result is not None]

    def _deliver(self, index: int, deltas: list[Delta], result: CompletionResult | None, is_first: bool) -> None:
        self._deltas.extend(deltas)
        self._num_unstarted -= is_first
        if result is not None:
            self._results[index] = result
            self._num_open -= 1
        self._news.set()

    def _fail(self, error: DecodingError) -> None:
        if not self.is_done:
            self._error = error
        self._news.set()


class AsyncEngine:
    """Serves an LLM's engine to one event loop.

        engine = AsyncEngine(llm)
        async for delta in engine.stream("def add(a, b):", SamplingParams(seed=7)):
            print(delta.text, end="")
        await engine.close()

    The engine's own settings are the LLM's.
    max_waiting: prompts that may wait for their first token; further ones are refused with OverloadedError. A request
        of more prompts than that is accepted if none waits.
    """

    def __init__(self, llm: HasEngine, *, max_waiting: int = 1024) -> None:
        if type(max_waiting) is not int or max_waiting < 1:
            raise ParameterError.single("max_waiting", max_waiting, "must be an integer >= 1")
        self._engine = llm.engine
        self._max_waiting = max_waiting
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake = threading.Event()
        self._outbox: deque[Callable[[], None]] = deque()
        self._is_new_step = False
        self._caught_up = threading.Event()
        self._caught_up.set()
        self._open: set[RequestHandle] = set()
        self._closed: EngineError | None = None
        self._stats: EngineStats | None = None
        self._ends: deque[float] = deque(maxlen=64)

    @property
    def num_waiting(self) -> int:
        """Prompts that wait for their first token."""
        return sum(handle._num_unstarted for handle in self._open)

    @property
    def is_open(self) -> bool:
        """True while it accepts requests."""
        return self._closed is None

    def stats(self) -> EngineStats:
        """Return the engine's counts of a moment ago; never waits."""
        if self._stats is None:
            self._stats = self._engine.stats
        return self._stats

    async def submit(
        self,
        prompt: Any,
        params: Any = None,
        *,
        stream: bool = False,
        processors: Sequence[Processor] = (),
        profile: str | Profile | None = None,
    ) -> RequestHandle:
        """Check a request and queue it.

        prompt, params, processors, profile: as in `LLM.complete`. stream: True if its deltas are wanted.
        Raises PromptError, ContextLengthError, ParameterError or TokenizerError for a bad request, OverloadedError or
        EngineClosedError for one that cannot be accepted.
        """
        self._require_room(1)
        requests, _ = await asyncio.to_thread(self._engine.requests, prompt, params, processors, profile=profile)
        if stream:
            check_streamable(requests)
        self._require_room(len(requests))
        handle = RequestHandle(requests, stream, self._abort, self._end)
        self._start()
        self._open.add(handle)
        self._send(lambda: self._add(handle))
        return handle

    async def stream(
        self,
        prompt: Any,
        params: Any = None,
        *,
        profile: str | Profile | None = None,
        on_error: Literal["raise", "status"] = "raise",
    ) -> Any:
        """Iterate over `Delta`, as `LLM.stream` does; errors of the request are raised with the first piece."""
        handle = await self.submit(prompt, params, stream=True, profile=profile)
        pieces = handle.__aiter__()
        try:
            async for delta in pieces:
                if delta.error is not None and on_error == "raise":
                    raise delta.error
                yield delta
        finally:
            await pieces.aclose()  # type: ignore[attr-defined]  # an async generator

    async def complete(
        self,
        prompt: Any,
        params: Any = None,
        *,
        profile: str | Profile | None = None,
        on_error: Literal["raise", "status"] = "raise",
    ) -> list[CompletionResult]:
        """Return the results of all prompts, one prompt or several; see `LLM.complete`."""
        results = await (await self.submit(prompt, params, profile=profile)).results()
        errors = [choice.error for result in results for choice in result.choices if choice.error is not None]
        if errors and on_error == "raise":
            raise errors[0]
        return results

    async def close(self, *, grace: float = 0.0) -> None:
        """Accept no more requests; give running ones `grace` seconds, and end the rest with EngineClosedError."""
        if self._closed is None:
            self._closed = EngineClosedError("the engine is shutting down")
        deadline = time.monotonic() + grace
        while self._open and time.monotonic() < deadline:
            await asyncio.sleep(min(0.02, max(0.0, deadline - time.monotonic())))
        for handle in list(self._open):
            self._end(handle, self._closed)
        self._wake.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
            self._thread = None
            self._flush()
        for handle in self._open:
            handle._fail(self._closed)

    def _require_room(self, num_prompts: int) -> None:
        if self._closed is not None:
            raise self._closed
        waiting = self.num_waiting
        if waiting and waiting + num_prompts > self._max_waiting:  # if none waits, waiting longer would not help
            raise OverloadedError(waiting, self._retry_after(waiting))

    def _retry_after(self, num_waiting: int) -> float:
        """Return the seconds until half of the waiting prompts are done, at the pace of the last ones."""
        if len(self._ends) < 2:
            return 1.0
        pace = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        return min(60.0, max(1.0, pace * num_waiting / 2))

    def _start(self) -> None:
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._run, name="decoding engine", daemon=True)
            self._thread.start()

    def _send(self, command: Callable[[], None]) -> None:
        """Hand a command to the engine's thread."""
        self._inbox.append(command)
        self._wake.set()

    def _post(self, message: Callable[[], None]) -> None:
        """Hand a message to the event loop; many messages are one call.

        The first of a step waits until the loop has delivered those of the step before: the GIL goes back to the
        computing thread, and without this the loop would fall behind and deliver several steps at once.
        """
        if self._is_new_step:
            self._is_new_step = False
            self._caught_up.wait(_PATIENCE)
            self._caught_up.clear()
        self._outbox.append(message)
        if len(self._outbox) == 1 and self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._flush)
            except RuntimeError:  # the loop is closed
                self._outbox.clear()

    def _flush(self) -> None:
        for _ in range(len(self._outbox)):
            self._outbox.popleft()()
        self._open = {handle for handle in self._open if not handle.is_done}
        if self._loop is not None:
            self._loop.call_soon(self._flush if self._outbox else self._settle)

    def _settle(self) -> None:
        """Let the next step post, after the turn in which the readers have taken their pieces."""
        if self._loop is not None:
            self._loop.call_soon(self._caught_up.set)

    def _run(self) -> None:
        """Run commands, then a step, until the engine is closed: the engine's thread."""
        counted = 0.0
        try:
            while True:
                self._wake.clear()
                while self._inbox:
                    self._inbox.popleft()()
                self._is_new_step = True
                has_stepped = self._engine.step()
                if not has_stepped or time.monotonic() > counted + _STATS_SECONDS:
                    self._stats, counted = self._engine.stats, time.monotonic()
                if not has_stepped and not self._inbox:
                    if self._closed is not None:
                        return
                    self._wake.wait()
        except BaseException as error:
            self._closed = EngineError("the engine's thread has ended")
            self._closed.__cause__ = error
            self._post(self._fail_all)
            raise

    def _fail_all(self) -> None:
        for handle in self._open:
            handle._fail(self._closed or EngineClosedError("the engine is shutting down"))

    def _add(self, handle: RequestHandle) -> None:
        first_index = handle._first_index
        indices = {request: index for index, request in enumerate(handle._requests)}
        started: set[Request] = set()

        def listen(task: CompletionTask, candidate: Candidate) -> None:
            index, is_first = indices[task.request], task.request not in started
            started.add(task.request)
            deltas = task.deltas(candidate, first_index[index]) if handle._stream else []
            result = task.result(self._engine.name) if task.is_done else None
            if deltas or result is not None or is_first:
                self._post(lambda: handle._deliver(index, deltas, result, is_first))
            if result is not None:
                self._ends.append(time.monotonic())

        handle._tasks = self._engine.add(handle._requests, listen)

    def _abort(self, handle: RequestHandle) -> None:
        self._open.discard(handle)
        self._send(lambda: self._drop(handle))

    def _drop(self, handle: RequestHandle) -> None:
        self._engine.abort(handle._tasks)

    def _end(self, handle: RequestHandle, error: DecodingError) -> None:
        self._send(lambda: self._end_in_thread(handle, error))

    def _end_in_thread(self, handle: RequestHandle, error: DecodingError) -> None:
        """Abort the tasks of a request, and deliver what its candidates have held back, then the error."""
        first_index = dict(zip(handle._tasks, handle._first_index, strict=False))
        deltas = []
        for task, candidate in self._engine.abort(handle._tasks):
            candidate.release()
            deltas += task.deltas(candidate, first_index[task]) if handle._stream else []

        def deliver() -> None:
            if not handle.is_done:
                handle._deltas.extend(deltas)
                handle._fail(error)

        self._post(deliver)
