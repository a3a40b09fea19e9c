"""The public Hypothesis strategies: what they promise, and that what they make shrinks to something readable."""

import numpy as np
from hypothesis import find, given, settings
from hypothesis import strategies as st

from decoding.reference.dry import dry_penalties
from decoding.reference.masks import completed_ngrams
from decoding.stages import PROFILES
from decoding.testing import (
    SamplingProblem,
    bitmasks,
    logits_batches,
    logits_rows,
    sampling_params,
    sampling_problems,
    sampling_states,
    vocab_sizes,
)

QUICK = settings(derandomize=True, database=None, max_examples=300)


@given(st.data())
def test_rows_are_legal(data):
    """float32 [vocab], no NaN or +inf unless asked for, something to draw."""
    vocab_size = data.draw(vocab_sizes(large=True))
    row = data.draw(logits_rows(vocab_size))
    assert (row.dtype, row.shape) == (np.float32, (vocab_size,))
    assert not (np.isnan(row) | (row == np.inf)).any()
    assert np.isfinite(row).any()


def test_the_corners_are_reached():
    """Ties, bans, one survivor, subnormals, huge spreads; NaN and +inf where asked for."""
    found = {
        "ties": lambda row: len(np.unique(row)) < len(row),
        "bans": lambda row: (row == -np.inf).sum() > 10,
        "survivor": lambda row: (row > -np.inf).sum() == 1,
        "subnormal": lambda row: (abs(row[row != 0]) < np.finfo(np.float32).smallest_normal).any(),
        "spread": lambda row: row.max() > 1e37 and np.any((row < -1e37) & np.isfinite(row)),
    }
    for condition in found.values():
        find(logits_rows(65), condition, settings=QUICK)
    for condition in (np.isnan, np.isposinf):
        find(logits_rows(65, nonfinite=True), lambda row, c=condition: c(row).any(), settings=QUICK)


def test_every_kind_of_problem_is_reached():
    """Each profile, mirostat on its way, several modes, repetitions that DRY sees, no-repeat n-grams that ban."""
    problems = sampling_problems(max_rows=1)
    for profile in PROFILES.values():
        find(problems, lambda problem, profile=profile: problem.sampler.profile is profile, settings=QUICK)
    found = (
        lambda state: state.mirostat_mu not in (None, 2 * (state.params.mirostat_tau or 0)),
        lambda state: len(state.params.logprobs_modes) > 1,
        lambda state: dry_penalties(state.params, [*state.prompt_token_ids, *state.output_token_ids]),
        lambda state: completed_ngrams(state.prompt_token_ids, state.params.no_repeat_ngram_size),
    )
    for condition in found:
        find(problems, lambda problem, c=condition: c(problem.states[0]), settings=settings(QUICK, max_examples=3000))


def test_rows_shrink_to_what_matters():
    """A row that must have one banned token, and only one, shrinks to zeros and that token."""
    row = find(logits_rows(64), lambda row: (row == -np.inf).sum() == 1, settings=QUICK)
    assert np.count_nonzero(row) == 1


def test_problems_shrink_to_one_token():
    """The simplest problem is one row of one token, all parameters neutral."""
    problem = find(sampling_problems(max_rows=1), lambda problem: True, settings=settings(QUICK, max_examples=10))
    assert problem.logits.tolist() == [[0.0]]
    assert "SamplingParams(max_tokens=None, seed=0)" in repr(problem)


@given(st.data())
def test_ids_and_masks_fit_the_vocabulary(data):
    """Whatever is made for a vocabulary is accepted for it."""
    vocab_size = data.draw(vocab_sizes())
    assert data.draw(bitmasks(vocab_size)).shape == (-(-vocab_size // 32),)
    assert data.draw(sampling_params(vocab_size)).seed is not None
    data.draw(sampling_states(vocab_size)).check_vocab(vocab_size)
    assert data.draw(logits_batches(vocab_size, 2)).shape == (2, vocab_size)


@given(sampling_problems())
def test_problems_show_themselves(problem: SamplingProblem):
    """A failing example prints all that is needed to write it down: logits, parameters, histories, masks."""
    text = repr(problem)
    assert text.startswith(f"Sampler({problem.logits.shape[1]}, ")
    assert text.count("\n") >= len(problem.states)
    assert f"seed={problem.states[0].seed}" in text
