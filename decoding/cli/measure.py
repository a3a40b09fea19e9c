"""Measure sampling and decoding on this machine, for `decoding bench` and the scripts in benchmarks/.

A time is the minimum over many repeats, because whatever else runs on a machine can only add to it. Ratios are to
`numpy.max` of the same row: one pass over it, measured in the same run, without a compiler. The ratios of
docs/benchmarks.md are to a compiled pass, which `python -m benchmarks.sampler` builds; the works are the same.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decoding.cli.processor import processor
from decoding.errors import ParameterError
from decoding.llm import LLM
from decoding.models.native_call import aligned_bytes
from decoding.params import SamplingParams
from decoding.sampling.kernel import STREAM_VERSION, Call, Kernel, available_isas, forced_isa
from decoding.sampling.logits_input import matrix_of
from decoding.sampling.sampler import SamplingState
from decoding.version import __version__

NUM_DRAWS = 8
"""Rows per call: the same logits with different seeds, so that a time is not that of one lucky draw."""

NUM_ROWS = 8
"""Different rows of one shape: the tables show the median row, and the worst one where it matters."""

HISTORY, BIASES = 1_000, 300
MIN_VOCAB_SIZE = 2 * HISTORY
SECONDS = 0.02
STREAMS, TOKENS = (1, 16), 128


@dataclass(frozen=True, slots=True)
class Work:
    """Something to measure: sampling parameters, and the shape of the row that they meet ("peaked" or "flat")."""

    name: str
    row: str
    settings: Mapping[str, Any] = field(hash=False)
    has_edits: bool = False
    """True for 1,000 tokens of history and 300 biases in addition."""

    @property
    def title(self) -> str:
        """Name and row, as the tables show them."""
        return f"{self.name}, {self.row}"


_TEMPERATURE: dict[str, Any] = {"temperature": 0.8}
_TOP_P = {**_TEMPERATURE, "top_p": 0.95}
_FILTERS = {**_TOP_P, "top_k": 50, "min_p": 0.05}
_EVERYTHING = {
    **_TOP_P,
    "top_k": 50,
    "repetition_penalty": 1.1,
    "frequency_penalty": 0.2,
    "presence_penalty": 0.1,
    "context_frequency_penalty": 0.05,
    "logprobs": 5,
}

WORKS = (
    Work("greedy", "peaked", {"temperature": 0.0}),
    Work("top_k + top_p + min_p", "peaked", _FILTERS),
    Work("top_k + top_p + min_p", "flat", _FILTERS),
    Work("temperature", "peaked", _TEMPERATURE),
    Work("temperature", "flat", _TEMPERATURE),
    Work("top_p", "peaked", _TOP_P),
    Work("top_p", "flat", _TOP_P),
    Work("everything", "peaked", _EVERYTHING, has_edits=True),
    Work("everything", "flat", _EVERYTHING, has_edits=True),
)


def make_row(shape: str, vocab_size: int, key: int = 0) -> NDArray[np.float32]:
    """Return normal logits, float32 [vocab_size], aligned to 64 bytes: N(0, 4^2) is "peaked", N(0, 1) is "flat"."""
    scale = {"peaked": 4.0, "flat": 1.0}[shape]
    normal = np.random.Generator(np.random.Philox(key=key)).standard_normal(vocab_size)
    return aligned((normal * scale).astype(np.float32))


def aligned(array: NDArray[Any], offset: int = 0) -> NDArray[Any]:
    """Return a copy whose memory begins `offset` bytes after a 64-byte border: timings depend on it."""
    memory = aligned_bytes(offset + array.nbytes)[offset:]
    copy: NDArray[Any] = memory.view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def make_states(work: Work, vocab_size: int, num_states: int = NUM_DRAWS) -> list[SamplingState]:
    """Return states that differ in their seeds only."""
    settings, prompt, output = dict(work.settings), [], []
    if work.has_edits:
        ids = np.random.Generator(np.random.Philox(key=2)).permutation(vocab_size).tolist()
        prompt, output = ids[: HISTORY // 2], ids[HISTORY // 2 : HISTORY]
        settings["logit_bias"] = [(token_id, 0.5) for token_id in ids[-BIASES:]]
    states = [SamplingState(SamplingParams(**settings, seed=seed), prompt) for seed in range(num_states)]
    for state in states:
        for token_id in output:
            state.append(token_id)
    return states


def prepared(logits: NDArray[Any], states: Sequence[SamplingState], *, plain_search: bool = False) -> Call:
    """Return a prepared call of the kernel, which runs almost no Python."""
    vocab_size = logits.shape[1]
    kernel = Kernel(vocab_size, vocab_size, plain_search=plain_search)
    return kernel.prepare(matrix_of(logits, vocab_size), [state.kernel_row for state in states])


def repeated(row: NDArray[Any], num_rows: int = NUM_DRAWS) -> NDArray[Any]:
    """Return [num_rows, vocab] whose rows share the memory of one row, so that it stays in the processor's cache."""
    return np.broadcast_to(row, (num_rows, *row.shape))


def time_call(call: Callable[[], object], seconds: float = SECONDS, num_rows: int = 1) -> list[float]:
    """Return the microseconds per row of each call: at least two calls, after one that warms the caches."""
    call()
    elapsed: list[float] = []
    end = time.perf_counter() + seconds
    while len(elapsed) < 2 or time.perf_counter() < end:
        start = time.perf_counter_ns()
        call()
        elapsed.append((time.perf_counter_ns() - start) / (1000 * num_rows))
    return elapsed


