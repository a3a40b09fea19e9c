"""Measure the server's cost and limits: `python -m benchmarks.server`, about a minute.

`--held` measures how long large requests delay /health; `--soak 3600` loads the server for an hour.

The server runs in a process of its own with the model of --model (default: stories260K beside the checkout, else the
bundled one), the client here. CPU time is that of the server's process (/proc). The engine's own figures come from
benchmarks/server_engine.py with the same requests. --peer PORT MODEL measures another Completions server that runs
already, llama-cpp-python's for instance, by the same client.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks.server_client import Arrivals, health_answers, seconds_of, stream
from benchmarks.server_hold import held
from benchmarks.soak import plot, report, soak
from decoding.cli.measure import machine, machine_lines

STREAMS, TOKENS, ROUNDS = 32, 200, 5
MANY, MANY_TOKENS = 1000, 32
LARGE_PROMPTS, LARGE_N = 17, 60
SLOW_READERS, HALF_BODIES = 300, 50
FLOOD = 400
ALONE = 20
HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n"
STORIES = Path(__file__).resolve().parents[2] / "shared" / "models" / "stories260K"

BOUNDS = {
    "CPU a streamed token, us": 250.0,
    "first token, ms over the engine's": 10.0,
    "p99 gap / median gap": 1.5,
    "p99 gap / median gap, bundled model": 1.5,
    "errors of 1,000 streams": 0.0,
    "refusing n = 10^9, slowest, ms": 50.0,
    "health under 1,000 streams, slowest, ms": 100.0,
    "first token beside 1,020 candidates, slowest, ms": 250.0,
    "flood: slowest refusal, ms": 1000.0,
    "flood: recovery, ms": 2000.0,
    "300 slow readers, 50 half bodies: a request, ms": 3000.0,
}
"""What the project has set itself; what is measured must not be more."""
HEALTH_MS = 100.0
"""The bound of every answer to /health."""


@contextlib.contextmanager
def serving(model: str, *flags: str) -> Iterator[tuple[int, int]]:
    """A server; its port and process id."""
    command = [sys.executable, "-m", "decoding", "serve", "--port=0", *flags, *([model] if model else [])]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        lines = iter(process.stderr.readline, "")
        port = next(int(found[1]) for line in lines if (found := re.search(r" on http://127\.0\.0\.1:(\d+)", line)))
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()
        process.stderr.close()


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def request(name: str, seed: int, tokens: int) -> dict[str, Any]:
    """A request whose work is the same at the engine and at the server."""
    return {"model": name, "prompt": f"Once {seed}", "max_tokens": tokens, "seed": seed, "ignore_eos": True}


async def many(port: int, name: str, streams: int, tokens: int) -> list[Arrivals]:
    """So many streams at once."""
    return await asyncio.gather(*(stream(port, request(name, seed, tokens)) for seed in range(streams)))


def p99_over_median(values: Sequence[float]) -> float:
    """How far the slowest hundredth is from the middle."""
    return quantiles(values, n=100)[98] / median(values)


def machine_noise() -> float:
    """The same ratio of a fixed piece of work, 500 times: what it is where nothing but the machine varies."""
    times = []
    for _ in range(500):
        start = time.perf_counter()
        sum(range(150_000))
        times.append(time.perf_counter() - start)
    return p99_over_median(times)


async def steady(port: int, pid: int | None, name: str) -> dict[str, float]:
    """32 streams, round after round: CPU a token, gaps; and the first token of a stream alone."""
    alone = [await stream(port, request(name, seed, 2)) for seed in range(2 * ALONE)]
    cpu = cpu_seconds(pid) if pid else 0.0
    start = time.perf_counter()
    rounds = [await many(port, name, STREAMS, TOKENS) for _ in range(ROUNDS)]
    seconds = time.perf_counter() - start
    num_tokens = sum(len(one.times) for every in rounds for one in every)
    gaps = [[gap for one in every for gap in one.gaps] for every in rounds]
    return {
        "cpu": (cpu_seconds(pid) - cpu) / num_tokens if pid else float("nan"),
        "tokens/s": num_tokens / seconds,
        "p99": median(map(p99_over_median, gaps)),
        "first": median(one.times[0] for one in alone),
    }


async def crowd(port: int, name: str) -> dict[str, float]:
    """1,000 streams at once; another process asks for the server's health all the while, from before they come."""
    command = [sys.executable, "-m", "benchmarks.server_client", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as probe:
        assert probe.stdout is not None
        probe.stdout.readline()
        every = await many(port, name, MANY, MANY_TOKENS)
        probe.terminate()
        answers = health_answers(probe.stdout)
    health = [one.seconds for one in answers]
    bad = sum(one.status != 200 or not one.is_whole for one in every)
    return {
        "errors of 1,000 streams": bad,
        "1,000 streams, seconds": max(one.seconds for one in every),
        "health under 1,000 streams, slowest, ms": 1e3 * max(health),
        "  median under 1,000 streams": 1e3 * median(health),
        "  delay of another process under 1,000 streams": 1e3 * max(one.late for one in answers),
    }


async def flood(port: int, name: str) -> dict[str, float]:
    """Ten times what a small server takes, at once: who is refused hears it soon, who is not gets everything."""
    every = await many(port, name, FLOOD, 30)
    start = time.perf_counter()
    await stream(port, request(name, 0, 1))
    served = [one for one in every if one.status == 200]
    assert all(one.is_whole and len(one.times) == 30 for one in served)
    refused = [one.seconds for one in every if one.status == 429]
    return {
        "flood: served": len(served),
        "flood: refused": len(refused),
        "flood: slowest refusal, ms": 1e3 * max(refused, default=float("nan")),
        "flood: recovery, ms": 1e3 * (time.perf_counter() - start),
    }


async def beside_a_large_one(port: int, name: str) -> dict[str, float]:
    """The first token of a small request while one of 1,020 candidates runs, and while nothing else does."""
    alone = [await stream(port, request(name, seed, 2)) for seed in range(ALONE)]
    large = {**request(name, 0, 400), "prompt": [f"Once {i}" for i in range(LARGE_PROMPTS)], "n": LARGE_N}
    running = asyncio.ensure_future(stream(port, large))
    await asyncio.sleep(1)
    beside = [await stream(port, request(name, seed, 2)) for seed in range(ALONE)]
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    return {
        "first token beside 1,020 candidates, slowest, ms": 1e3 * max(one.times[0] for one in beside),
        "  median beside 1,020 candidates": 1e3 * median(one.times[0] for one in beside),
        "  median alone": 1e3 * median(one.times[0] for one in alone),
    }


async def siege(port: int, name: str) -> dict[str, float]:
    """300 readers that do not read and 50 bodies that do not end."""
    body = json.dumps({**request(name, 0, 400), "stream": True}).encode()
    head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    writers = []
    for number in range(SLOW_READERS + HALF_BODIES):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + head.encode() + (body if number < SLOW_READERS else body[:9]))
        writers.append(writer)
    _, seconds = await seconds_of(port, "POST", "/tokenize", {"model": name, "prompt": "a normal request"})
    for writer in writers:
        writer.transport.abort()
    return {"300 slow readers, 50 half bodies: a request, ms": 1e3 * seconds}


