"""A crew does all the work once, hands errors on, and leaves nothing behind."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from decoding.models.crew import LEAD, LONG_LEAD, WORTH_WAKING, WORTHWHILE, Crew, Work

ASLEEP = 0.1  # seconds: longer than anybody stays awake


class Parts:
    """Work that notes its parts and threads."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.threads: set[int] = set()

    def __call__(self, part: slice) -> Work:
        """Prepare to note them."""
        return partial(self.note, part)

    def note(self, part: slice) -> None:
        """Note them."""
        self.done.extend(range(part.start, part.stop))
        self.threads.add(threading.get_ident())


def until(condition: Callable[[], bool]) -> bool:
    """Whether it comes true within five seconds; looked at while others may have the interpreter's lock."""
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)
    return condition()


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [1, 2, 7, 100])
@pytest.mark.parametrize("cost", [WORTHWHILE, WORTH_WAKING])
def test_every_part_is_done_once(size: int, count: int, cost: int) -> None:
    """By as many threads as there are, or as there are parts; again and again, with the others awake and asleep."""
    crew = Crew(size)
    for wait in (0.0, 0.0, 0.001, 0.0):
        parts = Parts()
        crew.share(count, cost, parts)
        assert sorted(parts.done) == list(range(count))
        assert len(parts.threads) <= min(size, count)
        time.sleep(wait)


def test_little_work_stays_in_the_calling_thread() -> None:
    """Handing it over would take longer."""
    parts = Parts()
    Crew(4).share(100, WORTHWHILE - 1, parts)
    assert parts.threads == {threading.get_ident()}


def test_work_of_several_calls_has_to_be_worth_each_of_them() -> None:
    """Threads that call numpy often wait for each other as often."""
    parts = Parts()
    Crew(4).share(100, 8 * WORTH_WAKING - 1, parts, calls=8 * WORTH_WAKING // WORTHWHILE)
    assert parts.threads == {threading.get_ident()}


def test_a_part_is_never_too_small() -> None:
    """Fewer threads take part, and the caller's lead is shorter, where parts would otherwise be."""
    crew = Crew(3)
    for count, expected in ((7, [7]), (15, [15]), (16, [8, 8]), (17, [9, 8]), (24, [8, 8, 8]), (1000, None)):
        shares: list[slice] = []
        time.sleep(ASLEEP)  # so that the lead is long
        crew.share(count, WORTH_WAKING, lambda part, shares=shares: partial(shares.append, part), least=8)  # type: ignore[misc]
        sizes = sorted((part.stop - part.start for part in shares), reverse=True)
        assert min(sizes) >= min(8, count)
        assert sum(sizes) == count
        assert expected is None or sizes == expected


def test_who_sleeps_is_woken_by_little_work_and_given_the_next() -> None:
    """The first is done by the caller; others stay awake for a moment."""
    crew, parts = Crew(2), Parts()
    crew.share(2, WORTH_WAKING, Parts())
    time.sleep(ASLEEP)
    crew.share(2, WORTHWHILE, parts)
    assert parts.threads == {threading.get_ident()}
    busy = np.ones((200, 200))

    def helped() -> bool:
        for _ in range(20):
            crew.share(2, WORTHWHILE, lambda part: partial(_note_and_multiply, parts, part, busy))
        return len(parts.threads) == 2

    assert until(helped)


def _note_and_multiply(parts: Parts, part: slice, matrix: NDArray[np.float64]) -> None:
    """Work of some time, without the interpreter's lock."""
    parts.note(part)
    np.matmul(matrix, matrix)


@pytest.mark.parametrize("cost", [WORTH_WAKING, 1000 * LONG_LEAD])
def test_the_caller_takes_what_it_does_before_others_have_begun(cost: int) -> None:
    """A lead that is the same for little and for much work, longer if others sleep, and half of the rest."""
    shares: list[slice] = []
    Crew(2).share(1000, cost, lambda part: partial(shares.append, part))
    own = max(part.stop - part.start for part in shares if part.start == 0)
    leads = [1000 * lead / (cost + lead) for lead in (LEAD, LONG_LEAD)]
    assert any(abs(own - (lead + (1000 - lead) / 2)) <= 1 for lead in leads)
    assert len(shares) == 2


def test_the_size_may_change() -> None:
    """Threads are hired when they are needed, and left alone when they are not."""
    crew = Crew()
    for size in (3, 1, 2, 5):
        crew.size, parts = size, Parts()
        crew.share(10, WORTH_WAKING, parts)
        assert sorted(parts.done) == list(range(10))


def test_an_error_in_another_thread_reaches_the_caller() -> None:
    """And the crew works on."""
    crew = Crew(3)

    def fail(part: slice) -> None:
        if part.start:
            raise ValueError(f"part {part.start}")

    with pytest.raises(ValueError, match="part"):
        crew.share(3, WORTH_WAKING, lambda part: partial(fail, part))
    parts = Parts()
    crew.share(3, WORTH_WAKING, parts)
    assert sorted(parts.done) == [0, 1, 2]


def test_after_an_interruption_the_others_are_waited_for() -> None:
    """Work that was given out before Ctrl-C ends before any new work begins: they may use the same memory."""
    crew, ended = Crew(2), []

    def interrupted(part: slice) -> None:
        if part.start == 0:
            raise KeyboardInterrupt
        time.sleep(0.05)
        ended.append("old")

    with pytest.raises(KeyboardInterrupt):
        crew.share(2, WORTH_WAKING, lambda part: partial(interrupted, part))
    crew.share(2, WORTH_WAKING, lambda part: partial(ended.append, "new"))
    assert ended == ["old", "new", "new"]


def test_threads_end_with_their_crew() -> None:
    """Nobody has to close it."""
    crew = Crew(4)
    crew.share(4, WORTH_WAKING, Parts())
    workers = [thread for thread in threading.enumerate() if thread.name == "decoding-crew"]
    assert len(workers) >= 3
    del crew
    gc.collect()
    assert until(lambda: not any(worker.is_alive() for worker in workers[-3:]))


def test_it_works_in_a_forked_process() -> None:
    """Threads do not survive a fork; new ones are hired."""
    program = (
        "import os\n"
        "from decoding.models.crew import WORTH_WAKING, Crew\n"
        "crew, done = Crew(2), []\n"
        "work = lambda part: lambda: done.append(part)\n"
        "crew.share(2, WORTH_WAKING, work)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    crew.share(2, WORTH_WAKING, work)\n"
        "    os._exit(len(done))\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", program]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert run.stdout == "4\n"
