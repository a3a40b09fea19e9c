"""Sampling against one pass over the row, and against others: `python -m benchmarks.sampler`.

docs/benchmarks.md says how to read the tables. The whole plan is worked off several times and the minimum of each
figure counts: other programs can only make a time longer, and rarely all of the times that lie minutes apart.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import tables
from benchmarks.floor import CompiledFloor, NumpyFloor, make_floor
from benchmarks.peers import installed_peers
from decoding import Sampler, SamplingParams, SamplingState
from decoding.cli.measure import (
    MIN_VOCAB_SIZE,
    NUM_DRAWS,
    NUM_ROWS,
    WORKS,
    Progress,
    Work,
    aligned,
    machine,
    make_row,
    make_states,
    prepared,
    repeated,
    time_call,
)
from decoding.sampling.kernel import available_isas, forced_isa, num_mask_words

VOCAB_SIZES = (32_000, 128_256, 151_936, 262_144)
MEMORY_ROWS, THREADS = 64, (1, 2)
SMALL_VOCAB = 1_024  # where Python's part of a call is most of it
FLOOR_REPEATS = 64

Call = Callable[[], object]
Floor = CompiledFloor | NumpyFloor


@dataclass(frozen=True, slots=True)
class Key:
    """What a figure is about."""

    section: str
    work: str
    engine: str
    vocab_size: int
    isa: str = ""
    dtype: str = "float32"
    num_rows: int = 1
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Job:
    """How a figure comes about: `make` gives a call for each row to try, `per_call` is what a call's time is over."""

    key: Key
    make: Callable[[], Sequence[Call]]
    per_call: int = 1


def floor_jobs(vocab_size: int, floor: Floor) -> Iterator[Job]:
    """One pass over a row in the cache, and numpy's own passes."""
    row = make_row("peaked", vocab_size)
    rows = repeated(row, FLOOR_REPEATS)
    yield Job(Key("floor", "max", "floor", vocab_size), lambda: [floor.max(rows)], FLOOR_REPEATS)
    yield Job(Key("floor", "exp-sum", "floor", vocab_size), lambda: [floor.exp_sum(rows)], FLOOR_REPEATS)
    yield Job(Key("floor", "max", "numpy", vocab_size), lambda: [lambda: np.max(row)])
    yield Job(Key("floor", "argmax", "numpy", vocab_size), lambda: [lambda: np.argmax(row)])


def work_jobs(vocab_size: int, isa: str, peers: Sequence[Any]) -> Iterator[Job]:
    """The works of the issue's table: the kernel, its Python face, its plain search, and the peers."""
    for work in WORKS:

        def key(engine: str, work: Work = work) -> Key:
            return Key("works", work.title, engine, vocab_size, isa)

        yield Job(key("kernel"), lambda work=work: kernel_calls(work, vocab_size), NUM_DRAWS)
        yield Job(key("python"), lambda work=work: python_calls(work, vocab_size), NUM_DRAWS)
        yield Job(key("plain"), lambda work=work: kernel_calls(work, vocab_size, num_draws=1, plain=True))
        row = make_row(work.row, vocab_size)
        for peer in peers:
            if (call := peer.prepare(work, row)) is not None:
                yield Job(key(peer.name), lambda call=call: [call])


def kernel_calls(
    work: Work, vocab_size: int, *, dtype: str = "float32", num_draws: int = NUM_DRAWS, plain: bool = False
) -> list[Call]:
    """The bare kernel, a call for each of several rows."""
    states = make_states(work, vocab_size, num_draws)
    rows = (aligned(as_dtype(make_row(work.row, vocab_size, key), dtype)) for key in range(NUM_ROWS))
    return [prepared(repeated(row, num_draws), states, plain_search=plain).sample for row in rows]


def python_calls(work: Work, vocab_size: int) -> list[Call]:
    """`Sampler.sample` on one row at a time, as a host without a batch calls it."""
    sampler, states = Sampler(vocab_size), make_states(work, vocab_size)
    rows = [make_row(work.row, vocab_size, key) for key in range(NUM_ROWS)]
    return [lambda row=row: [sampler.sample(row, [state], commit=False) for state in states] for row in rows]


