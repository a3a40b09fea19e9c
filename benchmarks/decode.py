"""Measure the forward pass and `LLM.complete` beside other engines: `python -m benchmarks.decode`.

Prints tokens per second of prefill and decoding with two threads, for Llama networks of three sizes with random
weights and for GGUF files (`--file`), by us and by transformers and llama.cpp if they are installed (llama-cpp-python
and gguf). llama.cpp converts the quantised networks, and both engines read the same file. Every engine runs in its own
process. Each job is run by all engines in turn, so that load on the machine affects all of them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import decode_tables
from benchmarks.cpu_counters import TICKS, CpuCounters, available_cpus
from benchmarks.engines import ENGINES
from benchmarks.shapes import CHECKPOINT_TYPES, FILE_TYPES, NETWORKS, write_checkpoint, write_gguf
from decoding.cli.measure import Progress, machine

BATCHES = (1, 8, 32)
PREFILL, CONTEXT = 512, 544
NEEDS = {"transformers": ("torch", "transformers"), "llama.cpp": ("llama_cpp", "gguf")}
SIZES, TYPES = ("15M", "110M", "500M"), ("float32", "bfloat16", "q8_0", "q4_0", "q4_1", "q4_k")


@dataclass(frozen=True, slots=True)
class Case:
    """A network with weights of one type. paths: the model file or folder of each engine that can run it."""

    network: str
    weight_type: str
    paths: Mapping[str, Path]


def random_case(size: str, weight_type: str, engines: Sequence[str], folder: Path) -> Case:
    """Write a network of this size, with random weights, in the formats that the engines read."""
    checkpoint = folder / size / "float32"
    write_checkpoint(checkpoint, NETWORKS[size])
    paths: dict[str, Path] = {}
    if weight_type in CHECKPOINT_TYPES:
        own = folder / size / weight_type
        write_checkpoint(own, NETWORKS[size], weight_type)
        paths = {engine: own for engine in engines if engine != "llama.cpp"}
    if "llama.cpp" in engines:
        gguf = write_gguf(checkpoint, weight_type)
        paths = {engine: gguf for engine in engines if engine != "transformers"} | paths
    return Case(size, weight_type, {engine: paths[engine] for engine in engines if engine in paths})


def file_case(path: Path, engines: Sequence[str]) -> Case:
    """Return the case of a GGUF file."""
    return Case(path.stem, "file", {engine: path for engine in engines if engine != "transformers"})


def jobs(seconds: float) -> dict[str, dict[str, Any]]:
    """Return the jobs, keyed by name."""
    decode = {f"decode {b}": {"phase": "decode", "batch": b, "seconds": seconds} for b in BATCHES}
    return {f"prefill {PREFILL}": {"phase": "prefill", "tokens": PREFILL, "seconds": seconds}, **decode}


class Worker:
    """An engine in its own process."""

    def __init__(self, engine: str, path: Path) -> None:
        self.engine = engine
        command = [sys.executable, "-m", "benchmarks.engines", engine, str(path), str(CONTEXT), str(max(BATCHES))]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.pid = self._process.pid
        self.version = self._answer()["version"]

    def rate(self, job: Mapping[str, Any]) -> float:
        """Return the tokens per second of a job."""
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
    """CPU time used by other programs; 0 if the system does not report it."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._pids = [worker.pid for worker in workers]
        self._counters = CpuCounters()
        self.begin()

    def begin(self) -> None:
        """Start a measurement."""
        self._begin = time.monotonic(), self._seconds()

    def taken(self) -> float:
        """Return the number of CPUs that other programs used since `begin`, on average."""
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


def measure(case: Case, workers: Sequence[Worker], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run every job by every engine, round by round. Return rates in tokens per second, and the CPUs used by others."""
    others, progress = Others(workers), Progress()
    found: dict[str, list[tuple[dict[str, float], float]]] = {}
    try:
        for number in range(-1, options.rounds):  # the first round warms up
            for name, job in jobs(options.seconds if number >= 0 else 0.0).items():
                progress(f"{case.network} {case.weight_type}, round {number + 1} of {options.rounds}: {name}")
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
            "network": case.network,
            "type": case.weight_type,
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
    """Return the engines that can run here, ours first."""
    return [name for name in ENGINES if all(importlib.util.find_spec(need) for need in NEEDS.get(name, ()))]


def cases(options: argparse.Namespace, engines: Sequence[str], folder: Path) -> Iterable[Case]:
    """Yield the cases of the command line; each model is written when its turn comes."""
    for size in options.size or ([] if options.file else SIZES):
        for weight_type in options.type or TYPES:
            yield random_case(size, weight_type, engines, folder)
    for file in options.file or []:
        yield file_case(Path(file), engines)


def report(found: Iterable[Case], options: argparse.Namespace) -> dict[str, Any]:
    """Measure all cases. Return the figures that --json writes and that the table shows."""
    figures, versions = [], dict[str, str]()
    for case in found:
        workers = []
        try:
            workers += [Worker(engine, path) for engine, path in case.paths.items()]
            figures += measure(case, workers, options)
        finally:
            for worker in workers:
                worker.close()
        versions |= {worker.engine: worker.version for worker in workers}
        print("\n".join(decode_tables.case_lines(figures[-len(jobs(0)) :])), flush=True)
    return {"machine": machine(), "engines": versions, "figures": figures}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    result = argparse.ArgumentParser(prog="python -m benchmarks.decode", description="The forward pass beside others.")
    result.add_argument("--size", choices=NETWORKS, action="append", help="only this network; may be repeated")
    result.add_argument(
        "--type", choices=FILE_TYPES, action="append", help="only this type of weights; may be repeated"
    )
    result.add_argument("--file", action="append", metavar="GGUF", help="a GGUF file, instead; may be repeated")
    result.add_argument("--engine", choices=ENGINES, action="append", help="only ours and this peer; may be repeated")
    result.add_argument("--rounds", type=int, default=5, metavar="N", help="times each figure is taken (default: 5)")
    result.add_argument("--seconds", type=float, default=0.5, metavar="S", help="how long each time (default: 0.5)")
    result.add_argument("--quiet", type=float, metavar="CPUS", help="repeat rounds in which others took more than this")
    result.add_argument("--folder", metavar="DIR", help="where to keep the networks (default: nowhere)")
    result.add_argument("--json", metavar="FILE", help="write all figures to a file, too")
    result.add_argument("--plot", metavar="FILE", help="draw all engines side by side (needs matplotlib)")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write the report."""
    options = parser().parse_args(arguments)
    engines = [name for name in installed() if name not in NEEDS or name in (options.engine or NEEDS)]
    print("\n".join(decode_tables.head()))
    with tempfile.TemporaryDirectory() as scratch:
        found = report(cases(options, engines, Path(options.folder or scratch)), options)
    print("\n".join(decode_tables.tail(found)))
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")
    if options.plot:
        decode_tables.plot(found, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
