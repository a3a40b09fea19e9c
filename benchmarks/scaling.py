"""Measure batch inference over Ray Data with 1 and with 2 workers on this machine: tokens per second, and efficiency.

    bash tests/adapters/run --collect-only    # makes the environment
    .venv-adapters/bin/python -m benchmarks.scaling

Each worker is a process with one thread. Working time lasts from the start of the first task to the end of the last.
The rest is the start of Ray's pipeline and of the workers, which does not grow with the work. The answers of all runs
must have the same bytes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray

from decoding.adapters.ray.data import Worker, answered, read_requests
from decoding.cli.measure import machine, machine_lines

WORKERS = (1, 2)


class Timed(Worker):
    """A worker that reports when its tasks began and ended."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the batch with answers and times."""
        begin = time.time()
        result = super().__call__(batch)
        count = len(result["answer"])
        return result | {"begin": np.full(count, begin), "end": np.full(count, time.time())}


class Measurement(NamedTuple):
    """Seconds of a run, and its answers."""

    start: float
    work: float
    answers: tuple[str, ...]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=512, help="requests of a batch (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens per request (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each (default: %(default)s)")
    options = parser.parse_args()
    ray.init(num_cpus=max(WORKERS), include_dashboard=False, logging_level="error", log_to_driver=False)
    print("\n".join(machine_lines(machine())))
    print(f"        Ray {ray.__version__}, {options.requests} requests of {options.tokens} tokens, bundled model")
    runs: dict[int, list[Measurement]] = {number: [] for number in WORKERS}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "requests.jsonl"
        source.write_text("".join(line(number, options.tokens) for number in range(options.requests)))
        for _ in range(options.repeats):
            for number in WORKERS:
                runs[number].append(measured(source, number))
    best = {number: min(runs[number], key=lambda run: run.work) for number in WORKERS}
    for number, run in best.items():
        rate, efficiency = options.requests * options.tokens / run.work, best[1].work / run.work / number
        print(
            f"{number} worker{'s' if number > 1 else ' '}  start {run.start:5.1f} s  work {run.work:6.1f} s"
            f"  {rate:8.0f} tok/s  efficiency {efficiency:.2f}"
        )
    outputs = {run.answers for each in runs.values() for run in each}
    print(f"answers of all runs are {'equal' if len(outputs) == 1 else 'DIFFERENT'}")


def measured(source: Path, num_workers: int) -> Measurement:
    """Answer all requests with this number of workers."""
    begin = time.time()
    dataset = answered(read_requests(source), num_workers=num_workers, batch_size=32, worker=Timed)
    rows = dataset.take_all()
    whole = time.time() - begin
    work = max(row["end"] for row in rows) - min(row["begin"] for row in rows)
    return Measurement(whole - work, work, tuple(sorted(row["answer"] for row in rows)))


def line(number: int, num_tokens: int) -> str:
    """Return a request as a line of a batch file."""
    body = {"model": "bundled", "prompt": f"Chapter {number}.", "max_tokens": num_tokens, "ignore_eos": True}
    return json.dumps({"custom_id": str(number), "method": "POST", "url": "/v1/completions", "body": body}) + "\n"


if __name__ == "__main__":
    main()
