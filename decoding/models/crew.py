"""Crew: threads that share out one numpy call's work and are waited for."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from enum import Enum, auto
from queue import SimpleQueue
from typing import TypeAlias

import numpy as np

from decoding.sampling.kernel.watch import Count

Work: TypeAlias = Callable[[], object]
Prepare: TypeAlias = Callable[[slice], Work]

# Multiplications, of which a thread does one in some 20 ps: for each WORTHWHILE one more thread takes part, and below
# WORTH_WAKING none that sleeps.
WORTHWHILE, WORTH_WAKING = 1 << 19, 1 << 23
# What one does before another, awake or asleep, has begun, and while that one reports: it is given so much more, and
# need not wait.
LEAD, LONG_LEAD = 1 << 17, 1 << 21
_PATIENCE = 500_000  # nanoseconds that a thread without work stays awake: through attention, and from step to step
_DELAY = 3_000  # nanoseconds from giving work out until the giver's own has given the interpreter's lock away


class _State(Enum):
    """Of a thread without work: it watches, or sleeps, or sleeps and has been called."""

    AWAKE = auto()
    ASLEEP = auto()
    CALLED = auto()


class Crew:
    """Up to `size` threads, the calling one among them; `size` may change between calls.

    Work is shared by numpy calls that release the interpreter's lock, so that all end at the same time. The results do
    not depend on the number of threads, as each number is computed by one of them. Used by one thread at a time.
    """

    def __init__(self, size: int = 1) -> None:
        self.size = size
        self._members: list[_Member] = []
        self._at_work: list[_Member] = []
        self._process = os.getpid()

    def share(self, count: int, cost: int, prepare: Prepare, *, least: int = 1, calls: int = 1) -> None:
        """Do prepare(part)() for parts that cover range(count), at once if `cost` multiplications are worth it.

        `prepare` is for the caller to call: between work that is given out and the caller's own first call of numpy, no
        time must pass. least: what a part has at least, if there are several. calls: of numpy in a part's work; threads
        meet at each, where the interpreter's lock changes hands.
        """
        size = min(self.size, count // least, 1 + cost // (calls * WORTHWHILE))
        if size <= 1:
            prepare(slice(0, count))()
            return
        members = self._hired(size - 1)
        awake = True
        for member in members:
            awake &= member.wake()
        if not awake and cost < WORTH_WAKING:
            prepare(slice(0, count))()
            return
        lead = LEAD if awake else LONG_LEAD
        lead = min(count * lead // (cost + lead), count - size * least)  # parts before those that are divided evenly
        own = prepare(slice(0, lead + (count - lead) // size))
        self._at_work, end = members, count
        for number in range(size - 1, 0, -1):
            begin = lead + (count - lead) * number // size
            members[number - 1].give(prepare(slice(begin, end)))
            end = begin
        own()
        error = self._settle()
        if error is not None:
            raise error

    def _settle(self) -> BaseException | None:
        """Wait for all that was given out; returns what one of the threads has raised."""
        first = None
        for member in self._at_work:
            error = member.result()
            first = first or error
        self._at_work = []
        return first

    def _hired(self, count: int) -> list[_Member]:
        """So many threads without work."""
        if self._process != os.getpid():  # threads do not survive a fork
            self._members, self._at_work, self._process = [], [], os.getpid()
        if self._at_work:  # after an interruption they may still be
            self._settle()
        while len(self._members) < count:
            member = _Member((1 + len(self._members)) * _DELAY)
            self._members.append(member)
            threading.Thread(target=member.work, name="decoding-crew", daemon=True).start()
            weakref.finalize(self, member.jobs.put, None)
        return self._members[:count]


class _Member:
    """One of the other threads. Work reaches it in `jobs`, where it sleeps when it has watched `given` for a while."""

    def __init__(self, delay: int) -> None:
        self.jobs: SimpleQueue[Work | None] = SimpleQueue()
        self._results: SimpleQueue[BaseException | None] = SimpleQueue()
        self._given, self._done = Count(), Count()
        self._delay = delay
        self._state = _State.AWAKE
        self._waiting = False  # the caller, for a result

    def wake(self) -> bool:
        """Whether it is awake. If not, it will soon be."""
        if self._state is _State.ASLEEP:
            self._state = _State.CALLED
            self.jobs.put(_nothing)
        return self._state is _State.AWAKE

    def give(self, work: Work) -> None:
        """Have it do this."""
        self.jobs.put(work)
        self._waiting = True
        self._given.increment()

    def result(self) -> BaseException | None:
        """Wait until it has done what it was given, if it was; returns what that has raised."""
        if not self._waiting:
            return None
        self._done.watch(self._given.value, _PATIENCE)
        error = self._results.get()
        self._waiting = False
        return error

    def work(self) -> None:
        """What the thread does until its crew is gone."""
        num_jobs, finished = 0, None
        with np.errstate(over="ignore", invalid="ignore"):  # a thread has its own; the sampler reports such logits
            while True:
                if not self._given.watch(num_jobs + 1, _PATIENCE, delay=self._delay, raising=finished):
                    self._state = _State.ASLEEP
                job = self.jobs.get()
                self._state, finished = _State.AWAKE, None
                if job is None:
                    return
                if job is not _nothing:
                    self._results.put(_error_of(job))
                    num_jobs, finished = num_jobs + 1, self._done
                del job  # or the arrays would live until the next one


def _error_of(work: Work) -> BaseException | None:
    try:
        work()
    except BaseException as error:  # the caller's to handle
        return error
    return None


def _nothing() -> None:
    """For who is only to wake up."""
