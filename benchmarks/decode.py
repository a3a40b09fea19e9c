"""The forward pass beside others: `python -m benchmarks.decode`.

Prefill and decoding in tokens per second, for Llama networks of three sizes with random weights, by us and by what is
installed of transformers and llama.cpp (llama-cpp-python and gguf); all in float32 with two threads. Every engine has
a process of its own, and each job goes round among the engines, so that a busy machine is busy for all of them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import decode_tables
from benchmarks.cpu_counters import TICKS, CpuCounters, available_cpus
from benchmarks.engines import ENGINES
from benchmarks.shapes import NETWORKS, write_checkpoint
from decoding.cli.measure import Progress, machine

BATCHES = (1, 8, 32)
PREFILL, CONTEXT = 128, 256
NEEDS = {"transformers": ("torch", "transformers"), "llama.cpp": ("llama_cpp", "gguf")}


def jobs(seconds: float) -> dict[str, dict[str, Any]]:
    """What is measured, by name."""
    decode = {f"decode {b}": {"phase": "decode", "batch": b, "seconds": seconds} for b in BATCHES}
    return {"prefill": {"phase": "prefill", "tokens": PREFILL, "seconds": seconds}, **decode}


class Worker:
    """An engine in its own process."""

    def __init__(self, engine: str, folder: Path) -> None:
        self.engine = engine
        command = [sys.executable, "-m", "benchmarks.engines", engine, str(folder), str(CONTEXT), str(max(BATCHES))]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.pid = self._process.pid
        self.version = self._answer()["version"]

    def rate(self, job: Mapping[str, Any]) -> float:
        """Tokens per second of a job."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return float(self._answer()["rate"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.engine} ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


class Others:
    """How many CPUs other people's programs take; 0 where nobody knows."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._pids = [worker.pid for worker in workers]
        self._counters = CpuCounters()
        self.begin()

    def begin(self) -> None:
        """From now on."""
        self._begin = time.monotonic(), self._seconds()

    def taken(self) -> float:
        """CPUs, on average since `begin`."""
        return (self._seconds() - self._begin[1]) / (time.monotonic() - self._begin[0])

    def _seconds(self) -> float:
        own = time.process_time()
        for pid in self._pids:
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            own += (int(fields[11]) + int(fields[12])) / TICKS  # in programs and in the kernel
        return self._counters.busy_seconds(available_cpus()) - own


def measure(size: str, workers: Sequence[Worker], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every job by every engine, round by round: rates in tokens per second, and how busy others were meanwhile."""
    others, progress = Others(workers), Progress()
    found: dict[str, list[tuple[dict[str, float], float]]] = {}
    try:
        for number in range(-1, options.rounds):  # the first round warms up
            for name, job in jobs(options.seconds if number >= 0 else 0.0).items():
                progress(f"{size}, round {number + 1} of {options.rounds}: {name}")
                first = number % len(workers)
                rates, taken = _one_round(job, [*workers[first:], *workers[:first]], others)
                while number >= 0 and options.quiet is not None and taken > options.quiet:
                    rates, taken = _one_round(job, workers, others)
                if number >= 0:
                    found.setdefault(name, []).append((rates, taken))
    finally:
        progress()
    return [
        {
            "network": size,
            "job": name,
            "rates": {worker.engine: [rates[worker.engine] for rates, _ in rounds] for worker in workers},
            "others": [taken for _, taken in rounds],
        }
        for name, rounds in found.items()
    ]


def _one_round(job: Mapping[str, Any], workers: Sequence[Worker], others: Others) -> tuple[dict[str, float], float]:
    others.begin()
    return {worker.engine: worker.rate(job) for worker in workers}, others.taken()


def installed() -> list[str]:
    """Engines that can run here; ours first."""
    return [name for name in ENGINES if all(importlib.util.find_spec(need) for need in NEEDS.get(name, ()))]


def report(sizes: Sequence[str], engines: Sequence[str], folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything: what --json writes and the table is made of."""
    figures, versions = [], {}
    for size in sizes:
        write_checkpoint(folder / size, NETWORKS[size])
        workers = [Worker(engine, folder / size) for engine in engines]
        try:
            figures += measure(size, workers, options)
        finally:
            for worker in workers:
                worker.close()
        versions = {worker.engine: worker.version for worker in workers}
    return {"machine": machine(), "engines": versions, "figures": figures}


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = argparse.ArgumentParser(prog="python -m benchmarks.decode", description="The forward pass beside others.")
    result.add_argument("--size", choices=NETWORKS, action="append", help="only this network; may be repeated")
    result.add_argument("--engine", choices=ENGINES, action="append", help="only ours and this one; may be repeated")
    result.add_argument("--rounds", type=int, default=7, metavar="N", help="times each figure is taken (default: 7)")
    result.add_argument("--seconds", type=float, default=0.5, metavar="S", help="how long each time (default: 0.5)")
    result.add_argument("--quiet", type=float, metavar="CPUS", help="repeat rounds in which others took more than this")
    result.add_argument("--folder", metavar="DIR", help="where to keep the networks (default: nowhere)")
    result.add_argument("--json", metavar="FILE", help="write all figures to a file, too")
    result.add_argument("--plot", metavar="FILE", help="draw all engines side by side (needs matplotlib)")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    options = parser().parse_args(arguments)
    engines = [name for name in installed() if name == "decoding" or name in (options.engine or ENGINES)]
    with tempfile.TemporaryDirectory() as scratch:
        found = report(options.size or list(NETWORKS), engines, Path(options.folder or scratch), options)
    print("\n".join(decode_tables.lines(found)))
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")
    if options.plot:
        decode_tables.plot(found, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
