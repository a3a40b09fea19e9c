"""The sampler against the float64 reference: what must be equal, what may round, and by how much.

The kernel holds a weight as a float32 exponential rounded to a 43-bit fraction; the reference does not
round. So a token whose exponent lies within `MARGIN` of a threshold may fall on either side of it, and
nothing else may differ: the tokens kept are always a prefix of the total order, and everything after them
follows from that prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from decoding import reference
from decoding.errors import LogitsError
from decoding.params import to_float32
from decoding.reference.truncation import CUT, weights
from decoding.sampler import Sampler, SamplerOutput, SamplingState

Array: TypeAlias = NDArray[Any]

MARGIN = 1e-6
"""Distance from a threshold, in mass or relative to an exponent, from which on no rounding may decide."""


def assert_matches_reference(sampler: Sampler, logits: Array, states: Sequence[SamplingState]) -> None:
    """Sample all rows in one call, recording nothing, and hold every result to the float64 reference.

    Compared are errors, the tokens kept, the probabilities, the drawn token, its log-probability, its rank,
    and the top-N, row by row.

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
        _check_distribution(row, probabilities)
        _check_draw(row, probabilities, int(output.token_ids[index]))
        _check_logprobs(row, probabilities > 0, output)


def reference_row(sampler: Sampler, logits: Array, state: SamplingState, *, index: int = 0) -> reference.Row:
    """What the reference makes of one row of logits [vocab] in this state; raises its LogitsError."""
    row = reference.Row(
        logits=as_float32(logits),
        params=state.params,
        seed=state.seed,
        stream=state.stream,
        choice=state.choice,
        prompt_token_ids=state.prompt_token_ids,
        output_token_ids=state.output_token_ids,
        eos_token_ids=state.eos_token_ids,
        bitmask=state.bitmask,
        num_valid_tokens=sampler.num_valid_tokens,
        on_nonfinite=sampler.on_nonfinite,
        index=index,
    )
    return reference.sample_row(row)


def as_float32(logits: Array) -> Array:
    """Logits as the kernel widens them, exactly: float16 by value, uint16 as the bit patterns of bfloat16."""
    if logits.dtype == np.uint16:
        return (logits.astype(np.uint32) << 16).view(np.float32)
    return logits.astype(np.float32)


def num_kept_range(row: reference.Row) -> tuple[int, int]:
    """Fewest and most tokens that truncation may keep, where rounding within MARGIN decides either way."""
    exponents = row.stage_rows["top_k"][row.order]
    fewest = most = int((exponents > -np.inf).sum())
    top_p, min_p = to_float32(row.params.top_p), to_float32(row.params.min_p)
    if top_p < 1.0:
        mass = np.cumsum(weights(exponents))
        bounds = np.array([top_p - MARGIN, top_p + MARGIN]) * mass[-1]
        low, high = np.searchsorted(mass, bounds) + 1
        fewest, most = min(fewest, int(low)), min(most, int(high))
    for limit in [CUT] + ([float(np.log(min_p))] if min_p > 0.0 else []):
        slack = MARGIN * max(1.0, -limit)
        fewest = min(fewest, max(1, int((exponents >= limit + slack).sum())))
        most = min(most, int((exponents >= limit - slack).sum()))
    return fewest, most


def distribution_over(row: reference.Row, kept: Array) -> Array:
    """The tempered distribution, renormalised over the tokens `kept`: float64 [vocab]."""
    mass = np.where(kept, np.exp(row.stage_rows["temperature"]), 0.0)
    return np.asarray(mass / mass.sum())


def _check_error(actual: LogitsError | None, expected: LogitsError) -> None:
    if type(actual) is not type(expected) or vars(actual) != vars(expected):
        raise AssertionError(f"error is {actual!r}, must be {expected!r}")


