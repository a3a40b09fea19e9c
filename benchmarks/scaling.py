"""Batch inference over Ray Data with 1 and with 2 workers on this machine: tokens per second, and efficiency.

    bash tests/adapters/run --collect-only    # makes the environment
    .venv-adapters/bin/python -m benchmarks.scaling

Each worker is a process with one thread. The start is measured by a batch of one request per worker,
and taken off, because it does not grow with the work. The answers of all runs must have the same bytes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import ray

from decoding.adapters.ray.data import run_batch
from decoding.cli.measure import machine, machine_lines

WORKERS = (1, 2)


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
    with tempfile.TemporaryDirectory() as folder:
        start, whole, written = measured(Path(folder), options.requests, options.tokens, options.repeats)
    for number in WORKERS:
        work = whole[number] - start[number]
        one = whole[WORKERS[0]] - start[WORKERS[0]]
        rate = options.requests * options.tokens / work
        print(
            f"{number} worker{'s' if number > 1 else ' '}  start {start[number]:5.1f} s  work {work:6.1f} s"
            f"  {rate:8.0f} tok/s  efficiency {one / work / number:.2f}"
        )
    print(f"answers of all runs are {'equal' if written == 1 else 'DIFFERENT'}")


def measured(
    folder: Path, num_requests: int, num_tokens: int, repeats: int
) -> tuple[dict[int, float], dict[int, float], int]:
    """Return the least seconds to start, those of the whole batch, by workers; and the number of different outputs."""
    start, whole = dict.fromkeys(WORKERS, float("inf")), dict.fromkeys(WORKERS, float("inf"))
    outputs = set()
    for repeat in range(repeats):
        for number in WORKERS:
            target = folder / f"{repeat}-{number}"
            start[number] = min(start[number], seconds(target / "start", number, number, 1))
            whole[number] = min(whole[number], seconds(target / "whole", number, num_requests, num_tokens))
            files = (target / "whole").glob("*.jsonl")
            outputs.add(tuple(sorted(line for file in files for line in file.read_text().splitlines())))
    return start, whole, len(outputs)


def seconds(target: Path, num_workers: int, num_requests: int, num_tokens: int) -> float:
    """Run a batch; return how long it took."""
    target.parent.mkdir(exist_ok=True)
    source = target.with_suffix(".requests.jsonl")
    source.write_text("".join(line(number, num_tokens) for number in range(num_requests)))
    begin = time.perf_counter()
    run_batch(source, target, num_workers=num_workers, batch_size=max(1, min(32, num_requests // num_workers)))
    return time.perf_counter() - begin


def line(number: int, num_tokens: int) -> str:
    """Return a request as a line of a batch file."""
    body = {"model": "bundled", "prompt": f"Chapter {number}.", "max_tokens": num_tokens, "ignore_eos": True}
    return json.dumps({"custom_id": str(number), "method": "POST", "url": "/v1/completions", "body": body}) + "\n"


if __name__ == "__main__":
    main()
