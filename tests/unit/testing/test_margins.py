"""Tests of margins: rounding may decide close comparisons only, whatever the row and the parameters."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoding.errors import LogitsError
from decoding.params import PARAMETERS, SamplingParams
from decoding.reference import Row, sample_row
from decoding.reference.weights import relative
from decoding.sampling.stages import PROFILES
from decoding.testing import logits_rows, margins, sampling_params, token_ids, vocab_sizes
from decoding.testing.margins import exponent_error, num_kept_range, row_that_keeps
from decoding.testing.probe_table import PROBES


def row_of(p, profile="openai", **params):
    """Run a row with these probabilities through the whole pipeline."""
    logits = np.log(p).astype(np.float32)
    return sample_row(Row(logits=logits, params=SamplingParams(**params), seed=0, profile=PROFILES[profile]))


def accepted(row):
    """Return the accepted sets of tokens among the row's own set and those that differ by one token."""
    kept = row.probabilities > 0
    others = [kept ^ (np.arange(len(kept)) == i) for i in range(len(kept))]
    return [np.flatnonzero(k).tolist() for k in (kept, *others) if row_that_keeps(row, k) is not None]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"top_p": 0.7}, [[0, 1], [0, 1, 2]]),  # 0.4 + 0.3 is 0.7
        ({"top_p": 0.70001}, [[0, 1, 2]]),
        ({"top_p": 0.69999}, [[0, 1]]),
        ({"min_p": 0.5}, [[0, 1, 2], [0, 1]]),
        ({"min_p": 0.50001}, [[0, 1]]),
        ({"epsilon_cutoff": 0.3}, [[0, 1], [0]]),
        ({"epsilon_cutoff": 0.29999}, [[0, 1]]),
        ({"top_k": 2}, [[0, 1]]),
        ({"xtc_probability": 1.0, "xtc_threshold": 0.2}, [[2, 3], [1, 2, 3]]),
        ({"xtc_probability": 1.0, "xtc_threshold": 0.19999}, [[2, 3]]),
        ({"temperature": 0.0}, [[0]]),
        ({}, [[0, 1, 2, 3]]),
    ],
)
def test_only_close_comparisons_may_go_either_way(params, expected):
    """Only a threshold at a probability, to float32, may include or exclude its token."""
    found = accepted(row_of([0.4, 0.3, 0.2, 0.1], **params))
    assert sorted(found) == sorted(expected)


def test_either_side_of_the_mean_may_come_first():
    """Either of two equally typical tokens, above or below the mean, may be kept first."""
    row = row_of([0.5, 0.25, 0.25], typical_p=0.2)
    sets = [[True, False, False], [False, True, False]]
    assert all(row_that_keeps(row, np.array(kept)) is not None for kept in sets)
    assert row_that_keeps(row, np.array([False, False, True])) is None  # the lower id comes first
    assert row_that_keeps(row, np.array([False, False, False])) is None


def test_a_range_for_messages():
    """num_kept_range returns the smallest and largest number of tokens that may be kept."""
    assert num_kept_range(row_of([0.4, 0.3, 0.2, 0.1], top_p=0.7)) == (2, 3)
    assert num_kept_range(row_of([0.4, 0.3, 0.2, 0.1], top_p=0.5)) == (2, 2)


def test_errors_of_exponents():
    """A static temperature adds no exponent error; a dynamic one adds the entropy's error, times its power."""
    p = [0.4, 0.3, 0.2, 0.1]
    assert exponent_error(row_of(p, temperature=0.7)) == 0.0
    mild = exponent_error(row_of(p, dynatemp_range=0.5))
    assert 0 < mild < 1e-6
    assert exponent_error(row_of(p, dynatemp_range=0.5, dynatemp_exponent=8.0)) > 3 * mild
    assert exponent_error(row_of(p, temperature=0.0)) == 0.0


@given(st.data())
def test_noise_of_float32_is_accepted(data):
    """A row whose exponents move by one float32 ulp is accepted."""
    vocab_size = data.draw(vocab_sizes())
    row = Row(
        logits=data.draw(logits_rows(vocab_size)),
        params=data.draw(sampling_params(vocab_size)),
        seed=data.draw(st.integers(0, 2**32)),
        profile=PROFILES[data.draw(st.sampled_from(tuple(PROFILES)))],
        prompt_token_ids=data.draw(token_ids(vocab_size)),
        mirostat_mu=data.draw(st.none() | st.floats(-1.0, 20.0)),
    )
    try:
        sample_row(row)
    except LogitsError:
        return
    lowest = np.finfo(np.float32).min
    edited = np.maximum(relative(row.stage_rows["hard_masks"]), lowest).astype(np.float32)
    values, place = np.unique(edited, return_inverse=True)
    up = np.random.default_rng(row.seed).random(len(values)) < 0.5
    nudged = np.where(up, np.nextafter(values, np.float32(0)), np.nextafter(values, lowest))[place]
    nudged[row.stage_rows["hard_masks"] == -np.inf] = -np.inf
    assert row_that_keeps(row, margins._truncated_again(row, {}, nudged).kept) is not None


def test_probes_name_parameters_of_the_table():
    """Every parameter that a probe sets is in the table of parameters."""
    assert {name for probe in PROBES for name in probe.params} <= set(PARAMETERS)
