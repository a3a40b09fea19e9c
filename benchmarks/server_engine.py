"""Measure the engine without a server, in a process of its own.

`python -m benchmarks.server_engine MODEL STREAMS TOKENS ROUNDS` prints one JSON object: CPU seconds and tokens of
STREAMS concurrent streams per round, the gaps between their deltas, and the time to the first token of a single
stream. The cost of the server is the difference to its own figures.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from itertools import pairwise
from statistics import median
from typing import Any

from decoding.async_engine import AsyncEngine
from decoding.llm import LLM
from decoding.params import SamplingParams

FIRST_TOKENS = 40


async def _arrivals(engine: AsyncEngine, prompt: str, params: SamplingParams) -> list[float]:
    start = time.perf_counter()
    handle = await engine.submit(prompt, params, stream=True)
    return [time.perf_counter() - start async for _ in handle]


async def _measure(model: str, streams: int, tokens: int, rounds: int) -> dict[str, Any]:
    engine = AsyncEngine(LLM(model or None, max_num_seqs=streams))
    alone = [await _arrivals(engine, f"Once {i}", _params(2, i)) for i in range(FIRST_TOKENS)]
    cpu, gaps = time.process_time(), []
    for _ in range(rounds):
        every = await asyncio.gather(*(_arrivals(engine, f"Once {i}", _params(tokens, i)) for i in range(streams)))
        gaps.append([after - before for one in every for before, after in pairwise(one)])
    cpu = time.process_time() - cpu
    await engine.close()
    num_tokens = rounds * streams * tokens
    return {"cpu": cpu, "tokens": num_tokens, "gaps": gaps, "first": median(one[0] for one in alone)}


def _params(tokens: int, seed: int) -> SamplingParams:
    return SamplingParams(max_tokens=tokens, seed=seed, ignore_eos=True)


if __name__ == "__main__":
    sys.setswitchinterval(0.001)  # as the server does
    print(json.dumps(asyncio.run(_measure(sys.argv[1], *map(int, sys.argv[2:])))))
