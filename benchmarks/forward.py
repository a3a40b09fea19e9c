"""Measure the native forward pass without peers: `python -m benchmarks.forward [--networks 110M] [--threads 2]`.

Times one token of one sequence, a step of 32 sequences, and prefills, for Llama networks with random weights, and a
plain read of as many bytes as the weights have, which no step of one token can beat. The jobs of a network take turns,
so that load on the machine affects all of them. Of each short job, the fastest time counts. Of each prefill, the
average over the time that the longest prefill takes counts: the machine's fast moments favour no length.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.floor import reader
from benchmarks.shapes import NETWORKS, Network
from decoding.models.native_matrix import PackedMatrix, packed_size
from decoding.models.native_names import BLOCKS, WEIGHT_TYPES
from decoding.models.native_plan import (
    KV_BLOCK,
    Forward,
    KVPool,
    Plan,
    PlanLayer,
    PlanNorm,
    Step,
    ThreadPool,
    rotary_table,
)
from decoding.sampling.kernel import active_isa, forced_isa

SIZES = NETWORKS | {"135M": Network(576, 30, 9, 3, 1_536, 49_152)}
"""Those of the other benchmarks, and SmolLM2's, which is what people have as a GGUF file."""

CONTEXT = 64
"""Tokens in the cache when one more is computed."""

HUGE_PAGE = 1 << 21


class Arena:
    """Memory for all matrices of a network, side by side on huge pages, as a loaded model has it."""

    def __init__(self, num_bytes: int) -> None:
        memory = np.empty(num_bytes + HUGE_PAGE, np.uint8)
        self._free = memory[-memory.ctypes.data % HUGE_PAGE :]

    def take(self, size: int) -> NDArray[np.uint8]:
        """Return the next `size` bytes; the following ones begin at a multiple of 64."""
        taken, self._free = self._free[:size], self._free[size + -size % 64 :]
        return taken


