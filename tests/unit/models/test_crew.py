"""A crew does all the work once, hands errors on, and leaves nothing behind."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time

import pytest

from decoding.models.crew import LEAD, WORTHWHILE, Crew


class Parts:
    """Work that notes its parts and threads."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.threads: set[int] = set()

    def __call__(self, part: slice) -> None:
        """Note them."""
        self.done.extend(range(part.start, part.stop))
        self.threads.add(threading.get_ident())


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_every_part_is_done_once(size: int, count: int) -> None:
    """By as many threads as there are, or as there are parts."""
    parts = Parts()
    Crew(size).share(count, WORTHWHILE, parts)
    assert sorted(parts.done) == list(range(count))
    assert len(parts.threads) <= min(size, count)


def test_little_work_stays_in_the_calling_thread() -> None:
    """Waking another one would take longer."""
    parts = Parts()
    Crew(4).share(100, WORTHWHILE - 1, parts)
    assert parts.threads == {threading.get_ident()}


@pytest.mark.parametrize(("cost", "own"), [(WORTHWHILE, 599), (1000 * LEAD, 500)])
def test_the_caller_takes_what_it_does_before_others_wake_up(cost: int, own: int) -> None:
    """A lead that is the same for little and for much work, and half of the rest."""
    shares: list[slice] = []
    Crew(2).share(1000, cost, shares.append)
    assert abs(max(part.stop - part.start for part in shares if part.start == 0) - own) <= 1
    assert len(shares) == 2


def test_the_size_may_change() -> None:
    """Threads are hired when they are needed, and left alone when they are not."""
    crew = Crew()
    for size in (3, 1, 2, 5):
        crew.size, parts = size, Parts()
        crew.share(10, WORTHWHILE, parts)
        assert sorted(parts.done) == list(range(10))


def test_an_error_in_another_thread_reaches_the_caller() -> None:
    """And the crew works on."""
    crew = Crew(3)

    def fail(part: slice) -> None:
        if part.start:
            raise ValueError(f"part {part.start}")

    with pytest.raises(ValueError, match="part"):
        crew.share(3, WORTHWHILE, fail)
    parts = Parts()
    crew.share(3, WORTHWHILE, parts)
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
        crew.share(2, WORTHWHILE, interrupted)
    crew.share(2, WORTHWHILE, lambda part: ended.append("new"))
    assert ended == ["old", "new", "new"]


def test_threads_end_with_their_crew() -> None:
    """Nobody has to close it."""
    crew = Crew(4)
    crew.share(4, WORTHWHILE, Parts())
    workers = [thread for thread in threading.enumerate() if thread.name == "decoding-crew"]
    assert len(workers) >= 3
    del crew
    gc.collect()
    deadline = time.monotonic() + 5
    while any(worker.is_alive() for worker in workers[-3:]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(worker.is_alive() for worker in workers[-3:])


def test_it_works_in_a_forked_process() -> None:
    """Threads do not survive a fork; new ones are hired."""
    program = (
        "import os\n"
        "from decoding.models.crew import LEAD, WORTHWHILE, Crew\n"
        "crew, done = Crew(2), []\n"
        "crew.share(2, WORTHWHILE, done.append)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    crew.share(2, WORTHWHILE, done.append)\n"
        "    os._exit(len(done))\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", program]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert run.stdout == "4\n"
