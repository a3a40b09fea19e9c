"""Stand-in for engine/async_engine.py: one engine thread a model behind a bounded bridge."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from decoding.engine.engine import Engine
from decoding.engine.group import SequenceGroup
from decoding.engine.outputs import CompletionResult, Delta, Usage
from decoding.errors import DecodingError
from decoding.llm import LLM
from decoding.params import SamplingParams


class OverloadedError(DecodingError):
    def __init__(self, retry_after: float) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after


class EngineClosedError(DecodingError):
    pass


@dataclass
class EngineStats:
    running: int
    waiting: int
    tokens_sampled: int


class RequestHandle:
    def __init__(self, engine: AsyncEngine, groups: list[SequenceGroup], num_choices: int) -> None:
        self._engine = engine
        self.groups = groups
        self.first_index = {group: i * num_choices for i, group in enumerate(groups)}
        self._ready: list[Delta] = []
        self._event = asyncio.Event()
        self._error: BaseException | None = None
        self._over = False
        self.results: list[CompletionResult] = []
        self.num_prompt_tokens = sum(len(g.request.token_ids) for g in groups)

    @property
    def usage(self) -> Usage:
        return Usage.sum([r.usage for r in self.results])

    def deliver(self, deltas: list[Delta], over: bool, error: BaseException | None) -> None:
        self._ready += deltas
        self._over |= over
        self._error = self._error or error
        self._event.set()

    def abort(self) -> None:
        if not self._over:
            self._over = True
            self._engine.abort(self)
            self._event.set()

    async def __aiter__(self) -> AsyncIterator[list[Delta]]:
        while True:
            await self._event.wait()
            self._event.clear()
            ready, self._ready = self._ready, []
            if ready:
                yield ready
            if self._error:
                raise self._error
            if self._over and not self._ready:
                return

    async def result(self) -> list[CompletionResult]:
        async for _ in self:
            pass
        return self.results


class AsyncEngine:
    def __init__(self, llm: LLM, *, max_waiting: int = 1024) -> None:
        self.llm = llm
        self._max_waiting = max_waiting
        self._commands: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._handles: set[RequestHandle] = set()
        self._closing = False
        self._failed: BaseException | None = None
        self._tokens = 0
        self._pool = ThreadPoolExecutor(2)
        self._engine = Engine(llm._model, llm._tokenizer, max_num_seqs=llm._max_num_seqs)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pending = 0

    async def submit(self, prompts: list[Any], params: SamplingParams) -> RequestHandle:
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        if self._closing:
            raise EngineClosedError("closed")
        if self._pending + len(self._handles) >= self._max_waiting + self.llm._max_num_seqs:
            raise OverloadedError(1.0)
        self._pending += 1
        try:
            requests, _ = await asyncio.get_running_loop().run_in_executor(
                self._pool, self.llm._requests, prompts, params, "status"
            )
        finally:
            self._pending -= 1
        handle = RequestHandle(self, [SequenceGroup(r, self.llm._tokenizer) for r in requests], params.n)
        self._handles.add(handle)
        self._commands.put(("add", handle))
        return handle

    def abort(self, handle: RequestHandle) -> None:
        self._commands.put(("abort", handle))

    def stats(self) -> EngineStats:
        return EngineStats(len(self._engine._running), len(self._engine._waiting), self._tokens)

    async def close(self, *, grace: float) -> None:
        self._closing = True
        end = asyncio.get_running_loop().time() + grace
        while self._handles and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.02)
        for handle in list(self._handles):
            self._commands.put(("abort", handle))
            handle.deliver([], True, EngineClosedError("the server is shutting down"))
        self._handles.clear()
        self._commands.put(("stop", None))
        if self._thread:
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        engine = self._engine
        owners: dict[SequenceGroup, RequestHandle] = {}
        live: dict[RequestHandle, set[SequenceGroup]] = {}
        while True:
            while not engine.has_work or not self._commands.empty():
                command, handle = self._commands.get()
                if command == "stop":
                    return
                if command == "add":
                    live[handle] = set(handle.groups)
                    for g in handle.groups:
                        owners[g] = handle
                        engine._waiting.append(g)
                else:
                    gone = live.pop(handle, set())
                    engine._waiting = type(engine._waiting)(g for g in engine._waiting if g not in gone)
                    for r in engine._running:
                        if r.group in gone:
                            r.sequence.fail(EngineClosedError("aborted"))
                            r.group._num_started = r.group.num_runs
                    for g in gone:
                        owners.pop(g, None)
                    self._loop.call_soon_threadsafe(self._handles.discard, handle)
            error = None
            try:
                stepped = engine.step()
            except Exception as e:
                stepped, error = [], e
                engine._running, engine._waiting = [], type(engine._waiting)()
                engine._free_slots = list(range(self.llm._max_num_seqs))[::-1]
            out: dict[RequestHandle, list[Delta]] = {}
            self._tokens += len(stepped)
            for running in stepped:
                handle = owners.get(running.group)
                if handle is None:
                    continue
                if not running.group.request.params.ranks_candidates:
                    out.setdefault(handle, []).extend(
                        running.group.deltas(running.sequence, handle.first_index[running.group])
                    )
            for g in {running.group for running in stepped}:
                if g in owners and g.is_fully_started and not any(r.group is g for r in engine._running):
                    live[owners.pop(g)].discard(g)
            done = []
            for handle in list(live):
                if not live[handle] or error:
                    del live[handle]
                    if not error:
                        handle.results = [g.result(self.llm.name) for g in handle.groups]
                    done.append(handle)
            self._loop.call_soon_threadsafe(self._deliver, out, done, error)

    def _deliver(self, out: Any, done: Any, error: Any) -> None:
        for handle, deltas in out.items():
            if deltas:
                handle.deliver(deltas, False, None)
        for handle in done:
            self._handles.discard(handle)
            handle.deliver([], True, error)