def random_matrix(
    weight_type: str, num_outputs: int, num_inputs: int, generator: np.random.Generator, arena: Arena
) -> PackedMatrix:
    """Return weights of about the scale that trained weights have."""
    panels = arena.take(packed_size(weight_type, num_outputs, num_inputs))
    matrix = PackedMatrix(weight_type, num_outputs, num_inputs, panels=panels)
    if weight_type in BLOCKS:
        matrix.put(0, random_blocks(weight_type, num_outputs, num_inputs, generator))
        return matrix
    rows = generator.standard_normal((num_outputs, num_inputs), np.float32) * np.float32(0.02)
    if matrix.row_type == "bfloat16":
        rows = (rows.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    matrix.put(0, rows.astype(np.float16) if weight_type == "float16" else rows)
    return matrix


def random_blocks(
    weight_type: str, num_rows: int, num_inputs: int, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """Return rows of blocks of a quantised type: random integers, and one small scale for all."""
    size, num_bytes = BLOCKS[weight_type]
    blocks = generator.integers(0, 256, (num_rows, num_inputs // size, num_bytes), np.uint8)
    begin = num_bytes - 2 if weight_type == "q6_k" else 0
    num_scales = 2 if weight_type in ("q4_1", "q5_1", "q4_k", "q5_k") else 1
    blocks[:, :, begin : begin + 2 * num_scales] = np.full(num_scales, 1e-4, "<f2").view(np.uint8)
    return blocks.reshape(num_rows, -1)


class Engine:
    """A network with its cache and threads."""

    def __init__(self, network: Network, weight_type: str, threads: int, num_tokens: int) -> None:
        head_dim = network.hidden // network.heads
        self._vocab = network.vocab
        self._matrices: list[PackedMatrix] = []
        self._generator = np.random.default_rng(0)
        self._type = weight_type
        self._arena = Arena(8 * network.num_weights)  # more than any type takes; untouched memory costs nothing
        norm = PlanNorm("rms", np.ones(network.hidden, np.float32), 1e-5)
        qkv = network.hidden + 2 * network.kv_heads * head_dim
        layers = [
            PlanLayer(
                qkv=self._matrix(qkv, network.hidden),
                output=self._matrix(network.hidden, network.hidden),
                up=self._matrix(2 * network.inner, network.hidden),
                down=self._matrix(network.hidden, network.inner),
                scale=head_dim**-0.5,
                rope=0,
                attention_norm=norm,
                mlp_norm=norm,
            )
            for _ in range(network.layers)
        ]
        self.plan = Plan(
            vocab_size=network.vocab,
            hidden_size=network.hidden,
            intermediate_size=network.inner,
            num_heads=network.heads,
            num_kv_heads=network.kv_heads,
            head_dim=head_dim,
            activation="silu",
            gated=True,
            embedding=np.zeros((network.vocab, network.hidden), np.float32),
            embedding_type="float32",
            layers=layers,
            norm=norm,
            head=self._matrix(network.vocab, network.hidden),
            rope_pairs=(head_dim // 2,),
        )
        self.num_bytes = sum(matrix.panels.nbytes for matrix in self._matrices)
        self._forward = Forward(self.plan, ThreadPool(threads))
        blocks = max(-(-num_tokens // KV_BLOCK), 32 * (CONTEXT // KV_BLOCK + 1))
        self._cache = KVPool(self.plan, blocks)
        self._cache.memory[:] = 0
        frequencies = (10000.0 ** (-np.arange(head_dim // 2) / (head_dim // 2))).astype(np.float32)
        self._table = rotary_table(frequencies, 1.0, 0, num_tokens)

    def _matrix(self, num_outputs: int, num_inputs: int) -> PackedMatrix:
        self._matrices.append(random_matrix(self._type, num_outputs, num_inputs, self._generator, self._arena))
        return self._matrices[-1]

    def step(self, sequences: int, new: int, start: int) -> None:
        """Run one step of several sequences with `num_tokens` new tokens each, and one row of logits per sequence."""
        blocks = -(-(start + new) // KV_BLOCK)
        positions = np.tile(np.arange(start, start + new), sequences)
        rotary = (self._table.ctypes.data + positions * self._table.strides[0]).astype(np.uintp)
        step = Step(
            token_ids=(positions % self._vocab).astype(np.int32),
            num_new=np.full(sequences, new, np.int32),
            start=np.full(sequences, start, np.int32),
            block_tables=[np.arange(s * blocks, (s + 1) * blocks, dtype=np.int32) for s in range(sequences)],
            logits_tokens=np.arange(new - 1, sequences * new, new, dtype=np.int32),
            rotary=rotary,
        )
        self._forward(step, self._cache)

    def prefill(self, num_tokens: int, chunk: int = 512) -> None:
        """Prefill a prompt in chunks."""
        for start in range(0, num_tokens, chunk):
            self.step(1, min(chunk, num_tokens - start), start)


def fastest(
    jobs: dict[str, Callable[[], object]], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Return the fastest time of each job. Jobs take turns for `seconds` in total, at least three times each."""
    best = dict.fromkeys(jobs, float("inf"))
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < 3 or time.perf_counter() < end:
        rounds += 1
        for name, job in jobs.items():
            begin = clock()
            job()
            best[name] = min(best[name], clock() - begin)
    return best


def averages(jobs: dict[str, Callable[[], object]], clock: Callable[[], float], rounds: int = 2) -> dict[str, float]:
    """Return the average time of each job; they take turns, each for as long as one run of the slowest takes."""
    spent, counts = dict.fromkeys(jobs, 0.0), dict.fromkeys(jobs, 0)
    longest = 0.0
    for job in jobs.values():
        begin = time.perf_counter()
        job()
        longest = max(longest, time.perf_counter() - begin)
    for _ in range(rounds):
        for name, job in jobs.items():
            end = time.perf_counter() + longest
            while not counts[name] or time.perf_counter() < end:
                begin = clock()
                job()
                spent[name] += clock() - begin
                counts[name] += 1
    return {name: spent[name] / counts[name] for name in jobs}


@contextmanager
def busy_cores(count: int) -> Iterator[None]:
    """Keep other processes computing for as long as the context lasts."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def average(job: Callable[[], object], seconds: float) -> float:
    """Return the average time of a job that is repeated for `seconds`."""
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        job()
        count += 1
    return (time.perf_counter() - begin) / count


def report_busy(name: str, options: argparse.Namespace) -> None:
    """Print the average cost of busy processes to one stream, for each number of threads."""
    for threads in range(1, options.threads + 1):
        engine = Engine(NETWORKS[name], options.types[0], threads, 1024)

        def step(engine: Engine = engine) -> None:
            engine.step(1, 1, CONTEXT)

        alone = average(step, options.seconds)
        with busy_cores(options.busy):
            beside = average(step, options.seconds)
        print(
            f"{name} {options.types[0]}, {threads} threads, 1 token on average: {alone * 1e3:.2f} ms,"
            f" beside {options.busy} busy processes {beside * 1e3:.2f} ms ({beside / alone:.2f} times)"
        )


def report(name: str, options: argparse.Namespace) -> None:
    """Measure one network and print a table."""
    prefills = options.prefill
    for weight_type in options.types:
        engine = Engine(SIZES[name], weight_type, options.threads, max([*prefills, 1024]))
        read = reader(engine.num_bytes, options.threads)
        short: dict[str, Callable[[], object]] = {
            "read pass": read,
            "1 token": lambda e=engine: e.step(1, 1, CONTEXT),  # type: ignore[misc]
            "32 streams": lambda e=engine: e.step(32, 1, CONTEXT),  # type: ignore[misc]
        }
        long = {f"prefill {n}": (lambda n=n, e=engine: e.prefill(n)) for n in prefills}
        clock = time.process_time if options.cpu_time else time.perf_counter
        times = fastest(short, options.seconds, clock) | averages(long, clock)  # type: ignore[arg-type]
        floor = times["read pass"]
        print(f"{name} {weight_type}, {active_isa()}, {options.threads} threads, {engine.num_bytes / 1e6:.0f} MB")
        tokens: dict[str, Any] = {"1 token": 1, "32 streams": 32, **{f"prefill {n}": n for n in prefills}}
        print(f"  {'read pass':<14}{floor * 1e3:9.2f} ms {engine.num_bytes / floor / 1e9:8.1f} GB/s")
        for job, count in tokens.items():
            extra = f"{floor / times[job]:8.2f} of a read pass" if job == "1 token" else ""
            if job in long and count != prefills[0]:
                ratio = count / times[job] * times[f"prefill {prefills[0]}"] / prefills[0]
                extra = f"{ratio:8.2f} of the rate of {prefills[0]}"
            print(f"  {job:<14}{times[job] * 1e3:9.2f} ms {count / times[job]:8.0f} tokens/s{extra}")


def main() -> None:
    """Read the command line and print one table per network and type."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=["15M", "110M"], choices=list(SIZES))
    parser.add_argument(
        "--types",
        nargs="*",
        default=["float32", "bfloat16", "bfloat16_coded", "q8_0", "q4_0"],
        choices=list(WEIGHT_TYPES),
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prefill", nargs="*", type=int, default=[512, 8192])
    parser.add_argument("--seconds", type=float, default=5.0, help="per group of jobs")
    parser.add_argument("--cpu-time", action="store_true", help="of the process: for one thread on a busy machine")
    parser.add_argument("--isa", help="force an instruction set")
    parser.add_argument("--busy", type=int, default=0, help="measure one stream beside so many busy processes instead")
    options = parser.parse_args()
    with forced_isa(options.isa or active_isa()):
        for name in options.networks:
            (report_busy if options.busy else report)(name, options)


if __name__ == "__main__":
    main()
