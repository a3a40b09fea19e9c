"""Tools for testing samplers and servers, ours and others.

    from hypothesis import given
    from decoding.testing import assert_matches_reference, sampling_problems

    @given(sampling_problems())
    def test_our_sampler(problem):
        assert_matches_reference(problem.sampler, problem.logits, problem.states)

* decoding.testing.strategies: inputs of samplers and servers, for Hypothesis (in the extra `testing`);
* decoding.testing.assertions: oracles, as assertions;
* decoding.testing.probes: `find_faults`, a battery for one sampler;
* decoding.conformance: the kit for servers, `decoding conformance` on the command line;
* decoding.testing.scripted: a mock model.

docs/testing.md is the tutorial.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from decoding.testing.assertions import (
        History,
        assert_distribution,
        assert_independent,
        assert_logprobs,
        assert_matches_reference,
        assert_ranking,
        assert_sequences,
        reference_row,
        sequence_distribution,
        text_distribution,
    )
    from decoding.testing.probes import Fault, find_faults
    from decoding.testing.strategies import (
        INVALID_VALUES,
        Arrival,
        InvalidParams,
        SamplingProblem,
        bitmasks,
        chunkings,
        invalid_sampling_params,
        logits_batches,
        logits_rows,
        request_mixes,
        sampling_params,
        sampling_problems,
        sampling_states,
        stop_sets,
        texts,
        token_ids,
        tokenizations,
        vocab_sizes,
        vocabularies,
    )

_HOMES = {
    "assertions": (
        *("History", "assert_distribution", "assert_independent", "assert_logprobs", "assert_matches_reference"),
        *("assert_ranking", "assert_sequences", "reference_row", "sequence_distribution", "text_distribution"),
    ),
    "probes": ("Fault", "find_faults"),
    "strategies": (
        *("INVALID_VALUES", "Arrival", "InvalidParams", "SamplingProblem", "bitmasks", "chunkings"),
        *("invalid_sampling_params", "logits_batches", "logits_rows", "request_mixes", "sampling_params"),
        *("sampling_problems", "sampling_states", "stop_sets", "texts", "token_ids", "tokenizations", "vocab_sizes"),
        "vocabularies",
    ),
}

__all__ = [
    "INVALID_VALUES",
    "Arrival",
    "Fault",
    "History",
    "InvalidParams",
    "SamplingProblem",
    "assert_distribution",
    "assert_independent",
    "assert_logprobs",
    "assert_matches_reference",
    "assert_ranking",
    "assert_sequences",
    "bitmasks",
    "chunkings",
    "find_faults",
    "invalid_sampling_params",
    "logits_batches",
    "logits_rows",
    "reference_row",
    "request_mixes",
    "sampling_params",
    "sampling_problems",
    "sampling_states",
    "sequence_distribution",
    "stop_sets",
    "text_distribution",
    "texts",
    "token_ids",
    "tokenizations",
    "vocab_sizes",
    "vocabularies",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that names that do not need Hypothesis work without it."""
    for home, names in _HOMES.items():
        if name in names:
            value: object = getattr(import_module(f"decoding.testing.{home}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'decoding.testing' has no attribute {name!r}")
