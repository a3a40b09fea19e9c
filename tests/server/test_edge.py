"""The line in front of the application: a burst is let in a few at a time."""

from __future__ import annotations

import asyncio

import pytest

edge = pytest.importorskip("decoding.server.edge", reason="needs the extra `server`")


def test_a_burst_is_let_in_a_few_at_a_time() -> None:
    """In the order of arrival, four in a turn of the loop, so that others have a turn in between."""

    async def burst() -> list[list[int]]:
        line, turns = edge._Turnstile(), [[]]

        async def visitor(number: int) -> None:
            await line.enter()
            turns[-1].append(number)

        tasks = [asyncio.ensure_future(visitor(number)) for number in range(10)]
        while not all(task.done() for task in tasks):
            turns.append([])
            await asyncio.sleep(0)
        return [turn for turn in turns if turn]

    assert asyncio.run(burst()) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_who_has_left_the_line_keeps_nobody_waiting() -> None:
    """Those behind a visitor that was cancelled come in, and so does whoever comes when the line was empty."""

    async def burst() -> list[int]:
        line, entered = edge._Turnstile(), []

        async def visitor(number: int) -> None:
            await line.enter()
            entered.append(number)

        tasks = [asyncio.ensure_future(visitor(number)) for number in range(9)]
        await asyncio.sleep(0)
        for task in tasks[1:7]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await visitor(9)
        return entered

    assert asyncio.run(burst()) == [0, 7, 8, 9]
