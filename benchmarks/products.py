"""Products with weights, whole and in blocks: `python -m benchmarks.products`.

Matrices of Llama networks of 15M, 110M and 500M weights, as many of a shape as make 100 MB, so that they come from
memory as in a forward pass. `whole` is numpy's product with [in, out]; `blocks` is what the models use where OpenBLAS
multiplies small matrices in place (decoding/models/products.py), by one thread and by as many as there are CPUs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from decoding.cli.measure import machine, machine_lines
from decoding.models.activations import Array
from decoding.models.blas import BlasThreads, available_cpus, multiplies_in_place
from decoding.models.crew import Crew
from decoding.models.products import block_width, multiply, num_rows

SHAPES = ((288, 864), (288, 288), (288, 1536), (768, 288), (768, 2304), (2048, 768), (4864, 896), (768, 32000))
TOKENS = (1, 2, 8, 32, 128)
BYTES = 100_000_000
SETTLED = 0.1  # seconds after which OpenBLAS's threads have ceased to wait in a loop for the next product


def seconds(calls: list[Callable[[], object]], rounds: int) -> float:
    """Time of one call: the median over rounds through all of them."""
    times = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        for call in calls:
            call()
        times.append((time.perf_counter() - begin) / len(calls))
    return statistics.median(times[1:])


def rates(num_inputs: int, num_outputs: int, tokens: int, rounds: int) -> list[float]:
    """Billions of operations a second: whole, in blocks by one thread, in blocks by all."""
    rng = np.random.default_rng(7)
    width = block_width(num_inputs, num_outputs)
    count = max(1, BYTES // (4 * num_inputs * num_outputs))
    weights: Array = rng.standard_normal((count, num_outputs // width, num_inputs, width), np.float32)
    x: Array = rng.standard_normal((tokens, num_inputs), np.float32)
    out = np.empty((tokens, num_outputs), np.float32)
    in_blocks = np.empty((num_rows(tokens, weights[0]), num_outputs), np.float32)
    whole = weights.reshape(count, num_inputs, num_outputs)  # the same memory: what the numbers are does not matter
    alone, together = Crew(1), Crew(len(available_cpus()) or 1)
    found = [seconds([lambda w=w: np.matmul(x, w, out=out) for w in whole], rounds)]
    time.sleep(SETTLED)
    with BlasThreads().adjusted(0):  # one thread for OpenBLAS
        for crew in (alone, together):
            found.append(seconds([lambda w=w, c=crew: multiply(x, w, in_blocks, c) for w in weights], rounds))
    return [2e-9 * tokens * num_inputs * num_outputs / one for one in found]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="passes through 100 MB; the median counts")
    rounds = parser.parse_args().rounds
    if not multiplies_in_place():
        raise SystemExit("this numpy has no OpenBLAS with kernels for small matrices: weights are whole matrices here")
    print(*machine_lines(machine()), sep="\n")
    print("\nGFLOP/s; ratio to numpy's product of the whole matrix, with all threads")
    print(f"{'in x out':>12} {'tokens':>6} {'whole':>8} {'blocks, one thread':>20} {'blocks, all':>16}")
    for num_inputs, num_outputs in SHAPES:
        for tokens in TOKENS:
            whole, *blocks = rates(num_inputs, num_outputs, tokens, rounds)
            one, all_ = (f"{rate:.1f} {rate / whole:.2f}x" for rate in blocks)
            print(f"{f'{num_inputs} x {num_outputs}':>12} {tokens:6} {whole:8.1f} {one:>20} {all_:>16}", flush=True)


if __name__ == "__main__":
    main()
