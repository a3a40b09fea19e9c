"""The draw of one step: one call of the sampler for all sequences.

Draft tokens are checked round by round: a draft token is right if it is the token that plain decoding samples. Each
round samples as if there were no drafts, from the row of logits behind the draft tokens that were right so far, with
everything before it recorded (as `Sampler.verify` does for one sequence). So the tokens are those of plain decoding.
"""

from __future__ import annotations

from operator import attrgetter

import numpy as np

from decoding.engine.candidate import Candidate
from decoding.engine.logprobs import OutputScores, TokenScore
from decoding.engine.sequence import NO_ROW, Sequence
from decoding.errors import DecodingError, EmptySupportError, EngineError, NonFiniteLogitsError
from decoding.models.batch import Logits
from decoding.sampling.sampler import Sampler

_IS_SPECIAL, _IS_SCORED, _DRAWING_STATE = map(attrgetter, ("is_special", "is_scored", "drawing_state"))
_ROW = attrgetter("row")
"""Loops over candidates that cost no bytecode per candidate: a step has several."""


def sampling_step(
    sampler: Sampler, logits: Logits, sequences: list[Sequence], candidates: list[Candidate]
) -> dict[Sequence, DecodingError]:
    """Sample one token for each sequence, and append it to sequence and candidate.

    logits: those of the step, in which each sequence has its `row`; a sequence that was forked at the end of its prompt
        has `task.first_logits` instead.
    Returns the errors of the sequences whose row failed.
    """
    errors: dict[Sequence, DecodingError] = {}
    is_special = any(map(_IS_SPECIAL, candidates))
    if is_special:
        sequences, candidates = _masked(sequences, candidates, errors)
    matrix = _whole(logits, sequences)
    if matrix is None or (is_special and any(candidate.prepares_rows for candidate in candidates)):
        rows = _prepared_rows(sampler, logits, sequences, candidates, errors)
        sequences = [sequence for sequence in sequences if sequence not in errors]
        candidates = [candidate for candidate, row in zip(candidates, rows, strict=True) if row is not None]
        if not sequences:
            return errors
        matrix = np.stack([row for row in rows if row is not None])
    output = sampler.sample(matrix, list(map(_DRAWING_STATE, candidates)), on_error="status")
    scores = OutputScores(output) if any(map(_IS_SCORED, candidates)) else None
    token_ids = output.drawn_ids()
    if scores is None and not is_special and not output.failures:
        for sequence, candidate, token_id in zip(sequences, candidates, token_ids, strict=True):
            candidate.append(token_id)
            sequence.token_ids.append(token_id)
        return errors
    for row, (sequence, candidate, token_id) in enumerate(zip(sequences, candidates, token_ids, strict=True)):
        if token_id < 0:
            errors[sequence] = numbered(output.failures[row], candidate)
            continue
        score, raw_logprob = None, 0.0
        if scores is not None and candidate.is_scored:
            score, raw_logprob = _scored(sampler, candidate, token_id, scores, row)
        if is_special and candidate.processors is not None:
            candidate.processors.commit(token_id, output, row)
        candidate.append(token_id, score, raw_logprob)
        sequence.token_ids.append(token_id)
    return errors


def _masked(
    sequences: list[Sequence], candidates: list[Candidate], errors: dict[Sequence, DecodingError]
) -> tuple[list[Sequence], list[Candidate]]:
    """Set the bitmasks; return the sequences and candidates without those whose mask failed, which go to `errors`."""
    for sequence, candidate in zip(sequences, candidates, strict=True):
        if candidate.masks is not None:
            try:
                candidate.masks.prepare(candidate.drawing_state)
            except DecodingError as error:
                errors[sequence] = error
    if not errors:
        return sequences, candidates
    pairs = [pair for pair in zip(sequences, candidates, strict=True) if pair[0] not in errors]
    return [sequence for sequence, _ in pairs], [candidate for _, candidate in pairs]


def _whole(logits: Logits, sequences: list[Sequence]) -> Logits | None:
    """Return the logits if their rows are those of the sequences, in this order; mostly they are."""
    return logits if list(map(_ROW, sequences)) == list(range(len(logits))) else None


def _prepared_rows(
    sampler: Sampler,
    logits: Logits,
    sequences: list[Sequence],
    candidates: list[Candidate],
    errors: dict[Sequence, DecodingError],
) -> list[Logits | None]:
    """Return the rows after processors; None where these failed, with the error in `errors`."""
    rows: list[Logits | None] = []
    for sequence, candidate in zip(sequences, candidates, strict=True):
        try:
            rows.append(_prepared_row(sampler, logits, sequence, candidate))
        except DecodingError as error:
            errors[sequence] = numbered(error, candidate)
            rows.append(None)
    return rows


def _prepared_row(sampler: Sampler, logits: Logits, sequence: Sequence, candidate: Candidate) -> Logits:
    """Return the row of a sequence after processors, with forced tokens set and `on_sample` called."""
    row: Logits = logits[sequence.row] if sequence.row != NO_ROW else sequence.task.first_logits
    request, state = candidate.request, candidate.drawing_state
    if candidate.healing is not None:
        row = candidate.healing.condition(row, candidate.state.output_token_ids, candidate.num_healed)
    if candidate.processors is not None:
        row = candidate.processors.process(row, sequence.token_ids)
    if request.forced is not None:
        state.force(request.forced[candidate.choice][state.position])
    if request.on_sample is not None:
        try:
            request.on_sample(sampler, row[None], [state])
        except Exception as error:
            raise EngineError(f"on_sample raised {type(error).__name__}: {error}") from error
    return row


def numbered(error: DecodingError, candidate: Candidate) -> DecodingError:
    """Return an error whose row is the index of the output token; the row in a batch means nothing to the caller."""
    if isinstance(error, (NonFiniteLogitsError, EmptySupportError)):
        return type(error)(candidate.num_tokens, *error.args[1:])
    return error


def _scored(
    sampler: Sampler, candidate: Candidate, token_id: int, scores: OutputScores, row: int
) -> tuple[TokenScore | None, float]:
    """Return a token's score, and its raw log-probability where best_of ranks."""
    score, raw_logprob = plain_score(candidate, scores, row)
    processors = candidate.processors
    if processors is None:
        return score, raw_logprob
    raw = processors.raw_score(sampler, token_id, candidate.request.params.logprobs or 0)
    return score and processors.merged(raw, score), raw.logprob


def plain_score(candidate: Candidate, scores: OutputScores, row: int) -> tuple[TokenScore | None, float]:
    """Return the score of the token of a row, without processors, and its raw log-probability where best_of ranks."""
    params, score = candidate.request.params, None
    if params.logprobs is not None:
        score = scores.of_row(row, params.logprobs, candidate.logprobs_modes, params.logprob_token_ids)
    return score, scores.raw_logprob(row) if candidate.is_ranked else 0.0
