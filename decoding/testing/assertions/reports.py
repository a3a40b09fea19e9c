"""Assertions about log-probabilities and the order of best_of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from decoding import reference
from decoding.params import SamplingParams
from decoding.sampling.sampler import SamplingState
from decoding.testing.assertions.reference import row_of, states_of
from decoding.types import LogprobsMode


def assert_logprobs(
    reported: Mapping[int, float],
    logits: Any,
    state: SamplingState | SamplingParams,
    *,
    mode: LogprobsMode = "raw",
    profile: str = "openai",
    tolerance: float = 1e-5,
) -> None:
    """Raise AssertionError if a reported log-probability differs from the reference's by more than `tolerance`.

    reported: {token id: natural log-probability}. logits: one row [vocab]. mode: docs/semantics.md, section 5.
    """
    row = np.asarray(logits, dtype=np.float32)
    (one_state,) = states_of(state, 1)
    expected = reference.logprobs(reference.sample_row(row_of(row, one_state, profile)), mode)
    for token_id, logprob in reported.items():
        exact = float(expected[token_id])
        allowed = tolerance * max(1.0, abs(exact)) if math.isfinite(exact) else 0.0
        if not (logprob == exact or abs(logprob - exact) <= allowed):
            raise AssertionError(f"reports {logprob} as {mode} logprob of token {token_id}, must be {exact}")


def assert_ranking(candidates: Sequence[Sequence[float]], returned: Sequence[int]) -> None:
    """Raise AssertionError unless `returned` are the best of the candidates, in the order of best_of.

    That order: the mean log-probability of all sampled tokens, the one that ended the sequence among them, highest
    first; ties go to the lower candidate.

    candidates: each candidate's raw log-probabilities, one per sampled token. returned: numbers of candidates, in the
    order in which they were returned.
    """
    means = [math.fsum(logprobs) / len(logprobs) if logprobs else 0.0 for logprobs in candidates]
    best = sorted(range(len(means)), key=lambda number: (-means[number], number))[: len(returned)]
    if list(returned) != best:
        shown = ", ".join(f"{number}: {mean:.6f}" for number, mean in enumerate(means))
        raise AssertionError(f"returns candidates {list(returned)}, must return {best}; their means are {shown}")
