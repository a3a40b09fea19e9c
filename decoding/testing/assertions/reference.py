"""Compare any sampler with the float64 reference, under the profile that describes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from decoding import reference
from decoding.errors import LogitsError, ParameterError
from decoding.params import SamplingParams
from decoding.sampling.logits_input import as_float32
from decoding.sampling.sampler import Sampler, SamplingState
from decoding.sampling.stages import PROFILES, Profile
from decoding.testing.assertions.distribution import ALPHA, assert_distribution
from decoding.testing.assertions.kernel import assert_kernel_matches, distribution_over
from decoding.testing.margins import Array, exponent_error, kept_rule, moved_rows, row_that_keeps

GREEDY_DRAWS = 3


class History(NamedTuple):
    """The tokens before the one to be drawn: some penalties count the output alone, others the prompt too."""

    prompt_token_ids: tuple[int, ...] = ()
    output_token_ids: tuple[int, ...] = ()


SamplerFunction: TypeAlias = Callable[[Array, SamplingParams, History, int], Any]
"""(logits float32 [vocab], params, history, seed) -> a token id, or the distribution that it is drawn from [vocab]."""

States: TypeAlias = SamplingState | SamplingParams | Sequence[SamplingState | SamplingParams]


def assert_matches_reference(
    sampler: Sampler | SamplerFunction,
    logits: Any,
    states: States,
    *,
    profile: str | Profile = "openai",
    num_draws: int = 10_000,
    tolerance: float = 1e-5,
    alpha: float = ALPHA,
) -> None:
    """Raise AssertionError with the difference if a sampler differs from the float64 reference under `profile`.

    sampler may be any function of (logits float32 [vocab], SamplingParams, History, seed). The comparison depends on
    its result:

    * a distribution, probabilities [vocab]: the tokens that it keeps (unless a threshold is nearer than
      `tolerance`) and every probability, to within a relative `tolerance`;
    * a token id: `num_draws` of them, with the seeds 0, 1, 2, ..., by `assert_distribution`.

    If the reference refuses a row (NaN, every token banned), the function must raise an exception. For a `Sampler` of
    this library everything that it reports is compared, to the bit where that is documented; its own profile is used,
    and `num_draws`, `tolerance` and `alpha` are ignored.

    Args:
        sampler: the sampler under test.
        logits: [rows, vocab], or [vocab] for one row.
        states: parameters or, with a history, a SamplingState; one for each row, or one for all.
        profile: a name of decoding.sampling.stages.PROFILES, or a Profile.
        num_draws: draws per row of a sampler that returns tokens.
        tolerance: 1e-5 suits float32; 2e-3 float16.
        alpha: probability that a correct sampler that returns tokens fails, for each row.
    """
    rows = np.atleast_2d(np.asarray(logits))
    row_states = states_of(states, len(rows))
    if isinstance(sampler, Sampler):
        assert_kernel_matches(sampler, rows, row_states)
        return
    for index, (row_logits, state) in enumerate(zip(as_float32(rows), row_states, strict=True)):
        try:
            _check_row(sampler, row_logits, state, profile, num_draws, tolerance, alpha)
        except AssertionError as error:
            raise AssertionError(f"row {index}, {state.params}: {error}") from None


def states_of(states: States, num_rows: int) -> list[SamplingState]:
    """Return a state for each row: the given ones, or the one for all; parameters alone become a state."""
    if isinstance(states, (SamplingState, SamplingParams)):
        states = [states] * num_rows
    if len(states) != num_rows:
        raise ParameterError.single(
            "states", len(states), f"must be one per row of logits ({num_rows}), or one for all"
        )
    return [SamplingState(state) if isinstance(state, SamplingParams) else state for state in states]


def row_of(logits: Array, state: SamplingState, profile: str | Profile) -> reference.Row:
    """Return the reference's row for one row of logits [vocab] in this state."""
    return reference.Row(
        logits=logits,
        params=state.params,
        seed=state.seed,
        profile=profile if isinstance(profile, Profile) else PROFILES[profile],
        prompt_token_ids=state.prompt_token_ids,
        output_token_ids=state.output_token_ids,
        eos_token_ids=state.eos_token_ids,
        mirostat_mu=state.mirostat_mu,
        adaptive_p_center=state.adaptive_p_center,
        bitmask=state.bitmask,
    )


