"""Tools for testing samplers: Hypothesis strategies and the comparison with the float64 reference.

    from hypothesis import given, strategies as st
    from decoding.testing import assert_matches_reference, sampling_problems

    @given(sampling_problems())
    def test_my_sampler(problem):
        assert_matches_reference(problem.sampler, problem.logits, problem.states)

This package needs the `test` extra (`hypothesis`); `import decoding` never does.
"""

from decoding.testing.checks import assert_matches_reference, reference_row
from decoding.testing.invalid import INVALID_VALUES, invalid_sampling_params
from decoding.testing.strategies import (
    SamplingProblem,
    bitmasks,
    logits_batches,
    logits_rows,
    sampling_params,
    sampling_problems,
    sampling_states,
    token_ids,
    vocab_sizes,
)

__all__ = [
    "INVALID_VALUES",
    "SamplingProblem",
    "assert_matches_reference",
    "bitmasks",
    "invalid_sampling_params",
    "logits_batches",
    "logits_rows",
    "reference_row",
    "sampling_params",
    "sampling_problems",
    "sampling_states",
    "token_ids",
    "vocab_sizes",
]