async def refusals(port: int, name: str) -> dict[str, float]:
    """N = 10^9, a hundred times."""
    body = {"model": name, "prompt": "a", "n": 10**9}
    every = [await seconds_of(port, "POST", "/v1/completions", body) for _ in range(100)]
    assert {status for status, _ in every} == {400}
    return {"refusing n = 10^9, slowest, ms": 1e3 * max(seconds for _, seconds in every)}


def measure(model: str) -> dict[str, float]:
    """Return all figures except those of --held."""
    name = Path(model).name if model else "bundled"
    command = [sys.executable, "-m", "benchmarks.server_engine", model, *map(str, (STREAMS, TOKENS, ROUNDS))]
    engine = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    with serving("") as (port, pid):
        bundled = asyncio.run(steady(port, pid, "bundled"))
    with serving(model) as (port, pid):
        found = asyncio.run(steady(port, pid, name))
        figures = {
            "CPU a streamed token, us": 1e6 * (found["cpu"] - engine["cpu"] / engine["tokens"]),
            "  the engine's own, us": 1e6 * engine["cpu"] / engine["tokens"],
            "tokens/s, 32 streams": found["tokens/s"],
            "first token, ms": 1e3 * found["first"],
            "first token, ms over the engine's": 1e3 * (found["first"] - engine["first"]),
            "  the engine's own, ms": 1e3 * engine["first"],
            "p99 gap / median gap": found["p99"],
            "  the engine's own": median(map(p99_over_median, engine["gaps"])),
            "  a fixed sum on this machine": machine_noise(),
            "p99 gap / median gap, bundled model": bundled["p99"],
            **asyncio.run(refusals(port, name)),
            **asyncio.run(crowd(port, name)),
            **asyncio.run(beside_a_large_one(port, name)),
            **asyncio.run(siege(port, name)),
        }
    with serving(model, "--max-num-seqs=8", "--max-waiting=32") as (port, _):
        figures |= asyncio.run(flood(port, name))
    return figures