def as_dtype(row: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """The row in another element type; bfloat16 as its bits, cut off."""
    return (row.view(np.uint32) >> 16).astype(np.uint16) if dtype == "bfloat16" else row.astype(dtype)


def isa_jobs(vocab_size: int, isas: Sequence[str]) -> Iterator[Job]:
    """Every instruction set and element type."""
    for isa in isas:
        for dtype in ("float32", "float16", "bfloat16"):
            for work in WORKS:
                key = Key("isas", work.title, "kernel", vocab_size, isa, dtype)
                yield Job(key, lambda work=work, dtype=dtype: kernel_calls(work, vocab_size, dtype=dtype), NUM_DRAWS)


ODD_ROWS: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "all equal": np.zeros_like,
    "ascending": np.sort,
    "bfloat16 ties": lambda row: (row.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32),
    "mask leaves 10": lambda row: row,
    "mask bans 10": lambda row: row,
    "4 bytes off": lambda row: row,
}
"""Rows that are not what a sampler hopes for, made from a flat one."""


def odd_jobs(vocab_size: int, isa: str) -> Iterator[Job]:
    """Each work (once, whatever its row) on the odd rows; `work` is "work, row"."""
    for work in {work.name: work for work in WORKS}.values():
        for name in ODD_ROWS:
            key = Key("odd", f"{work.name}, {name}", "kernel", vocab_size, isa)
            yield Job(key, lambda work=work, name=name: odd_calls(work, name, vocab_size), NUM_DRAWS)


def odd_calls(work: Work, name: str, vocab_size: int) -> list[Call]:
    """The bare kernel on rows of one odd kind."""
    states = make_states(work, vocab_size)
    if name.startswith("mask"):
        words = packed_mask(vocab_size, leaves_ten=name == "mask leaves 10")
        for state in states:
            state.bitmask = words
    offset = 4 if name == "4 bytes off" else 0
    rows = (aligned(ODD_ROWS[name](make_row("flat", vocab_size, key)), offset) for key in range(NUM_ROWS))
    return [prepared(repeated(row), states).sample for row in rows]


def packed_mask(vocab_size: int, *, leaves_ten: bool) -> NDArray[np.uint32]:
    """A grammar mask that allows ten tokens spread over the vocabulary, or all others."""
    bits = np.zeros(num_mask_words(vocab_size) * 32, np.uint8)
    bits[:vocab_size] = not leaves_ten
    bits[np.linspace(0, vocab_size - 1, 10).astype(int)] = leaves_ten
    return np.packbits(bits, bitorder="little").view(np.uint32)


def memory_jobs(vocab_size: int, isa: str, floor: Floor, num_rows: int) -> Iterator[Job]:
    """More rows than the caches hold, shared between threads; the floor does the same."""
    rows = aligned(np.stack([make_row("peaked", vocab_size, key) for key in range(num_rows)]))  # [rows, vocab]
    for threads in THREADS:

        def key(work: str, engine: str, threads: int = threads) -> Key:
            return Key("memory", work, engine, vocab_size, isa, num_rows=num_rows, threads=threads)

        parts = np.array_split(rows, threads)
        yield Job(key("max", "floor"), lambda p=parts: [in_threads([floor.max(part) for part in p])], num_rows)
        for work in (work for work in WORKS if work.row == "peaked" and work.name != "top_p"):
            yield Job(key(work.name, "kernel"), lambda w=work, p=parts: [batch_call(w, p, vocab_size)], num_rows)


def batch_call(work: Work, parts: Sequence[NDArray[np.float32]], vocab_size: int) -> Call:
    """A part of the rows for each thread, one kernel call a part."""
    return in_threads([prepared(part, make_states(work, vocab_size, len(part))).sample for part in parts])


def in_threads(calls: Sequence[Call]) -> Call:
    """All calls at once, the first on this thread; returns when all have."""
    if len(calls) == 1:
        return calls[0]
    pool = ThreadPoolExecutor(len(calls) - 1)

    def call() -> None:
        others = [pool.submit(other) for other in calls[1:]]
        calls[0]()
        for other in others:
            other.result()

    return call


