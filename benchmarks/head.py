"""Sampling beside the matmul that makes its logits: `python -m benchmarks.head`.

If the head's matmul handed over block maxima, greedy sampling and top_k could leave out one read of the row. The table
compares that read with a read of the head's weights (q8_0: 34 bytes per 32), below which no matmul can come.
docs/adr/0013-port-counts.md draws the conclusion.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from benchmarks.floor import make_floor, reader
from decoding.cli.measure import WORKS, make_row, make_states, prepared, repeated, time_call
from decoding.sampling.kernel import active_isa

HEADS = {"SmolLM2-135M": (49_152, 576), "Qwen2.5-0.5B": (151_936, 896)}
"""Rows of the head (the vocabulary) and its columns."""

NUM_ROWS, SECONDS, THREADS = 8, 0.5, 2
BYTES_PER_WEIGHT = 34 / 32


def minimum(call: Callable[[], object], num_rows: int = 1) -> float:
    """Microseconds per row, the minimum over repeats."""
    return min(time_call(call, SECONDS, num_rows))


def line(name: str, vocab_size: int, width: int) -> str:
    """Measure one head."""
    rows, states = repeated(make_row("peaked", vocab_size), NUM_ROWS), make_states(WORKS[0], vocab_size, NUM_ROWS)
    weights = minimum(reader(int(vocab_size * width * BYTES_PER_WEIGHT), THREADS))
    greedy = minimum(prepared(rows, states).sample, NUM_ROWS)
    read = minimum(make_floor(active_isa()).max(rows), NUM_ROWS)
    return f"{f'{name}, {vocab_size:,} x {width}':30}{weights:10.0f}{greedy:10.1f}{read:10.1f}{read / weights:10.2%}"


def main() -> int:
    """Print a line for each head."""
    print(f"{'microseconds':30}{'weights':>10}{'greedy':>10}{'row read':>10}{'share':>10}")
    for name, shape in HEADS.items():
        print(line(name, *shape))
    return 0


if __name__ == "__main__":
    sys.exit(main())
