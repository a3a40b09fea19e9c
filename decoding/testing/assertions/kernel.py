"""Our own sampler against the float64 reference: exact results must be equal, others within bounds on rounding.

The same tokens must be kept, except for those nearer to a threshold than rounding allows (decoding.testing.margins).
All later results are compared with the reference's for the tokens that the sampler kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from decoding import reference
from decoding.errors import LogitsError
from decoding.reference.reshape import reshaped
from decoding.sampling.logits_input import as_float32
from decoding.sampling.sampler import Sampler, SamplerOutput, SamplingState
from decoding.sampling.stages import GREEDY_TEMPERATURE
from decoding.testing.margins import MARGIN, Array, exponent_error, kept_rule, reshaping_error, row_that_keeps
from decoding.types import LogprobsMode


def assert_kernel_matches(sampler: Sampler, logits: Array, states: Sequence[SamplingState]) -> None:
    """Sample all rows in one call, recording nothing, and compare every result with the float64 reference.

    Compared are errors, the tokens kept, the probabilities, the drawn token, its log-probability in every mode, its
    rank, the top-N, and mirostat's surprise, row by row, under the sampler's profile.

    Args:
        sampler: the sampler under test.
        logits: [rows, vocab], of any dtype that the sampler takes.
        states: one for each row.

    Raises:
        AssertionError: naming the row and what differs.
    """
    output = sampler.sample(logits, states, commit=False, on_error="status")
    for index, state in enumerate(states):
        try:
            row = reference_row(sampler, logits[index], state, index=index)
        except LogitsError as error:
            _check_error(output.errors[index], error)
            continue
        _expect(row, output.errors[index] is None, f"fails with {output.errors[index]}")
        probabilities = sampler.probabilities(logits[index : index + 1], [state])[0]
        row = _check_distribution(row, probabilities)
        _check_draw(row, probabilities, int(output.token_ids[index]))
        _check_logprobs(row, probabilities > 0, output)
        _check_surprise(row, probabilities > 0, output)


def reference_row(sampler: Sampler, logits: Array, state: SamplingState, *, index: int = 0) -> reference.Row:
    """Run the reference on one row of logits [vocab] in this state. Raise its LogitsError."""
    row = reference.Row(
        logits=as_float32(logits),
        params=state.params,
        seed=state.seed,
        profile=sampler.profile,
        stream=state.stream,
        choice=state.choice,
        prompt_token_ids=state.prompt_token_ids,
        output_token_ids=state.output_token_ids,
        eos_token_ids=state.eos_token_ids,
        mirostat_mu=state.mirostat_mu,
        adaptive_p_center=state.adaptive_p_center,
        bitmask=state.bitmask,
        num_valid_tokens=sampler.num_valid_tokens,
        on_nonfinite=sampler.on_nonfinite,
        index=index,
    )
    return reference.sample_row(row)


def distribution_over(row: reference.Row, kept: Array) -> Array:
    """Return the row after temperature over the tokens `kept`, renormalised and reshaped: float64 [vocab]."""
    return np.asarray(np.exp(_final_logprobs(row, kept)))


def _final_logprobs(row: reference.Row, kept: Array) -> Array:
    return reference.log_softmax(np.where(kept, reshaped(row, _exponents_before(row, kept)), -np.inf))


def _exponents_before(row: reference.Row, kept: Array) -> Array:
    """Return the exponents before adaptive_p and skew; a skew may drop tokens, so they may be more than `kept`."""
    if row.params.skew != 0.0:
        return row.before_reshaping
    exponents = np.zeros(len(kept)) if row.temperature < GREEDY_TEMPERATURE else row.whole  # greedy: one token is kept
    return np.where(kept, exponents, -np.inf)


def _check_error(actual: LogitsError | None, expected: LogitsError) -> None:
    if type(actual) is not type(expected) or vars(actual) != vars(expected):
        raise AssertionError(f"error is {actual!r}, must be {expected!r}")


def _check_distribution(row: reference.Row, probabilities: Array) -> reference.Row:
    """Return the row that keeps the sampler's tokens: the given one, or one that rounding may have made of it."""
    kept = probabilities > 0
    found = row_that_keeps(row, kept)
    if found is None:
        wrong = np.flatnonzero(kept != (row.probabilities > 0)).tolist()[:8]
        _expect(row, False, f"keeps {kept.sum()} tokens, must keep {kept_rule(row)}; differs at ids {wrong}")
        raise AssertionError
    # rtol: l - max is rounded to float32, by 1e-6 at -27; atol: a weight is an integer times 2**-43
    expected = distribution_over(found, kept)
    with np.errstate(invalid="ignore"):
        error = exponent_error(found) * np.where(kept, abs(found.whole), 0.0)
    off = abs(probabilities - expected) > 2.0**-43 + (2e-6 + error + reshaping_error(found)) * expected
    ids = np.flatnonzero(off)[:4]
    _expect(row, not off.any(), f"has probabilities {probabilities[ids]} at ids {ids}, must be {expected[ids]}")
    _expect(row, abs(probabilities.sum() - 1.0) < 1e-9, f"has a total mass of {probabilities.sum()}")
    return found


