"""The fast search for the end of top_k and top_p finds the result of the plain search, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from decoding import Sampler, SamplingParams, SamplingState
from decoding.sampling.kernel import Kernel
from decoding.testing import assert_matches_reference

pytestmark = pytest.mark.usefixtures("isa")

VOCAB_SIZE = 40_000  # long enough for all code paths of top_k.c: 157 blocks, lists of more than four
TOP_P = [0.0, 1e-7, 0.1, 0.5, 0.9, 0.95, 0.999, 1 - 2**-24]


def quantised(row: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the row rounded down to the 8 significant bits of bfloat16, so that many values are ties."""
    return (row.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def few_likely(rng: np.random.Generator, num_likely: int, gap: float) -> NDArray[np.float32]:
    """Return a flat row with a few tokens far above it, which a sample of the row misses."""
    row = rng.standard_normal(VOCAB_SIZE, np.float32)
    row[rng.integers(0, VOCAB_SIZE, num_likely)] += np.float32(gap)
    return row


def unlike_its_sample(rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a row with regular peaks, so that an evenly spread sample may hit none or all of them."""
    row = rng.standard_normal(VOCAB_SIZE, np.float32)
    start, step = int(rng.integers(0, 700)), int(rng.integers(16, 700))
    row[start::step] += np.float32(4)
    return row


ROWS = {
    "flat": lambda rng: rng.standard_normal(VOCAB_SIZE, np.float32),
    "peaked": lambda rng: rng.standard_normal(VOCAB_SIZE, np.float32) * np.float32(4),
    "very peaked": lambda rng: rng.standard_normal(VOCAB_SIZE, np.float32) * np.float32(40),
    "almost flat": lambda rng: rng.standard_normal(VOCAB_SIZE, np.float32) * np.float32(1e-3),
    "equal": lambda rng: np.full(VOCAB_SIZE, rng.normal(), np.float32),
    "ascending": lambda rng: np.linspace(-5, 5, VOCAB_SIZE, dtype=np.float32),
    "descending": lambda rng: np.linspace(5, -5, VOCAB_SIZE, dtype=np.float32),
    "ties": lambda rng: quantised(rng.standard_normal(VOCAB_SIZE, np.float32)),
    "two values": lambda rng: rng.integers(0, 2, VOCAB_SIZE).astype(np.float32),
    "few likely": lambda rng: few_likely(rng, 12, 9.0),
    "hundreds likely": lambda rng: few_likely(rng, 400, 6.0),
    "unlike its sample": unlike_its_sample,
    "mostly banned": lambda rng: np.where(rng.random(VOCAB_SIZE) < 0.999, -np.inf, 0).astype(np.float32),
    "one allowed": lambda rng: np.where(np.arange(VOCAB_SIZE) == 12_345, 0, -np.inf).astype(np.float32),
}


def bits(sampler: Sampler, row: NDArray[np.float32], params: SamplingParams) -> tuple[bytes, ...]:
    """Return all results of a row as bytes."""
    state = SamplingState(params)
    output: Any = sampler.sample(row, [state], commit=False)
    arrays = (output.token_ids, output.logprobs, output.ranks, output.top_token_ids, output.top_logprobs)
    return (*(array.tobytes() for array in arrays), sampler.probabilities(row, [state]).tobytes())


@pytest.mark.parametrize("kind", ROWS)
@settings(max_examples=max(6, settings.default.max_examples // 10))
@given(st.data())
def test_fast_search_is_plain_search(kind: str, data: st.DataObject) -> None:
    """Fast search gives the tokens, log-probabilities, top-N and distribution of plain search, on all code paths."""
    row = ROWS[kind](np.random.Generator(np.random.Philox(key=data.draw(st.integers(0, 2**32)))))
    params = SamplingParams(
        seed=data.draw(st.integers(0, 2**32)),
        temperature=data.draw(st.sampled_from([0.3, 0.8, 1.0, 3.0])),
        top_p=data.draw(st.sampled_from(TOP_P)),
        top_k=data.draw(st.sampled_from([None, 1, 2, 50, 157, 158, 5000, VOCAB_SIZE - 1])),
        min_p=data.draw(st.sampled_from([0.0, 0.05])),
        logprobs=data.draw(st.sampled_from([0, 1, 5, 300])),
        logprobs_mode=data.draw(st.sampled_from(["raw", "final"])),
    )
    fast, plain = Sampler(VOCAB_SIZE), Sampler(VOCAB_SIZE)
    plain._kernel = Kernel(VOCAB_SIZE, VOCAB_SIZE, plain_search=True)
    assert bits(fast, row, params) == bits(plain, row, params)


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize(
    "settings_of",
    [{"top_p": 0.95}, {"top_p": 0.5, "min_p": 0.01}, {"top_k": 300}, {"top_k": 9000, "top_p": 0.5, "min_p": 1e-4}, {}],
)
def test_fast_search_matches_reference(kind: str, settings_of: dict[str, Any]) -> None:
    """Fast search gives the reference's results on the same rows."""
    row = ROWS[kind](np.random.Generator(np.random.Philox(key=11)))
    state = SamplingState(SamplingParams(seed=4, temperature=0.8, logprobs=3, **settings_of))
    assert_matches_reference(Sampler(VOCAB_SIZE), row[np.newaxis], [state])


@pytest.mark.parametrize("kind", ROWS)
def test_search_of_a_long_list(kind: str) -> None:
    """Top-p on the list that typical_p keeps gives the same bits by fast and by plain search."""
    row = ROWS[kind](np.random.Generator(np.random.Philox(key=12)))
    params = SamplingParams(seed=4, typical_p=0.97, top_p=0.6)
    fast, plain = (Sampler(VOCAB_SIZE, profile="llama_cpp") for _ in range(2))
    stages, rules = plain.profile.order, int(plain.profile.rules)
    plain._kernel = Kernel(VOCAB_SIZE, VOCAB_SIZE, plain_search=True, stages=stages, rules=rules)
    assert bits(fast, row, params) == bits(plain, row, params)