def _check_distribution(row: reference.Row, probabilities: Array) -> None:
    kept = probabilities > 0
    num_kept = int(kept.sum())
    fewest, most = num_kept_range(row)
    _expect(row, fewest <= num_kept <= most, f"keeps {num_kept} tokens, must keep {fewest} to {most}")
    _expect(row, kept[row.order[:num_kept]].all(), "keeps tokens that are not the first in order")
    # rtol: l - max is rounded to float32, by 1e-6 at -27; atol: a weight is an integer times 2**-43
    expected = distribution_over(row, kept)
    np.testing.assert_allclose(probabilities, expected, rtol=2e-6, atol=2.0**-43, err_msg=f"row {row.index}")
    _expect(row, abs(probabilities.sum() - 1.0) < 1e-9, f"has a total mass of {probabilities.sum()}")


def _check_draw(row: reference.Row, probabilities: Array, token_id: int) -> None:
    """The token is what the random words mean, by the reference's numbers and by the sampler's own."""
    _expect(row, 0 <= token_id < len(probabilities), f"draws token {token_id}")
    _expect(row, probabilities[token_id] > 0, f"draws token {token_id}, which was dropped")
    for distribution, slack in ((distribution_over(row, probabilities > 0), 4 * MARGIN), (probabilities, 1e-12)):
        possible = reference.possible_tokens(row, distribution, slack)
        _expect(row, token_id in possible, f"draws token {token_id}, must draw {sorted(possible)}")


def _check_logprobs(row: reference.Row, kept: Array, output: SamplerOutput) -> None:
    """The reports on the drawn token and on the top-N; nothing where no log-probabilities were asked for."""
    token_id, mode = int(output.token_ids[row.index]), row.params.logprobs_mode
    logprob, rank = output.logprobs[row.index], int(output.ranks[row.index])
    if row.params.logprobs is None:
        _expect(row, np.isnan(logprob) and rank == 0, f"reports {logprob}, rank {rank}, unasked")
        return
    expected = _log(distribution_over(row, kept)) if mode == "final" else reference.logprobs(row, mode)
    _check_close(row, f"{mode} logprob of token {token_id}", logprob, expected[token_id])
    right_rank = reference.rank(row, mode, token_id)
    _expect(row, rank == right_rank, f"reports rank {rank} for token {token_id}, must be {right_rank}")
    _check_top(row, output, expected)


def _check_top(row: reference.Row, output: SamplerOutput, expected: Array) -> None:
    top_ids = reference.top_token_ids(row, row.params.logprobs_mode, row.params.logprobs or 0)
    actual_ids, logprobs = output.top_token_ids[row.index], output.top_logprobs[row.index]
    padded = [*top_ids, *[-1] * (len(actual_ids) - len(top_ids))]
    np.testing.assert_array_equal(actual_ids, padded, err_msg=f"row {row.index}: top-N")
    for token_id, logprob in zip(top_ids, logprobs, strict=False):
        _check_close(row, f"logprob of top token {token_id}", logprob, expected[token_id])
        if token_id == output.token_ids[row.index]:
            same = logprob.tobytes() == output.logprobs[row.index].tobytes()
            _expect(row, same, f"reports two log-probabilities for token {token_id}")
    _expect(row, (logprobs[len(top_ids) :] == -np.inf).all(), "has unused entries that are not -inf")


def _check_close(row: reference.Row, what: str, actual: np.float32, expected: float) -> None:
    """Within max(1e-6, one float32 ulp) of the float64 value."""
    with np.errstate(over="ignore"):
        nearest = np.float32(expected)
    if actual != nearest:
        allowed = max(1e-6, float(np.spacing(abs(nearest))))
        close = abs(float(actual) - expected) <= allowed
        _expect(row, close, f"reports {actual} as {what}, must be {expected} +- {allowed}")


def _log(probabilities: Array) -> Array:
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(probabilities))


def _expect(row: reference.Row, holds: bool | np.bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(f"row {row.index} {otherwise}")
