"""The draw of one step: all sequences in one call of the sampler, round by round where guesses are to be checked.

A guess is right if it is the token that plain decoding draws: each round draws as if there were no guesses, from the
row of logits behind the guesses that were right so far, with everything before it recorded (as `Sampler.verify` does
for one sequence). So the tokens are those of plain decoding for the same logits, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence as Several
from dataclasses import dataclass, field

import numpy as np

from decoding.engine.group import SequenceGroup
from decoding.engine.logprobs import TokenScore
from decoding.engine.runner import Logits
from decoding.engine.scheduler import Entry
from decoding.engine.sequence import Sequence
from decoding.errors import DecodingError
from decoding.sampler import Sampler, SamplerOutput
from decoding.state import SamplingState


@dataclass(slots=True, eq=False)
class Drawing:
    """A sequence that draws in this step.

    logits: [rows, vocab], of which row `first` predicts the next token, and the i-th after it the token behind the i-th
    guess. num_accepted: guesses that were right. error: why it could not draw.
    """

    entry: Entry
    group: SequenceGroup
    sequence: Sequence
    logits: Logits
    first: int
    draft: list[int] = field(default_factory=list)
    num_accepted: int = 0
    error: DecodingError | None = None

    @property
    def row(self) -> Logits:
        """What the next token is drawn from, [vocab]."""
        row: Logits = self.logits[self.first + self.num_accepted]
        return row

    def goes_on(self) -> bool:
        """Whether the token just drawn was guessed, so that the next one can be drawn, too; counts it then."""
        is_right = self.num_accepted < len(self.draft) and self.entry.token_ids[-1] == self.draft[self.num_accepted]
        if self.error is not None or self.sequence.is_finished:
            self.num_accepted += is_right and self.error is None
            return False
        self.num_accepted += is_right
        return is_right


def draw(sampler: Sampler, drawing: Several[Drawing], matrix: Logits | None) -> None:
    """Draw one token for each and give it to its sequence; a row that fails leaves its error in its Drawing.

    matrix: the rows of all, [len(drawing), vocab], where they are one array already.
    """
    if matrix is None or any(one.sequence.processing is not None for one in drawing):
        drawing, matrix = _prepared(drawing)
    if not drawing:
        return
    states = [_state(one) for one in drawing]
    for row, one in enumerate(drawing):
        if one.group.request.on_sample is not None:
            one.group.request.on_sample(sampler, matrix[row : row + 1], states[row : row + 1])
    output = sampler.sample(matrix, states, on_error="status")
    token_ids = output.token_ids.tolist()
    for row, (one, token_id, error) in enumerate(zip(drawing, token_ids, output.errors, strict=True)):
        if error is None:
            _append(sampler, one, token_id, output, row)
        else:
            one.error = error


def _prepared(drawing: Several[Drawing]) -> tuple[list[Drawing], Logits]:
    """Those whose processors did not fail, and their rows in one array."""
    rows, ready = [], []
    for one in drawing:
        try:
            processing = one.sequence.processing
            rows.append(one.row if processing is None else processing.row(one.row, one.entry.token_ids))
            ready.append(one)
        except DecodingError as error:
            one.error = error
    return ready, np.stack(rows) if rows else np.empty((0, 0), np.float32)


def _state(one: Drawing) -> SamplingState:
    processing, forced = one.sequence.processing, one.group.request.forced
    state = one.sequence.state if processing is None else processing.state
    if forced is not None:
        state.force(forced[one.sequence.choice][state.position])
    return state


def _append(sampler: Sampler, one: Drawing, token_id: int, output: SamplerOutput, row: int) -> None:
    params, processing = one.group.request.params, one.sequence.processing
    num_top, score, raw_logprob = params.logprobs, None, 0.0
    if num_top is not None:
        modes = params.logprobs_modes if processing is None else processing.state.params.logprobs_modes
        score = TokenScore.from_output(output, row, num_top, modes)
    if params.ranks_candidates:
        raw_logprob = float(output.raw_logprobs[row])
    if processing is not None:
        processing.commit(token_id, output, row)
        if num_top is not None or params.ranks_candidates:
            raw = processing.raw_score(sampler, token_id, num_top or 0)
            score, raw_logprob = score and processing.merged(raw, score), raw.logprob
    one.sequence.append(token_id, score, raw_logprob)
    one.entry.token_ids.append(token_id)
