"""Results have the same bits on every instruction set, in every batch, from every memory layout."""

import os
import runpy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given

from decoding.errors import InstructionSetError
from decoding.params import SamplingParams
from decoding.sampling.kernel import active_isa, available_isas, force_isa, forced_isa
from decoding.sampling.sampler import Sampler, SamplingState
from decoding.testing import sampling_problems

EVERY_SET = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "every_set.py")))
bits, vars_of = EVERY_SET.bits, EVERY_SET.vars_of


def sample(problem, logits=None):
    """Sample all rows in one call with commit=False and on_error="status"."""
    rows = problem.logits if logits is None else logits
    return problem.sampler.sample(rows, problem.states, commit=False, on_error="status")


@given(sampling_problems(nonfinite=True, large=True))
def test_instruction_sets_agree(problem):
    """Tokens, log-probabilities, ranks, top-N and probabilities are byte for byte equal on all instruction sets."""
    first, *others = (
        EVERY_SET.all_bits(problem.sampler, problem.logits, problem.states, isa) for isa in available_isas()
    )
    assert all(other == first for other in others)


@pytest.mark.parametrize("dtype", [np.float16, np.uint16])
@given(problem=sampling_problems(nonfinite=True))
def test_instruction_sets_agree_on_half_precision(dtype, problem):
    """Rows of float16 and bfloat16 give equal bytes on all instruction sets."""
    with np.errstate(over="ignore"):
        half = problem.logits.astype(np.float16)
    logits = half if dtype is np.float16 else (problem.logits.view(np.uint32) >> 16).astype(np.uint16)
    results = []
    for isa in available_isas():
        with forced_isa(isa):
            results.append(bits(sample(problem, logits)))
    assert all(result == results[0] for result in results)


@given(sampling_problems(nonfinite=True, max_rows=6))
def test_a_row_does_not_depend_on_its_batch(problem):
    """A row in a heterogeneous batch has the bits that it has alone."""
    together = vars_of(sample(problem))
    for row, state in enumerate(problem.states):
        alone = vars_of(problem.sampler.sample(problem.logits[row], [state], commit=False, on_error="status"))
        for name in ("token_ids", "logprobs", "raw_logprobs", "ranks"):
            assert together[name][row].tobytes() == alone[name][0].tobytes(), name
        width = alone["top_token_ids"].shape[1]
        for name in ("top_token_ids", "top_logprobs"):
            assert together[name][row, :width].tobytes() == alone[name][0].tobytes(), name


@given(sampling_problems(nonfinite=True, max_rows=3))
def test_memory_layout_does_not_matter(problem):
    """Strided, reversed, unaligned and read-only rows give the same bits and are not changed."""
    expected = bits(sample(problem))
    for name, logits in layouts(problem.logits).items():
        before = logits.tobytes()
        assert bits(sample(problem, logits)) == expected, name
        assert logits.tobytes() == before, name


def layouts(logits):
    """Return the matrix in four memory layouts."""
    num_rows, vocab_size = logits.shape
    wide = np.full((2 * num_rows, vocab_size + 3), np.nan, np.float32)
    wide[::2, 1:-2] = logits
    backwards = logits[::-1].copy()[::-1]
    raw = np.zeros(logits.nbytes + 1, np.uint8)
    raw[1:] = np.frombuffer(logits.tobytes(), np.uint8)
    unaligned = np.ndarray(logits.shape, np.float32, buffer=raw.data, offset=1)
    read_only = logits.copy()
    read_only.flags.writeable = False
    strided = wide[::2, 1:-2]
    return {"strided": strided, "backwards": backwards, "unaligned": unaligned, "read-only": read_only}


def test_layouts_are_as_named():
    """The helper `layouts` makes four layouts of the same matrix."""
    logits = np.arange(6, dtype=np.float32).reshape(2, 3)
    made = layouts(logits)
    assert all(np.array_equal(matrix, logits) for matrix in made.values())
    assert not made["strided"].flags.c_contiguous
    assert made["backwards"].strides[0] < 0
    assert not made["unaligned"].flags.aligned
    assert not made["read-only"].flags.writeable


def test_reports_do_not_change_the_draw():
    """The drawn token does not depend on logprobs, n and best_of."""
    logits = np.random.default_rng(5).normal(0, 2, (1, 300)).astype(np.float32)
    drawn = set()
    final = {"logprobs": 3, "logprobs_mode": "final"}
    for report in ({}, {"logprobs": 0}, {"logprobs": 9}, final, {"best_of": 3}, {"n": 8}):
        asked = [SamplingParams(seed=seed, top_p=0.9, **report) for seed in range(64)]
        states = [SamplingState(params, host_parameters=True) for params in asked]
        drawn.add(Sampler(300).sample(np.repeat(logits, 64, axis=0), states).token_ids.tobytes())
    assert len(drawn) == 1


def test_threads_do_not_disturb_each_other():
    """A Sampler that eight threads use at once gives the bits of one thread."""
    logits = np.random.default_rng(6).normal(0, 2, (16, 5000)).astype(np.float32)
    sampler, params = Sampler(5000), SamplingParams(seed=3, top_p=0.9, repetition_penalty=1.2, logprobs=3)

    def run(stream):
        states = [SamplingState(params, [1, 2, 3], stream=stream, choice=row) for row in range(16)]
        return [bits(sampler.sample(logits, states)) for _ in range(4)]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, range(16))) == [run(stream) for stream in range(16)]


def test_unknown_and_absent_sets_are_errors():
    """Forcing an unavailable set is an error that lists the available sets; the active set stays."""
    before = active_isa()
    for name in ("sse9", "", "AVX2", "neon" if before != "neon" else "avx2"):
        with pytest.raises(InstructionSetError, match="portable"):
            force_isa(name)
    assert active_isa() == before


@pytest.mark.parametrize("name", [*available_isas(), "mmx"])
def test_the_environment_forces_a_set_at_import(name):
    """DECODING_ISA selects the instruction set at import; an unknown set stops the import."""
    program = "from decoding.sampling.kernel import active_isa; print(active_isa())"
    environment = os.environ | {"DECODING_ISA": name}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if name in available_isas():
        assert done.stdout.strip() == name
    else:
        assert "InstructionSetError: DECODING_ISA='mmx'" in done.stderr
        assert done.returncode != 0