def _check_row(
    sampler: SamplerFunction,
    logits: Array,
    state: SamplingState,
    profile: str | Profile,
    num_draws: int,
    tolerance: float,
    alpha: float,
) -> None:
    def ask(seed: int) -> Array:
        history = History(state.prompt_token_ids, tuple(state.output_token_ids))
        return np.asarray(sampler(logits.copy(), state.params, history, seed))

    try:
        row = reference.sample_row(row_of(logits, state, profile))
    except LogitsError as error:
        _check_refusal(ask, error)
        return
    first = ask(0)
    if first.shape == logits.shape:
        _check_probabilities(row, first.astype(np.float64), tolerance)
    elif first.ndim == 0 and np.issubdtype(first.dtype, np.integer):
        is_point = np.count_nonzero(row.probabilities) == 1
        seeds = range(1, GREEDY_DRAWS if is_point else num_draws)
        _check_draws(row, np.array([first, *map(ask, seeds)]), tolerance, alpha)
    else:
        kind = f"an array of shape {first.shape} and dtype {first.dtype}"
        raise AssertionError(f"returns {kind}; must return a token id, or a distribution of shape {logits.shape}")


def _check_refusal(ask: Callable[[int], Array], error: LogitsError) -> None:
    try:
        answer = ask(0)
    except Exception:
        return
    raise AssertionError(f"returns {answer}, must raise: {error}")


def _check_probabilities(row: reference.Row, probabilities: Array, tolerance: float) -> None:
    """Check the kept tokens and their renormalised probabilities."""
    if not np.isfinite(probabilities).all() or (probabilities < 0).any():
        bad = np.flatnonzero(~(np.isfinite(probabilities) & (probabilities >= 0)))[:8]
        raise AssertionError(f"returns {probabilities[bad]} at ids {bad.tolist()}, must be probabilities")
    if abs(probabilities.sum() - 1.0) > 10 * tolerance:
        raise AssertionError(f"returns probabilities that add up to {probabilities.sum():.6g}")
    kept = probabilities >= 2.0**-40 * probabilities.max()  # below that the reference has nothing, and no draw tells
    found = row_that_keeps(row, kept, tolerance)
    if found is None:
        wrong = np.flatnonzero(kept != (row.probabilities > 0)).tolist()[:8]
        raise AssertionError(f"keeps {kept.sum()} tokens, must keep {kept_rule(row)}; differs at ids {wrong}")
    expected = distribution_over(found, kept)
    relative = (tolerance + exponent_error(found)) * np.where(kept, np.maximum(1.0, abs(found.whole)), 1.0)
    off = abs(np.where(kept, probabilities, 0.0) - expected) > relative * expected + 2.0**-40
    ids = np.flatnonzero(off)[:4]
    if len(ids):
        raise AssertionError(f"has probabilities {probabilities[ids]} at ids {ids.tolist()}, must be {expected[ids]}")


def _check_draws(row: reference.Row, token_ids: Array, tolerance: float, alpha: float) -> None:
    """Check draws against the reference's distribution, or one that rounding may have made of it."""
    try:
        assert_distribution(token_ids, row.probabilities, alpha=alpha)
    except AssertionError as error:
        for other in moved_rows(row, tolerance):
            if not np.array_equal(other.kept, row.probabilities > 0) and _fits(token_ids, other, alpha):
                return
        raise error from None


def _fits(token_ids: Array, row: reference.Row, alpha: float) -> bool:
    try:
        assert_distribution(token_ids, distribution_over(row, row.kept), alpha=alpha)
    except AssertionError:
        return False
    return True
