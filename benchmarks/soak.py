"""Soak the server with mixed requests and record the resources of its process.

`python -m benchmarks.server --soak 3600 --json soak.json --plot soak.svg`. All figures come from /proc.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.server_client import answer, stream

CLIENTS = 24
WARM_UP = 0.25
"""Share of the time after which memory should stay what it is: caches have filled by then."""
SAMPLES = 120

Client = Callable[[int, str, random.Random], Awaitable[bool]]
"""(port, model, random numbers) -> whether the answer was what it must be."""


def words(chance: random.Random, num_words: int) -> str:
    """Return random text, so that caches of words do not help."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return " ".join("".join(chance.choices(letters, k=chance.randint(1, 9))) for _ in range(num_words))


def body(name: str, chance: random.Random, **fields: Any) -> dict[str, Any]:
    """Return the body of a completion of a few tokens."""
    return {"model": name, "prompt": words(chance, 5), "max_tokens": chance.randint(1, 40), "seed": 1, **fields}


async def _streamed(port: int, name: str, chance: random.Random) -> bool:
    got = await stream(port, body(name, chance, ignore_eos=True, stop=[words(chance, 3)]))
    return got.status == 200 and got.is_whole


async def _cut_off(port: int, name: str, chance: random.Random) -> bool:
    work = stream(port, body(name, chance, n=chance.choice((1, 8, 128)), max_tokens=400, ignore_eos=True))
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(work, chance.uniform(0.0, 0.2))
    return True


async def _whole(port: int, name: str, chance: random.Random) -> bool:
    fields = {"n": 3, "logprobs": 2, "echo": True, "prompt": [words(chance, 20), words(chance, 3)]}
    status, _, page = await answer(port, "POST", "/v1/completions", body(name, chance, **fields))
    return status == 200 and page.count(b'"finish_reason"') == 6


async def _with_texts(port: int, name: str, chance: random.Random) -> bool:
    texts = [words(chance, 1) for _ in range(100)]
    fields = {"bad_words": texts, "dry_sequence_breakers": texts, "dry_multiplier": 0.5}
    status, _, _ = await answer(port, "POST", "/v1/completions", body(name, chance, **fields))
    return status == 200


async def _refused(port: int, name: str, chance: random.Random) -> bool:
    fields = chance.choice(({"temperature": -1}, {"nonsense": 1}, {"prompt": words(chance, 3000)}, {"n": 10**9}))
    status, _, _ = await answer(port, "POST", "/v1/completions", body(name, chance, **fields))
    return status == 400


async def _tokenised(port: int, name: str, chance: random.Random) -> bool:
    text = words(chance, chance.choice((5, 50, 5000)))
    status, _, _ = await answer(port, "POST", "/tokenize", {"model": name, "prompt": text})
    return status == 200


CLIENTS_BY_KIND: dict[str, Client] = {
    "streamed": _streamed,
    "cut off": _cut_off,
    "whole": _whole,
    "with texts": _with_texts,
    "refused": _refused,
    "tokenised": _tokenised,
}


def held(pid: int) -> dict[str, float]:
    """Return a process's memory in MiB, and the numbers of its threads and open files."""
    found = re.findall(r"^(?:VmRSS|Threads):\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), flags=re.M)
    return {"rss": int(found[0]) / 1024, "threads": int(found[1]), "files": len(os.listdir(f"/proc/{pid}/fd"))}


def growth(samples: list[dict[str, float]]) -> float:
    """Return the growth after the warm-up in MiB per hour: the slope of the least-squares line through the samples."""
    end = samples[-1]["seconds"]
    late = [one for one in samples if one["seconds"] >= WARM_UP * end]
    if len(late) < 2:
        return float("nan")
    slope = np.polyfit([one["seconds"] for one in late], [one["rss"] for one in late], 1)[0]
    return float(3600 * slope)


async def soak(port: int, pid: int, name: str, seconds: float) -> dict[str, Any]:
    """Load the server. Return the samples, the number of requests of each kind, and the number of wrong answers."""
    start = time.monotonic()
    counts, bad = Counter[str](), Counter[str]()
    samples: list[dict[str, float]] = []

    async def client(number: int) -> None:
        chance = random.Random(number)
        while time.monotonic() < start + seconds:
            kind = chance.choice(list(CLIENTS_BY_KIND))
            try:
                is_right = await CLIENTS_BY_KIND[kind](port, name, chance)
            except (OSError, ValueError, IndexError):
                is_right = False
            counts[kind] += 1
            bad[kind] += not is_right

    async def sample() -> None:
        while True:
            now = {"seconds": time.monotonic() - start, **held(pid), "requests": counts.total(), "bad": bad.total()}
            samples.append(now)
            print(line(now), flush=True)
            await asyncio.sleep(max(1.0, seconds / SAMPLES))

    sampling = asyncio.ensure_future(sample())
    await asyncio.gather(*map(client, range(CLIENTS)))
    sampling.cancel()
    samples.append({"seconds": time.monotonic() - start, **held(pid), "requests": counts.total(), "bad": bad.total()})
    return {"samples": samples, "counts": dict(counts), "bad": dict(bad), "MiB per hour": growth(samples)}


def line(one: dict[str, float]) -> str:
    """Return a sample as a line of text."""
    kept = f"{one['rss']:.1f} MiB, {one['threads']:.0f} threads, {one['files']:.0f} files"
    return f"{one['seconds']:7.0f} s  {one['requests']:.0f} requests, {one['bad']:.0f} bad; {kept}"


def report(found: dict[str, Any]) -> str:
    """Return the summary of a soak: requests by kind, wrong answers, growth."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(found["counts"].items()))
    wrong = {kind: count for kind, count in found["bad"].items() if count}
    last, rate = line(found["samples"][-1]), found["MiB per hour"]
    return f"{last}\n{kinds}; bad: {wrong or 'none'}\n{rate:+.1f} MiB per hour after the first {WARM_UP:.0%}"


def plot(found: dict[str, Any], path: str) -> None:
    """Draw resident memory over time, and the number of requests (needs matplotlib)."""
    from matplotlib.figure import Figure

    minutes = [one["seconds"] / 60 for one in found["samples"]]
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(minutes, [one["rss"] for one in found["samples"]], color="tab:blue")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("minutes")
    axes.set_ylabel("resident memory, MiB", color="tab:blue")
    right = axes.twinx()
    right.plot(minutes, [one["requests"] for one in found["samples"]], color="tab:gray", linestyle=":")
    right.set_ylabel("requests", color="tab:gray")
    axes.set_title(f"{found['MiB per hour']:+.1f} MiB per hour after the first {WARM_UP:.0%}")
    figure.savefig(path)
