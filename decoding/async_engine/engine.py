"""AsyncEngine: the engine for an event loop, behind a bounded waiting queue.

One thread steps the engine. Commands of the loop (new requests, abortions) go through an inbox that is read between
steps; the engine's news come back in one call of the loop per step, however many streams there are. The loop never
waits for a step, and texts are tokenised in worker threads.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from decoding.async_engine.delivery import Delivery
from decoding.async_engine.handle import News, RequestHandle
from decoding.async_engine.listener import Listener
from decoding.async_engine.loop_calls import call_in_loop
from decoding.async_engine.text_work import num_characters, num_characters_in_params, start_text_work
from decoding.async_engine.worker_threads import Check
from decoding.engine.logits_processors import Processor
from decoding.engine.outputs import CompletionResult
from decoding.engine.past_draw import PastDraw, PastDrawRecorder
from decoding.engine.request import Request
from decoding.engine.shared_engine import SharedEngine, check_streamable
from decoding.engine.stats import EngineStats
from decoding.errors import (
    DecodingError,
    EngineClosedError,
    EngineError,
    EngineMemoryError,
    OverloadedError,
    ParameterError,
    drop_frames,
    raisable,
)
from decoding.params import SamplingParams
from decoding.sampling.stages import Profile

_LOGGER = logging.getLogger("decoding")
_STATS_SECONDS = 0.02
"""Maximum age of `AsyncEngine.stats` while the engine is busy, in seconds: counting takes time."""
_RETRY_SECONDS = 0.01
"""Seconds before a message to the event loop that failed for lack of memory is sent again."""


class HasEngine(Protocol):
    """An LLM, as an AsyncEngine sees it."""

    @property
    def engine(self) -> SharedEngine: ...


class AsyncEngine:
    """Serves an LLM's engine to one event loop.

        engine = AsyncEngine(llm)
        async for delta in engine.stream("def add(a, b):", SamplingParams(seed=7)):
            print(delta.text, end="")
        await engine.close()

    The engine's own settings are the LLM's.
    max_waiting: prompts that may wait for their first token; further ones are refused with OverloadedError. A request
        of more prompts than that is accepted if none waits.
    on_failure: called in the event loop with the exception that has ended the engine's thread, after every request has
        got its error. The engine cannot be used again.
    """

    def __init__(
        self,
        llm: HasEngine,
        *,
        max_waiting: int = 1024,
        on_failure: Callable[[BaseException], None] | None = None,
    ) -> None:
        if type(max_waiting) is not int or max_waiting < 1:
            raise ParameterError.single("max_waiting", max_waiting, "must be an integer >= 1")
        self._engine = llm.engine
        self._max_waiting = max_waiting
        self._on_failure = on_failure
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._has_ended = asyncio.Event()
        self._inbox: deque[tuple[Callable[[RequestHandle], None], RequestHandle]] = deque()
        self._wake = threading.Event()
        self._open: set[RequestHandle] = set()
        self._delivery = Delivery(self._open, self._wake.set)
        self._preparing: set[asyncio.Future[Any]] = set()
        self._closed: EngineError | None = None
        self._failure: BaseException | None = None
        self._stats: EngineStats | None = None
        self._ends: deque[float] = deque(maxlen=64)

    @property
    def num_waiting(self) -> int:
        """Prompts that wait for their first token."""
        return sum(handle.num_unstarted for handle in self._open)

    @property
    def is_open(self) -> bool:
        """True while it accepts requests."""
        return self._closed is None

    @property
    def failure(self) -> BaseException | None:
        """The exception that has ended the engine's thread; None while the thread runs, and after `close`."""
        return self._failure

    def require_room(self, num_prompts: int = 1) -> None:
        """Raise OverloadedError if so many prompts may not wait, or the error that has ended the engine."""
        if self._closed is not None:
            raise self._closing_error()
        waiting = self.num_waiting
        if waiting and waiting + num_prompts > self._max_waiting:  # if none waits, waiting longer would not help
            raise OverloadedError(waiting, self._retry_after(waiting))

    def stats(self) -> EngineStats:
        """Return recent counts of the engine, without waiting for a step."""
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
        """Check a request and queue it. If the call is cancelled, its texts are not tokenised further.

        prompt, params, processors, profile: as in `LLM.complete`. stream: True if its deltas are wanted.
        Raises PromptError, ContextLengthError, ParameterError or TokenizerError for a bad request, OverloadedError or
        EngineClosedError for one that cannot be accepted.
        """
        self.require_room(1)
        requests = await self._prepared(prompt, params, processors, profile)
        if stream:
            check_streamable(requests)
        return self._submitted(requests, stream=stream)

    async def past_draw(
        self,
        prompt: Any,
        params: SamplingParams,
        token_ids: Sequence[int],
        position: int,
        *,
        choice: int = 0,
        profile: str | Profile | None = None,
    ) -> PastDraw:
        """Make one draw of a completion again, to be explained: `(await engine.past_draw(...)).explain()`.

        prompt: one prompt, text or token ids. params: those of the completion, with its seed.
        token_ids: the choice's tokens. position: the index of one of them, or their number for the next token.
        choice: the number of the candidate.

        Mostly costs one forward pass over the tokens that are not in the prefix cache; with mirostat_tau,
        adaptive_p_target, banned_strings and token_healing the completion runs again. Raises as `submit` does, and
        ParameterError for tokens that the request does not give.
        """
        if params.seed is None:
            raise ParameterError.single("seed", None, "must be that of the completion")
        self.require_room(1)
        recorder = PastDrawRecorder(token_ids, position, choice)
        requests = await self._prepared(prompt, params, (), profile, recorder.request)
        (result,) = await self._submitted(requests, stream=False).results()
        return recorder.draw(result)

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
                    raise raisable(delta.error)
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
            raise raisable(errors[0])
        return results

    async def close(self, *, grace: float = 0.0) -> None:
        """Accept no more requests; give running ones `grace` seconds, and end the rest with EngineClosedError."""
        if self._closed is None:
            self._closed = EngineClosedError("the engine is shutting down")
        deadline = time.monotonic() + grace
        while self._open and time.monotonic() < deadline:
            await asyncio.sleep(min(0.02, max(0.0, deadline - time.monotonic())))
        for future in tuple(self._preparing):
            if not future.done():
                future.set_exception(self._closing_error())
        for handle in tuple(self._open):
            self._end(handle, self._closing_error())
        self._wake.set()
        thread = self._thread
        if thread is not None:
            await self._has_ended.wait()
            thread.join()  # also if another call of `close`, which waited too, has joined it
            self._thread = None
            self._delivery.deliver_all()
        for handle in self._open:
            handle.fail(self._closing_error())

    def _submitted(self, requests: Sequence[Request], *, stream: bool) -> RequestHandle:
        """Queue checked requests for the engine's thread."""
        self.require_room(len(requests))
        handle = RequestHandle(requests, stream, self._abort, self._end)
        self._start()
        self._open.add(handle)
        self._send(self._add, handle)
        return handle

    async def _prepared(
        self,
        prompt: Any,
        params: Any,
        processors: Sequence[Processor],
        profile: str | Profile | None,
        changed: Callable[[Request], Request] = lambda request: request,
    ) -> list[Request]:
        """Check and tokenise a request in a worker thread, and apply `changed` to each prompt's."""

        def prepare(check: Check) -> list[Request]:
            requests, _ = self._engine.requests(prompt, params, processors, profile=profile, check=check)
            return [changed(request) for request in requests]

        future = start_text_work(num_characters(prompt) + num_characters_in_params(params), prepare)
        self._preparing.add(future)
        try:
            return await future
        finally:
            self._preparing.discard(future)
            del future  # an error's traceback refers to this frame, and the future to the error

    def _closing_error(self) -> EngineError:
        """Return a new error that tells why the engine accepts no requests. A shared one would collect tracebacks."""
        closed = self._closed or EngineClosedError("the engine is shutting down")
        error = type(closed)(*closed.args)
        error.__cause__ = closed.__cause__
        return error

    def _retry_after(self, num_waiting: int) -> float:
        """Return the seconds until half of the waiting prompts are done, at the pace of the last ones."""
        if len(self._ends) < 2:
            return 1.0
        pace = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        return min(60.0, max(1.0, pace * num_waiting / 2))

    def _start(self) -> None:
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            self._delivery.open(self._loop)
            thread = threading.Thread(target=self._run, name="decoding engine", daemon=True)
            thread.start()
            self._thread = thread

    def _send(self, command: Callable[[RequestHandle], None], handle: RequestHandle) -> None:
        """Hand a command for a request to the engine's thread."""
        self._inbox.append((command, handle))
        self._engine.interrupt()
        self._wake.set()

    def _post(self, news: News) -> None:
        if news.result is not None:
            self._ends.append(time.monotonic())
        self._delivery.post(news)

    def _run(self) -> None:
        """Run commands, then a step, until the engine is closed: the engine's thread."""
        try:
            self._work()
        except BaseException as error:
            _LOGGER.critical("the engine's thread has ended", exc_info=error)
            self._failure = error
            self._closed = EngineError("the engine has failed")
            self._closed.__cause__ = error
        finally:
            self._report_end()

    def _work(self) -> None:
        counted = 0.0
        while True:
            self._wake.clear()
            while self._inbox:
                self._obey(*self._inbox.popleft())
            self._delivery.begin_step()
            has_stepped = self._engine.step()
            if not has_stepped or time.monotonic() > counted + _STATS_SECONDS:
                self._stats, counted = self._engine.stats, time.monotonic()
            if self._delivery.needs_retry:
                self._delivery.needs_retry = False
                self._delivery.schedule()
            if not has_stepped and not self._inbox:
                if self._closed is not None:
                    return
                self._wake.wait(_RETRY_SECONDS if self._delivery.needs_retry else None)

    def _obey(self, command: Callable[[RequestHandle], None], handle: RequestHandle) -> None:
        """Run a command. If it raises, only its own request fails."""
        try:
            command(handle)
        except Exception as error:
            self._break(handle, error)

    def _break(self, handle: RequestHandle, cause: Exception) -> None:
        """End a request after a failure in the engine's thread, using almost no memory."""
        drop_frames(cause)
        kind = EngineMemoryError if isinstance(cause, MemoryError) else EngineError
        handle.broken = kind(f"the request failed in the engine: {type(cause).__name__}")
        handle.broken.__cause__ = cause
        self._delivery.needs_retry = True
        self._engine.abort(handle.tasks)

    def _report_end(self) -> None:
        """Schedule `_on_end` in the event loop, as the last action of the engine's thread."""
        if self._loop is not None:
            call_in_loop(self._loop, self._on_end)

    def _on_end(self) -> None:
        self._has_ended.set()
        if self._failure is None:
            return
        self._delivery.deliver_all()
        for handle in tuple(self._open):
            handle.fail(self._closing_error())
        self._open.clear()
        if self._on_failure is not None:
            self._on_failure(self._failure)

    def _add(self, handle: RequestHandle) -> None:
        listener = Listener(handle, self._engine.name, self._post, self._break)
        handle.tasks = self._engine.add(handle.requests, listener.listen, is_streamed=handle.is_streamed)

    def _abort(self, handle: RequestHandle) -> None:
        self._open.discard(handle)
        self._send(self._drop, handle)

    def _drop(self, handle: RequestHandle) -> None:
        self._engine.abort(handle.tasks)

    def _end(self, handle: RequestHandle, error: DecodingError) -> None:
        self._send(lambda handle: self._end_in_thread(handle, error), handle)

    def _end_in_thread(self, handle: RequestHandle, error: DecodingError) -> None:
        """Abort the tasks of a request, and deliver what its candidates have held back, then the error."""
        first_index = dict(zip(handle.tasks, handle.first_index, strict=False))
        deltas = []
        for task, candidate in self._engine.abort(handle.tasks):
            candidate.release()
            deltas += task.deltas(candidate, first_index[task]) if handle.is_streamed else []
        self._post(News(handle, deltas=deltas, error=error))