def _check_draw(row: reference.Row, probabilities: Array, token_id: int) -> None:
    """Check that the random words select the token, by the reference's probabilities and by the sampler's own."""
    _expect(row, 0 <= token_id < len(probabilities), f"draws token {token_id}")
    _expect(row, probabilities[token_id] > 0, f"draws token {token_id}, which was dropped")
    slack = 4 * MARGIN + 30 * exponent_error(row) + reshaping_error(row)
    for distribution, accuracy in ((distribution_over(row, probabilities > 0), slack), (probabilities, 1e-12)):
        possible = reference.possible_tokens(row, distribution, accuracy)
        _expect(row, token_id in possible, f"draws token {token_id}, must draw {sorted(possible)}")


def _check_logprobs(row: reference.Row, kept: Array, output: SamplerOutput) -> None:
    """Check the reports on the drawn token and on the top-N, in every mode; without a request there must be none."""
    token_id, rank = int(output.token_ids[row.index]), int(output.ranks[row.index])
    modes = row.params.logprobs_modes
    if row.params.logprobs is None:
        logprobs = output.all_logprobs[row.index]
        _expect(row, np.isnan(logprobs).all() and rank == 0, f"reports {logprobs}, rank {rank}, unasked")
        return
    right_rank = reference.rank(row, modes[0], token_id)
    _expect(row, rank == right_rank, f"reports rank {rank} for token {token_id}, must be {right_rank}")
    top_ids = reference.top_token_ids(row, modes[0], row.params.logprobs)
    actual_ids = output.top_token_ids[row.index]
    padded = [*top_ids, *[-1] * (len(actual_ids) - len(top_ids))]
    np.testing.assert_array_equal(actual_ids, padded, err_msg=f"row {row.index}: top-N")
    for number, mode in enumerate(modes):
        expected = _final_logprobs(row, kept) if mode == "final" else reference.logprobs(row, mode)
        logprob, top = output.all_logprobs[row.index, number], output.all_top_logprobs[row.index, number]
        _check_mode(row, mode, expected, {token_id: logprob}, "token")
        _check_mode(row, mode, expected, dict(zip(top_ids.tolist(), top, strict=False)), "top token")
        same = [top[place] for place in np.flatnonzero(top_ids == token_id)]
        agree = all(entry.tobytes() == logprob.tobytes() for entry in same)
        _expect(row, agree, f"reports two {mode} log-probabilities for token {token_id}")
        _expect(row, (top[len(top_ids) :] == -np.inf).all(), "has unused entries that are not -inf")


def _check_mode(
    row: reference.Row, mode: LogprobsMode, expected: Array, actual: dict[int, np.float32], what: str
) -> None:
    """Check values to max(1e-6, one float32 ulp) of float64, plus the errors of dynamic temperature and smoothing."""
    error = exponent_error(row) if mode in ("scaled", "final") else 0.0
    added = reshaping_error(row) if mode == "final" else 0.0
    for token_id, logprob in actual.items():
        exact = float(expected[token_id])
        with np.errstate(over="ignore"):
            nearest = np.float32(exact)
        if logprob != nearest:
            allowed = max(1e-6, float(np.spacing(abs(nearest)))) + 2 * error * abs(max(row.whole[token_id], -1e4))
            allowed += added
            close = abs(float(logprob) - exact) <= allowed
            _expect(
                row, close, f"reports {logprob} as {mode} logprob of {what} {token_id}, must be {exact} +- {allowed}"
            )


def _check_surprise(row: reference.Row, kept: Array, output: SamplerOutput) -> None:
    """Check the surprise in bits, which rows have only with mirostat or adaptive-p."""
    surprise, token_id = float(output.surprises[row.index]), int(output.token_ids[row.index])
    if row.params.mirostat_tau is None and row.params.adaptive_p_target is None:
        _expect(row, np.isnan(surprise), f"reports a surprise of {surprise} without mirostat and adaptive-p")
        return
    exact = -reference.log_softmax(_exponents_before(row, kept))[token_id] / np.log(2.0)
    allowed = max(2e-6, float(np.spacing(np.float32(exact)))) + 3 * exponent_error(row) * abs(row.whole[token_id])
    close = abs(surprise - exact) <= allowed
    _expect(row, close, f"reports a surprise of {surprise}, must be {exact} +- {allowed}")


def _expect(row: reference.Row, holds: bool | np.bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(f"row {row.index} {otherwise}")
