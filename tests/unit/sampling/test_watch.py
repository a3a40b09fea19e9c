"""Watching a count: seen at once, given up in time, with the interpreter's lock left to others."""

from __future__ import annotations

import threading
import time

import pytest

from decoding.sampling.kernel.watch import Count

SECOND = 1_000_000_000


def test_what_is_there_is_seen_at_once() -> None:
    """However little time there is."""
    count = Count()
    assert count.watch(0, 0)
    for number in (1, 2, 3):
        count.increment()
        assert count.value == number
        assert count.watch(number, 0)
    assert count.watch(-5, 0)
    assert not count.watch(4, 0)


def test_patience_ends() -> None:
    """After the time that was said, or a bit more."""
    begin = time.perf_counter()
    assert not Count().watch(1, SECOND // 50)
    assert time.perf_counter() - begin >= 1 / 50


def test_a_delay_is_waited_for_if_the_target_was_reached() -> None:
    """And not otherwise."""
    count = Count()
    begin = time.perf_counter()
    assert count.watch(0, 0, delay=SECOND // 50)
    assert time.perf_counter() - begin >= 1 / 50
    begin = time.perf_counter()
    assert not count.watch(1, 0, delay=60 * SECOND)
    assert time.perf_counter() - begin < 30


@pytest.mark.parametrize("raising", [False, True])
def test_two_threads_take_turns(raising: bool) -> None:
    """Each raises its own count, before it watches or while it does, and sees the other's: nobody waits for ever."""
    ours, theirs = Count(), Count()

    def answer() -> None:
        for number in range(1, 101):
            assert ours.watch(number, 10 * SECOND)
            theirs.increment()

    thread = threading.Thread(target=answer)
    thread.start()
    for number in range(1, 101):
        if not raising:
            ours.increment()
        assert theirs.watch(number, 10 * SECOND, raising=ours if raising else None)
    thread.join()
    assert (ours.value, theirs.value) == (100, 100)
