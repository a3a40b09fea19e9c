"""The order of the pipeline, as data."""

import dataclasses

from decoding.params import SamplingParams
from decoding.reference.sample import APPLY, SNAPSHOT_OF_MODE
from decoding.stages import CUT_LOG2, GREEDY_TEMPERATURE, PIPELINE, STAGE_NAMES
from decoding.types import LOGPROBS_MODES


def test_the_order_of_the_stages():
    """The order is the contract: moving a stage must fail a test."""
    assert [stage.name for stage in PIPELINE] == [
        "finite_check",
        "raw_snapshot",
        "repetition_penalty",
        "frequency_presence",
        "context_frequency_penalty",
        "logit_bias",
        "hard_masks",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "cut",
        "draw",
    ]


def test_numbers_ascend_and_names_are_unique():
    """Numbers are shared with C, and 6 is free for custom processors."""
    numbers = [stage.number for stage in PIPELINE]
    assert numbers == [0, 1, 2, 3, 4, 5, *range(7, 14)]
    assert len(STAGE_NAMES) == len(PIPELINE) == len({stage.name for stage in PIPELINE})


def test_parameters_of_the_stages_exist():
    """A stage names only fields of SamplingParams."""
    fields = {field.name for field in dataclasses.fields(SamplingParams)}
    assert {name for stage in PIPELINE for name in stage.parameters} <= fields


def test_the_reference_applies_exactly_these_stages():
    """`apply_<stage>` exists for every stage and for nothing else; modes of logprobs read rows that exist."""
    assert set(APPLY) == {stage.name for stage in PIPELINE}
    assert set(SNAPSHOT_OF_MODE) == set(LOGPROBS_MODES)
    assert set(SNAPSHOT_OF_MODE.values()) <= set(APPLY)


def test_the_two_constants():
    """Greedy below 2**-20, weights cut below 2**-40: both are part of the determinism contract."""
    assert (GREEDY_TEMPERATURE, CUT_LOG2) == (9.5367431640625e-07, -40)
