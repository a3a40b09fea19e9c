"""Crew: threads that share out one numpy call's work and are waited for."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeAlias

import numpy as np

Work: TypeAlias = Callable[[slice], object]
_Jobs: TypeAlias = "SimpleQueue[tuple[Work, slice] | None]"
_Results: TypeAlias = "SimpleQueue[BaseException | None]"

# Multiplications below which a thread is not worth waking: one does them in 170 us, and the other may wake up late.
WORTHWHILE = 1 << 23
# What one does before another has woken up, and while that one reports: it is given so much more, and need not wait.
LEAD = 1 << 21


class Crew:
    """Up to `size` threads, the calling one among them; `size` may change between calls.

    Work is shared by numpy calls that release the interpreter's lock, so that all end at the same time. The results do
    not depend on the number of threads, as each number is computed by one of them. Used by one thread at a time.
    """

    def __init__(self, size: int = 1) -> None:
        self.size = size
        self._jobs: list[_Jobs] = []
        self._results: _Results = SimpleQueue()
        self._waiting = 0
        self._process = os.getpid()

    def share(self, count: int, cost: int, work: Work) -> None:
        """Call work(part) for parts that cover range(count), at once if `cost` multiplications are worth it."""
        size = min(self.size, count)
        if size <= 1 or cost < WORTHWHILE:
            work(slice(0, count))
            return
        self._settle()  # after an interruption others may still be at work
        self._hire(size - 1)
        lead = count * LEAD // (cost + LEAD)  # parts before those that are divided evenly
        bounds = [0, *(lead + (count - lead) * number // size for number in range(1, size + 1))]
        own, *others = map(slice, bounds[:-1], bounds[1:])
        for jobs, part in zip(self._jobs, others, strict=False):
            jobs.put((work, part))
            self._waiting += 1
        work(own)
        error = self._settle()
        if error is not None:
            raise error

    def _settle(self) -> BaseException | None:
        """Wait for all that was given out; returns what one of the threads has raised."""
        if self._process != os.getpid():  # threads do not survive a fork
            self._jobs, self._results, self._waiting, self._process = [], SimpleQueue(), 0, os.getpid()
        first = None
        while self._waiting:
            error = self._results.get()
            self._waiting -= 1
            first = first or error
        return first

    def _hire(self, count: int) -> None:
        while len(self._jobs) < count:
            jobs: _Jobs = SimpleQueue()
            self._jobs.append(jobs)
            threading.Thread(target=_work, args=(jobs, self._results), name="decoding-crew", daemon=True).start()
            weakref.finalize(self, jobs.put, None)


def _work(jobs: _Jobs, results: _Results) -> None:
    """What a thread does until its crew is gone."""
    with np.errstate(over="ignore", invalid="ignore"):  # a thread has its own setting; the sampler reports such logits
        while (job := jobs.get()) is not None:
            work, part = job
            try:
                work(part)
            except BaseException as error:  # the caller's to handle
                results.put(error)
            else:
                results.put(None)
            del job, work, part  # or the arrays would live until the next job