def overhead_jobs(isa: str) -> Iterator[Job]:
    """A short row, where Python's part shows: `Sampler.sample` and the bare kernel, 1 and 64 rows."""
    sampler, row = Sampler(SMALL_VOCAB), make_row("peaked", SMALL_VOCAB)
    for num_rows in (1, 64):
        logits = np.repeat(row[None], num_rows, axis=0)  # [rows, vocab]
        states = [SamplingState(SamplingParams(temperature=0, seed=seed)) for seed in range(num_rows)]
        calls: dict[str, Call] = {
            "kernel": prepared(logits, states).sample,
            "python": lambda logits=logits, states=states: sampler.sample(logits, states, commit=False),
        }
        for engine, call in calls.items():
            yield Job(Key("overhead", "greedy", engine, SMALL_VOCAB, isa, num_rows=num_rows), lambda c=call: [c])


def plan(vocab_sizes: Sequence[int], isas: Sequence[str], floor: Floor, peers: Sequence[Any]) -> list[Job]:
    """Everything to measure. Details are looked at for one size: 151,936, or the largest asked for."""
    detail = 151_936 if 151_936 in vocab_sizes else max(vocab_sizes)
    jobs = [job for size in vocab_sizes for job in (*floor_jobs(size, floor), *work_jobs(size, isas[0], peers))]
    return [
        *jobs,
        *isa_jobs(detail, isas),
        *odd_jobs(detail, isas[0]),
        *memory_jobs(detail, isas[0], floor, MEMORY_ROWS),
        *overhead_jobs(isas[0]),
    ]


def measure(jobs: Sequence[Job], passes: int, seconds: float) -> list[dict[str, Any]]:
    """Work off the plan several times; a figure for each job.

    us: minimum over all repeats, of the median row; worst_row_us: of the worst row; median_us: over all repeats.
    """
    progress, samples = Progress(), {job.key: [] for job in jobs}
    try:
        for number in range(passes):
            for done, job in enumerate(jobs):
                progress(f"pass {number + 1} of {passes}, {done} of {len(jobs)}: {job.key.work}, {job.key.engine}")
                samples[job.key].append(times_of(job, seconds))
    finally:
        progress()
    return [{**asdict(key), **summary(found)} for key, found in samples.items()]


def times_of(job: Job, seconds: float) -> list[list[float]]:
    """Microseconds per row [rows tried][repeats], on the instruction set that the job names."""
    with forced_isa(job.key.isa or available_isas()[0]):
        return [time_call(call, seconds, job.per_call) for call in job.make()]


def summary(found: Sequence[Sequence[Sequence[float]]]) -> dict[str, float]:
    """`found` is [passes][rows tried][repeats]."""
    best = [min(us for repeats in passes for us in repeats) for passes in zip(*found, strict=True)]
    every = [us for one_pass in found for repeats in one_pass for us in repeats]
    return {"us": statistics.median(best), "worst_row_us": max(best), "median_us": statistics.median(every)}


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = argparse.ArgumentParser(prog="python -m benchmarks.sampler", description="Sampling, in passes over a row.")
    result.add_argument("--vocab", type=int, action="append", metavar="N", help="a vocabulary size; may be repeated")
    result.add_argument("--isa", choices=available_isas(), help="only this instruction set (default: all)")
    result.add_argument("--quick", action="store_true", help="151,936 logits only, one short pass")
    result.add_argument("--json", metavar="FILE", help="write all figures to a file, too")
    result.add_argument("--plot", metavar="FILE", help="draw the works beside the peers (needs matplotlib)")
    return result


def report(vocab_sizes: Sequence[int], isas: Sequence[str], passes: int, seconds: float) -> dict[str, Any]:
    """Measure everything: what --json writes and the tables are made of."""
    floor = make_floor(available_isas()[0])
    peers, notes = installed_peers()
    figures = measure(plan(vocab_sizes, isas, floor, peers), passes, seconds)
    versions = {peer.name: peer.version for peer in peers}
    return {"machine": machine(), "floor": floor.name, "peers": versions, "notes": notes, "figures": figures}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    command = parser()
    options = command.parse_args(arguments)
    sizes = options.vocab or ([151_936] if options.quick else VOCAB_SIZES)
    if min(sizes) < MIN_VOCAB_SIZE:
        command.error(f"--vocab must be at least {MIN_VOCAB_SIZE:,}: a work has 1,000 tokens of history")
    try:
        isas = [options.isa] if options.isa else available_isas()
        found = report(sorted(set(sizes)), isas, 1 if options.quick else 3, 0.005 if options.quick else 0.02)
    except KeyboardInterrupt:
        return 130
    print(tables.text(found))
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")
    if options.plot:
        tables.plot(found, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
