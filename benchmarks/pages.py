"""What the cache's pages of 4 KiB cost the forward pass: `python -m benchmarks.pages`.

A decoding step of the 15M network with its keys and values in pages of 4 KiB (decoding/models/pages.py, docs/adr/0006)
and in an ordinary array, which numpy puts on pages of 2 MB where the system has them. Both take turns step by step, so
that whatever else the machine does hits both; the medians of the steps are compared.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.shapes import NETWORKS, write_checkpoint
from decoding.cli.measure import Progress, machine, machine_lines
from decoding.models import cache, load_model
from decoding.models.batch import ForwardBatch
from decoding.models.pages import Pages

CAPACITY = 512
SHAPES = ((1, 256, 400), (32, 128, 120), (32, 400, 100))
"""Sequences, tokens that each of them has, and steps."""


class Ordinary(Pages):
    """The same array, in memory as numpy takes it; this benchmark gives none of it back."""

    def __init__(self, *shape: int) -> None:
        self.array = np.zeros(shape, np.float32)


def filled(model: Any, kind: type[Pages], num_seqs: int, length: int) -> Any:
    """A cache with as many slots as an engine's, in which `num_seqs` sequences have `length` tokens."""
    found, cache.Pages = cache.Pages, kind  # type: ignore[misc]
    try:
        slots = model.new_cache(2 * num_seqs)
        slots.reserve(CAPACITY)
    finally:
        cache.Pages = found  # type: ignore[misc]
    for slot in range(num_seqs):
        model.forward(batch(slice(slot, slot + 1), 0, length), slots)
    return slots


def batch(slots: slice, start: int, num_new: int) -> ForwardBatch:
    """The next `num_new` tokens of some slots that have `start`."""
    rows = np.arange(slots.start, slots.stop)
    token_ids = np.full(num_new * len(rows), 7, np.int32)
    return ForwardBatch(token_ids, rows, np.full(len(rows), num_new), np.full(len(rows), start))


def medians(model: Any, num_seqs: int, length: int, num_steps: int) -> dict[str, float]:
    """Milliseconds of a step, by where keys and values lie."""
    caches = {"4 KiB": filled(model, Pages, num_seqs, length), "ordinary": filled(model, Ordinary, num_seqs, length)}
    times: dict[str, list[float]] = {name: [] for name in caches}
    for step in range(num_steps):
        new = batch(slice(0, num_seqs), length + step % (CAPACITY - length), 1)
        for name in sorted(caches, reverse=step % 2 == 1):
            start = time.perf_counter()
            model.forward(new, caches[name])
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(each) for name, each in times.items()}


def report(folder: Path, progress: Callable[[str], None]) -> list[str]:
    """A line for each shape."""
    write_checkpoint(folder, NETWORKS["15M"])
    model, lines = load_model(folder), []
    for num_seqs, length, num_steps in SHAPES:
        progress(f"{num_seqs} sequences of {length} tokens")
        found = medians(model, num_seqs, length, num_steps)
        lines.append(
            f"{num_seqs:3} sequences of {length} tokens: {found['4 KiB']:.2f} ms in pages of 4 KiB,"
            f" {found['ordinary']:.2f} ms in an ordinary array: {found['4 KiB'] / found['ordinary']:.3f} x"
        )
    return lines


def main() -> int:
    """Measure and print."""
    progress = Progress()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            lines = report(Path(scratch), progress)
    finally:
        progress()
    print("\n".join([*machine_lines(machine()), "", *lines]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
