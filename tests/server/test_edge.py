"""The turnstile in front of the application admits a burst of requests in groups."""

from __future__ import annotations

import asyncio

import pytest

edge = pytest.importorskip("decoding.server.edge", reason="needs the extra `server`")


@pytest.mark.parametrize(("is_full", "per_turn"), [(False, 1), (True, 8)])
def test_the_turnstile_admits_one_request_per_turn(is_full: bool, per_turn: int) -> None:
    """The turnstile admits one request per turn of the event loop, eight if they are refused, in order of arrival."""

    async def burst() -> list[list[int]]:
        line, turns = edge._Turnstile(lambda: is_full), [[]]

        async def visitor(number: int) -> None:
            await line.enter()
            turns[-1].append(number)

        tasks = [asyncio.ensure_future(visitor(number)) for number in range(10)]
        while not all(task.done() for task in tasks):
            turns.append([])
            await asyncio.sleep(0)
        return [turn for turn in turns if turn]

    assert asyncio.run(burst()) == [list(range(10))[first : first + per_turn] for first in range(0, 10, per_turn)]


def test_cancelled_requests_do_not_block_the_turnstile() -> None:
    """Requests behind cancelled ones are admitted, and so is a request that finds the turnstile empty."""

    async def burst() -> list[int]:
        line, entered = edge._Turnstile(lambda: False), []

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
