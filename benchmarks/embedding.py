"""Measure the cost of a host around the kernel: `python -m benchmarks.embedding`.

Covers logits from numpy and from torch (in place, and by DLPack as other libraries export them), states of long
prompts, and steps of many sequences with short rows, by single states and by BatchSampler. A time is the minimum over
several repeats: other load on the machine can only add to it. Ratios are of this run.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from decoding import BatchSampler, Sampler, SamplingParams, SamplingState
from decoding.cli.measure import machine, machine_lines
from decoding.sampling import dlpack
from decoding.sampling.logits_input import matrix_of

VOCAB_SIZE, PROMPT_SIZE, NUM_ROWS, SMALL_VOCAB_SIZE = 32_000, 100_000, 256, 64
NUM_STEPS = 20
REPEATS, MIN_SECONDS = 15, 0.004

PENALISED = SamplingParams(presence_penalty=0.5, repetition_penalty=1.1, seed=1)

Line = tuple[str, float, float]
"""What was measured, its time in seconds, and the time that it is a multiple of."""


def seconds(task: Callable[[], object]) -> float:
    """Return the time of one call: the minimum over repeats, each of as many calls as can be timed reliably."""
    task()
    begin = time.process_time()
    task()
    calls = max(1, int(MIN_SECONDS / max(time.process_time() - begin, 1e-9)))
    return min(_repeat(task, calls) for _ in range(REPEATS)) / calls


def _repeat(task: Callable[[], object], calls: int) -> float:
    begin = time.process_time()
    for _ in range(calls):
        task()
    return time.process_time() - begin


def logits_lines() -> Iterable[Line]:
    """Measure arrays over logits, as every call makes them; 1x is numpy's `asarray` of a memoryview."""
    matrix = np.zeros((1, VOCAB_SIZE), np.float32)
    one = seconds(lambda: matrix_of(memoryview(matrix), VOCAB_SIZE))
    yield "logits, a buffer", one, one
    yield "logits, numpy", seconds(lambda: matrix_of(matrix, VOCAB_SIZE)), one
    try:
        import torch
    except ImportError:
        return
    for dtype in (torch.float32, torch.bfloat16):
        tensor, name = torch.zeros(1, VOCAB_SIZE).to(dtype), str(dtype).removeprefix("torch.")
        yield f"logits, torch {name}", seconds(lambda tensor=tensor: matrix_of(tensor, VOCAB_SIZE)), one
        yield f"logits, {name} by DLPack", seconds(lambda tensor=tensor: dlpack.array_of(tensor)), one


def prompt_lines() -> Iterable[Line]:
    """Measure states with penalties after a long prompt; 1x is a copy of the prompt as a numpy array."""
    array = np.random.default_rng(0).integers(0, VOCAB_SIZE, PROMPT_SIZE)
    prompt = array.tolist()
    one = seconds(lambda: np.array(prompt))
    yield f"numpy.array of {PROMPT_SIZE:,} ids", one, one
    for name, given in (("list", prompt), ("int64 array", array), ("int32 array", array.astype(np.int32))):
        yield f"state, {name}", seconds(lambda given=given: SamplingState(PENALISED, given)), one
    state = SamplingState(PENALISED, prompt)
    yield "fork", seconds(lambda: state.fork(choice=1)), one


def step_lines() -> Iterable[Line]:
    """Measure steps of many sequences with short rows, where the host dominates; 1x is the step of single states."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((NUM_ROWS, SMALL_VOCAB_SIZE)).astype(np.float32)
    for title, params in (("greedy", SamplingParams(temperature=0.0)), ("penalties", PENALISED)):
        one = min(_seconds_by_states(params, logits) for _ in range(REPEATS))
        yield f"{NUM_ROWS} rows, {title}, Sampler", one, one
        yield (
            f"{NUM_ROWS} rows, {title}, BatchSampler",
            min(_seconds_by_batch(params, logits) for _ in range(REPEATS)),
            one,
        )


def _seconds_by_states(params: SamplingParams, logits: NDArray[np.float32]) -> float:
    sampler, states = Sampler(SMALL_VOCAB_SIZE), [SamplingState(params) for _ in range(NUM_ROWS)]
    sampler.sample(logits, states)
    return _repeat(lambda: sampler.sample(logits, states), NUM_STEPS) / NUM_STEPS


def _seconds_by_batch(params: SamplingParams, logits: NDArray[np.float32]) -> float:
    batch = BatchSampler(SMALL_VOCAB_SIZE)
    for _ in range(NUM_ROWS):
        batch.add(params)
    batch.step(logits)
    return _repeat(lambda: batch.step(logits), NUM_STEPS) / NUM_STEPS


def report() -> list[str]:
    """Return the table."""
    lines = [*machine_lines(machine()), f"{'us per call':42}{'time':>12}{'ratio':>9}"]
    for section in (logits_lines, prompt_lines, step_lines):
        for title, took, one in section():
            lines.append(f"{title:42}{took * 1e6:12.2f}{took / one:8.2f}x")
    return lines


def main() -> int:
    """Print the table."""
    print("\n".join(report()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
