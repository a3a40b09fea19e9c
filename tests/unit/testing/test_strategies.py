"""Tests of the public Hypothesis strategies: valid values, rare cases, and readable shrunk examples."""

from contextlib import suppress

import numpy as np
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from decoding.reference.dry import dry_penalties
from decoding.reference.masks import completed_ngrams
from decoding.sampling.fit import Fit
from decoding.sampling.stages import PROFILES
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
    """Rows are float32 [vocab], have at least one finite logit, and no NaN or +inf by default."""
    vocab_size = data.draw(vocab_sizes(large=True))
    row = data.draw(logits_rows(vocab_size))
    assert (row.dtype, row.shape) == (np.float32, (vocab_size,))
    assert not (np.isnan(row) | (row == np.inf)).any()
    assert np.isfinite(row).any()


def test_rare_rows_are_generated():
    """Ties, bans, one survivor, subnormals, huge spreads and non-finite values are generated."""
    found = {
        "ties": lambda row: len(np.unique(row)) < len(row),
        "bans": lambda row: (row == -np.inf).sum() > 10,
        "survivor": lambda row: (row > -np.inf).sum() == 1,
        "subnormal": lambda row: (abs(row[row != 0]) < np.finfo(np.float32).smallest_normal).any(),
        "spread": lambda row: row.max() > 1e37 and np.any((row < -1e37) & np.isfinite(row)),
    }
    for name, condition in found.items():
        assert condition(find(logits_rows(65), condition, settings=QUICK)), name
    for condition in (np.isnan, np.isposinf):
        row = find(logits_rows(65, nonfinite=True), lambda row, c=condition: c(row).any(), settings=QUICK)
        assert condition(row).any(), condition.__name__


class AllFoundError(Exception):
    """Ends the search for kinds of problems."""


def test_every_kind_of_problem_is_reached():
    """Among 1,500 problems are all profiles, mirostat states, two modes, DRY repetitions and banned n-grams."""
    missing = {*PROFILES, "mirostat", "modes", "dry", "ngram"}
    generate = settings(QUICK, phases=[Phase.generate], max_examples=1500, report_multiple_bugs=False)

    @generate  # the problems depend on the modules that are loaded
    @given(sampling_problems(max_rows=1))
    def look_at(problem):
        (state,), params = problem.states, problem.states[0].params
        context = [*state.prompt_token_ids, *state.output_token_ids]
        found = {
            problem.sampler.profile.name: True,
            "mirostat": state.mirostat_mu not in (None, 2 * (params.mirostat_tau or 0)),
            "modes": len(params.logprobs_modes) > 1,
            "dry": dry_penalties(params, context),
            "ngram": completed_ngrams(context, params.no_repeat_ngram_size),
        }
        missing.difference_update(kind for kind, is_found in found.items() if is_found)
        if not missing:
            raise AllFoundError

    with suppress(AllFoundError):
        look_at()
    assert missing == set()


def test_rows_shrink_to_the_banned_token():
    """A row that must have exactly one banned token shrinks to zeros and that token."""
    row = find(logits_rows(64), lambda row: (row == -np.inf).sum() == 1, settings=QUICK)
    assert np.count_nonzero(row) == 1


def test_problems_shrink_to_one_token():
    """The simplest problem is one row of one token with neutral parameters."""
    problem = find(sampling_problems(max_rows=1), lambda problem: True, settings=settings(QUICK, max_examples=10))
    assert problem.logits.tolist() == [[0.0]]
    assert "SamplingParams(max_tokens=None, seed=0)" in repr(problem)


@given(st.data())
def test_ids_and_masks_fit_the_vocabulary(data):
    """Values generated for a vocabulary size are valid for it."""
    vocab_size = data.draw(vocab_sizes())
    assert data.draw(bitmasks(vocab_size)).shape == (-(-vocab_size // 32),)
    assert data.draw(sampling_params(vocab_size)).seed is not None
    data.draw(sampling_states(vocab_size)).check_fit(Fit(vocab_size))
    assert data.draw(logits_batches(vocab_size, 2)).shape == (2, vocab_size)


@given(sampling_problems())
def test_repr_of_a_problem(problem: SamplingProblem):
    """The repr of a problem contains logits, parameters, histories and masks."""
    text = repr(problem)
    assert text.startswith(f"Sampler({problem.logits.shape[1]}, ")
    assert text.count("\n") >= len(problem.states)
    assert f"seed={problem.states[0].seed}" in text
