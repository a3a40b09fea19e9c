"""The draw of one step: all sequences in one call of the sampler, round by round where guesses are to be checked.

A guess is right if it is the token that plain decoding draws: each round draws as if there were no guesses, from the
row of logits behind the guesses that were right so far, with everything before it recorded (as `Sampler.verify` does
for one sequence). So the tokens are those of plain decoding for the same logits, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence as Several
from dataclasses import dataclass

import numpy as np

from decoding.engine.group import SequenceGroup
from decoding.engine.logprobs import TokenScore
from decoding.engine.runner import Logits
from decoding.engine.scheduler import Entry
from decoding.engine.sequence import Sequence
from decoding.errors import DecodingError, EmptySupportError, EngineError, NonFiniteLogitsError
from decoding.sampling.sampler import Sampler, SamplerOutput


@dataclass(slots=True, eq=False)
class Drawing:
    """A sequence that draws in this step.

    logits: [rows, vocab], of which row `first` predicts the next token, and the i-th after it the token behind the i-th
    guess. num_accepted: guesses that were right. error: why it could not draw.
    """

    entry: Entry
    logits: Logits
    first: int
    draft: Several[int] = ()
    num_accepted: int = 0
    error: DecodingError | None = None

    @property
    def sequence(self) -> Sequence:
        """Whose next token it is."""
        sequence: Sequence = self.entry.owner
        return sequence

    @property
    def group(self) -> SequenceGroup:
        """The request that it belongs to."""
        group: SequenceGroup = self.entry.family.owner
        return group

    @property
    def row(self) -> Logits:
        """What the next token is drawn from, [vocab]."""
        row: Logits = self.logits[self.first + self.num_accepted]
        return row

    def goes_on(self) -> bool:
        """Whether the token just drawn was guessed, so that the next one can be drawn, too; counts it then."""
        if self.error is not None or self.num_accepted == len(self.draft):
            return False
        is_right = self.entry.token_ids[-1] == self.draft[self.num_accepted]
        self.num_accepted += is_right
        return is_right and not self.sequence.is_finished


def draw(sampler: Sampler, drawing: Several[Drawing]) -> None:
    """Draw one token for each and give it to its sequence; a row that fails leaves its error in its Drawing."""
    sequences = [one.sequence for one in drawing]
    matrix = drawing[0].logits
    is_whole = len(matrix) == len(drawing) and all(one.logits is matrix for one in drawing)  # and then in order
    if not is_whole or any(sequence.is_special for sequence in sequences):
        drawing, matrix = _prepared(sampler, drawing)
        sequences = [one.sequence for one in drawing]
        if not drawing:
            return
    output = sampler.sample(matrix, [sequence.drawing_state for sequence in sequences], on_error="status")
    for row, (one, sequence, token_id) in enumerate(zip(drawing, sequences, output.token_ids.tolist(), strict=True)):
        if token_id < 0:
            one.error = _numbered(output.failures[row], sequence)
            continue
        score, raw_logprob = None, 0.0
        if sequence.is_reported:
            score, raw_logprob = _reported(sampler, sequence, token_id, output, row)
        if sequence.processing is not None:
            sequence.processing.commit(token_id, output, row)
        sequence.append(token_id, score, raw_logprob)
        one.entry.token_ids.append(token_id)


def _prepared(sampler: Sampler, drawing: Several[Drawing]) -> tuple[list[Drawing], Logits]:
    """Those whose processors did not fail, and their rows in one array."""
    rows, ready = [], []
    for one in drawing:
        try:
            rows.append(_prepared_row(sampler, one))
            ready.append(one)
        except DecodingError as error:
            one.error = _numbered(error, one.sequence)
    return ready, np.stack(rows) if rows else np.empty((0, 0), np.float32)


def _prepared_row(sampler: Sampler, one: Drawing) -> Logits:
    """A row as its processors leave it; who watches the draw is told."""
    sequence, row = one.sequence, one.row
    request, state = sequence.request, sequence.drawing_state
    if sequence.processing is not None:
        row = sequence.processing.row(row, one.entry.token_ids)
    if request.forced is not None:
        state.force(request.forced[sequence.choice][state.position])
    if request.on_sample is not None:
        try:
            request.on_sample(sampler, row[None], [state])
        except Exception as error:
            raise EngineError(f"on_sample raised {type(error).__name__}: {error}") from error
    return row


def _numbered(error: DecodingError, sequence: Sequence) -> DecodingError:
    """An error that has the number of the output token for its row: the row of a batch is nobody's business."""
    if isinstance(error, (NonFiniteLogitsError, EmptySupportError)):
        return type(error)(sequence.num_tokens, *error.args[1:])
    return error


def _reported(
    sampler: Sampler, sequence: Sequence, token_id: int, output: SamplerOutput, row: int
) -> tuple[TokenScore | None, float]:
    """What the request asks for of a token: its score, and its raw log-probability where best_of ranks."""
    params, processing = sequence.request.params, sequence.processing
    num_top, score, raw_logprob = params.logprobs, None, 0.0
    if num_top is not None:
        score = TokenScore.from_output(output, row, num_top, sequence.drawing_state.params.logprobs_modes)
    if processing is not None:
        raw = processing.raw_score(sampler, token_id, num_top or 0)
        return score and processing.merged(raw, score), raw.logprob
    if params.ranks_candidates:
        raw_logprob = float(output.raw_logprobs[row])
    return score, raw_logprob
