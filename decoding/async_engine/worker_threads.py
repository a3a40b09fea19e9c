"""WorkerThreads: a few daemon threads for jobs that may be abandoned; the end of the process does not await them."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeAlias, TypeVar

from decoding.async_engine.loop_calls import call_in_loop

_T = TypeVar("_T")

Check: TypeAlias = Callable[[], None]


class AbandonedError(Exception):
    """Raised inside a job that has been abandoned; it goes no further than the worker thread."""


class Job:
    """Work for a worker thread, with the callback that gets its outcome."""

    def __init__(self, work: Callable[[Check], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        """work: called with `check`, which it calls between two pieces. done: called with the result or the error."""
        self._work: Callable[[Check], Any] | None = work
        self._done: Callable[[Any, BaseException | None], None] | None = done
        self._is_abandoned = False

    def abandon(self) -> None:
        """End the job at its next check, or before it begins; its outcome is dropped."""
        self._is_abandoned = True
        self._done = None

    def check(self) -> None:
        """Raise AbandonedError if the job is abandoned."""
        if self._is_abandoned:
            raise AbandonedError

    def run(self) -> None:
        """Do the work in this thread, and pass on what it returns or raises."""
        work, self._work = self._work, None
        result, failure = None, None
        try:
            self.check()
            assert work is not None
            result = work(self.check)
        except BaseException as error:
            failure = error
        done, self._done = self._done, None
        try:
            if done is not None:
                done(result, failure)
        finally:
            del work, done, failure  # its traceback refers to this frame


class WorkerThreads:
    """A queue of jobs and the threads that run them, started as they are needed."""

    def __init__(self, num_threads: int, name: str) -> None:
        self._num_threads = num_threads
        self._name = name
        self._start_afresh()
        os.register_at_fork(after_in_child=self._start_afresh)

    def start(self, work: Callable[[Check], _T]) -> asyncio.Future[_T]:
        """Run `work` in one of the threads; return the future of its outcome, for the running event loop.

        work: called with a function that it calls between two pieces, and that raises once the future is cancelled.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()

        def settle(result: Any, error: BaseException | None) -> None:
            if not future.done():
                future.set_result(result) if error is None else future.set_exception(error)

        def done(result: Any, error: BaseException | None) -> None:
            call_in_loop(loop, partial(settle, result, error))

        job = Job(work, done)
        self.submit(job)
        future.add_done_callback(lambda _: job.abandon())
        return future

    def submit(self, job: Job) -> None:
        """Queue a job. Raise RuntimeError if there is no thread and none can be started."""
        with self._lock:
            if self._num_started < self._num_threads:
                self._start_thread()
        self._jobs.put(job)

    def _start_afresh(self) -> None:
        """Begin without threads and jobs: those of a parent process are not in its child."""
        self._lock = threading.Lock()
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._num_started = 0

    def _start_thread(self) -> None:
        try:
            threading.Thread(target=_run_jobs, args=(self._jobs,), name=self._name, daemon=True).start()
        except (RuntimeError, MemoryError):
            if not self._num_started:
                raise
        else:
            self._num_started += 1


def _run_jobs(jobs: SimpleQueue[Job]) -> None:
    while True:
        with suppress(Exception):  # a thread must outlive a callback that fails
            jobs.get().run()
