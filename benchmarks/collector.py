"""What Python's garbage collector costs the server under 1,000 streams: `python -m benchmarks.collector`.

Three servers: with the collector as `decoding serve` sets it, with the objects of the start exempt alone, and as Python
has it. Figures are CPU time of the thread that collects, as all others wait for it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.server import STORIES, crowd
from decoding.cli.measure import machine, machine_lines

RUNS = 2


def _freeze() -> None:
    gc.collect()
    gc.freeze()


SETTINGS: dict[str, Callable[[], None] | None] = {
    "as the server sets it": None,
    "objects of the start exempt alone": _freeze,
    "Python's own": lambda: None,
}


def serve(kind: str, model: str, path: str) -> int:
    """Run `decoding serve` with a setting of the collector; write the seconds of its full collections to a file."""
    from decoding.cli import main
    from decoding.server import run

    if (setting := SETTINGS[kind]) is not None:
        run.spare_pauses = setting
    started, seconds = 0.0, []

    def note(phase: str, info: dict[str, int]) -> None:
        nonlocal started
        if phase == "start":
            started = time.thread_time()
        elif info["generation"] == 2:
            seconds.append(time.thread_time() - started)

    gc.callbacks.append(note)
    code = main(["serve", "--port=0", *([model] if model else [])])
    Path(path).write_text(json.dumps(seconds))
    return code


def measured(kind: str, model: str) -> tuple[list[float], float]:
    """Return the seconds of the full collections, and the slowest answer to /health in ms."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/seconds.json"
        command = [sys.executable, "-m", "benchmarks.collector", "--serve", kind, "--model", model, "--json", path]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            lines = iter(process.stderr.readline, "")
            port = next(int(found[1]) for line in lines if (found := re.search(r" on http://127\.0\.0\.1:(\d+)", line)))
            name = Path(model).name if model else "bundled"
            try:
                runs = [asyncio.run(crowd(port, name)) for _ in range(RUNS)]
            finally:
                process.terminate()
        return json.loads(Path(path).read_text()), max(run["health under 1,000 streams, slowest, ms"] for run in runs)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.collector", description=__doc__)
    parser.add_argument("--model", default=str(STORIES) if STORIES.is_dir() else "", help="folder of a checkpoint")
    parser.add_argument("--serve", choices=SETTINGS, help=argparse.SUPPRESS)
    parser.add_argument("--json", metavar="FILE", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        sys.exit(serve(options.serve, options.model, options.json))
    print("\n".join(machine_lines(machine())))
    for kind in SETTINGS:
        seconds, health = measured(kind, options.model)
        together, longest = 1e3 * sum(seconds), 1e3 * max(seconds, default=0.0)
        print(f"{kind:36} {len(seconds):3} collections, {together:6.0f} ms together, longest {longest:5.0f} ms")
        print(f"{'':36} health, slowest {health:.0f} ms")


if __name__ == "__main__":
    main()