def measure_held(model: str) -> dict[str, float]:
    """What holds the event loop, and nothing else."""
    with serving(model) as (port, _):
        return asyncio.run(held(port, Path(model).name if model else "bundled"))


def compared(figures: dict[str, float], peer: dict[str, float]) -> dict[str, float]:
    """The peer's figures, and ours as ratios to them."""
    first, rate = figures["first token, ms"], figures["tokens/s, 32 streams"]
    return {
        "peer: tokens/s, 32 streams": peer["tokens/s"],
        "  ours / peer's": rate / peer["tokens/s"],
        "peer: first token, ms": 1e3 * peer["first"],
        "  ours / peer's, less is better": first / (1e3 * peer["first"]),
        "peer: p99 gap / median gap": peer["p99"],
    }


def run_soak(model: str, seconds: float, plot_path: str | None) -> dict[str, Any]:
    """Load a server for so long; print what it holds, and draw it if a path is given."""
    with serving(model) as (port, pid):
        found = asyncio.run(soak(port, pid, Path(model).name if model else "bundled", seconds))
    print(report(found))
    if plot_path is not None:
        plot(found, plot_path)
    return found


def table(figures: dict[str, float]) -> str:
    """A line a figure, with its bound and whether it holds."""
    lines = []
    for name, value in figures.items():
        bound = BOUNDS.get(name, HEALTH_MS if name.startswith("health beside") else None)
        verdict = "" if bound is None else f"   <= {bound:g}   {'ok' if value <= bound else 'MISSED'}"
        lines.append(f"{name:62} {value:10.2f}{verdict}")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server", description=__doc__)
    parser.add_argument("--model", default=str(STORIES) if STORIES.is_dir() else "", help="folder of a checkpoint")
    parser.add_argument("--json", metavar="FILE", help="write all figures to a file, too")
    parser.add_argument("--peer", nargs=2, metavar=("PORT", "MODEL"), help="measure another server on this machine")
    parser.add_argument("--soak", type=float, metavar="SECONDS", help="mixed requests for so long, and nothing else")
    parser.add_argument("--held", action="store_true", help="how long large requests delay /health, and nothing else")
    parser.add_argument("--plot", metavar="FILE", help="draw the memory of the soak (needs matplotlib)")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print("\n".join(machine_lines(machine())))
    if options.soak:
        found = run_soak(options.model, options.soak, options.plot)
        write(found, options.json)
        return
    figures = measure_held(options.model) if options.held else measure(options.model)
    print(table(figures))
    if options.peer:
        port, name = options.peer
        beside = compared(figures, asyncio.run(steady(int(port), None, name)))
        print(table(beside))
        figures |= beside
    write(figures, options.json)


def write(found: dict[str, Any], path: str | None) -> None:
    """Write what was found as JSON, if a path is given."""
    if path is not None:
        Path(path).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