class Progress:
    """One line on stderr that says what is being measured; nothing where stderr is no terminal."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()

    def __call__(self, text: str = "") -> None:
        """Show this text in place of the last one."""
        if self._shown:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()


def machine() -> dict[str, Any]:
    """Return the facts of this machine that two tables can be compared by."""
    name, kind = processor()
    return {
        "cpu": name,
        "microarchitecture": kind,
        "cpus": os.cpu_count(),
        "instruction_sets": list(available_isas()),
        "system": f"{platform.system()} {platform.machine()}",
        "decoding": __version__,
        "stream_version": STREAM_VERSION,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def machine_lines(facts: Mapping[str, Any]) -> list[str]:
    """Return the facts of `machine()` as lines of text."""
    return [
        f"CPU     {facts['cpu']} ({facts['microarchitecture']}), {facts['cpus']} CPUs,"
        f" {' '.join(facts['instruction_sets'])}",
        f"with    decoding {facts['decoding']} (stream version {facts['stream_version']}), numpy {facts['numpy']},"
        f" Python {facts['python']}, {facts['system']}",
    ]


def sampler_times(vocab_size: int, seconds: float, progress: Callable[[str], None]) -> list[dict[str, Any]]:
    """Return microseconds per row, of every work on every instruction set; the first two entries are numpy's passes."""
    row = make_row("peaked", vocab_size)
    floor = entry("numpy.max", "numpy", [time_call(lambda: np.max(row), seconds)])
    argmax = entry("numpy.argmax", "numpy", [time_call(lambda: np.argmax(row), seconds)])
    return [
        floor,
        argmax,
        *(work_times(work, vocab_size, isa, seconds, progress) for isa in available_isas() for work in WORKS),
    ]


def work_times(
    work: Work, vocab_size: int, isa: str, seconds: float, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Return the times of one work on one instruction set, over NUM_ROWS rows."""
    progress(f"{isa}: {work.title}")
    states = make_states(work, vocab_size)
    with forced_isa(isa):
        calls = [prepared(repeated(make_row(work.row, vocab_size, key)), states) for key in range(NUM_ROWS)]
        return entry(work.title, isa, [time_call(call.sample, seconds, NUM_DRAWS) for call in calls])


def entry(work: str, engine: str, rows: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return one entry of a report, from the microseconds of the repeats of each row.

    us: minimum over repeats, of the median row; worst_row_us: of the worst row; median_us: median over all repeats.
    """
    best = [min(repeats) for repeats in rows]
    every = [us for repeats in rows for us in repeats]
    return {
        "work": work,
        "engine": engine,
        "us": statistics.median(best),
        "worst_row_us": max(best),
        "median_us": statistics.median(every),
    }


def decoding_speed(llm: LLM, num_streams: int, num_tokens: int, repeats: int = 3) -> float:
    """Return the generated tokens per second over all streams, the best of several runs."""
    params = SamplingParams(max_tokens=num_tokens, ignore_eos=True, temperature=0.8, top_p=0.95, seed=1)
    prompts = ["def "] * num_streams

    def run() -> float:
        start = time.perf_counter()
        results = llm.complete(prompts, params)
        return sum(result.usage.completion_tokens for result in results) / (time.perf_counter() - start)

    return max(run() for _ in range(repeats))


def report(vocab_size: int, seconds: float = SECONDS, num_tokens: int = TOKENS) -> dict[str, Any]:
    """Measure everything and return the object that `decoding bench --json` writes.

    vocab_size: logits of a row, at least 2,000. seconds: for each entry of the table. num_tokens: to decode in
    each stream.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        rule = f"must be at least {MIN_VOCAB_SIZE:,}: one of the works has {HISTORY:,} tokens of history"
        raise ParameterError.single("vocab", vocab_size, rule)
    progress = Progress()
    try:
        sampler = sampler_times(vocab_size, seconds, progress)
        progress("decoding")
        llm = LLM()
        speeds = {str(streams): decoding_speed(llm, streams, num_tokens) for streams in STREAMS}
    finally:
        progress()
    return {"machine": machine(), "vocab_size": vocab_size, "sampler": sampler, "tokens_per_second": speeds}


def table(found: Mapping[str, Any]) -> str:
    """Return the report as text."""
    floor, argmax, *works = found["sampler"]
    isas = found["machine"]["instruction_sets"]
    times = {(one["work"], one["engine"]): one["us"] for one in works}
    unit = floor["us"]
    lines = [
        *machine_lines(found["machine"]),
        f"rows    {found['vocab_size']:,} float32 logits, in cache, one thread; minimum over repeats, median of"
        f" {NUM_ROWS} rows",
        f"x       times numpy.max of the row ({unit:.1f} us); numpy.argmax takes {argmax['us'] / unit:.1f}x",
        "",
        f"{'us per row':<31}" + "".join(f"{isa:>20}" for isa in isas),
    ]
    for work in WORKS:
        cells = (times[work.title, isa] for isa in isas)
        lines.append(f"{work.title:<31}" + "".join(f"{us:>12.1f} {us / unit:>6.1f}x" for us in cells))
    speeds = ", ".join(f"{streams} at once: {speed:,.0f}" for streams, speed in found["tokens_per_second"].items())
    return "\n".join([*lines, "", f"tokens per second with the bundled model, completions {speeds}"])
