"""BeamGroup: choose the hypotheses that a beam search extends, and those that it keeps. No model, no memory.

At each position a group looks at the best continuations of its running beams, twice as many as it has beams, or more
where several tokens end a text. The best ones that end are finished hypotheses, if they are among as many as it has
beams; the best ones that go on are the next running beams (transformers' rules since version 4.50).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from decoding.engine.logprobs import TokenScore


@dataclass(slots=True, eq=False)
class Beam:
    """A hypothesis: its tokens, and how they scored.

    total: the sum of the tokens' log-probabilities, less diversity penalties; float64, in token order.
    parent: the beam that it extends by one token; None for the prompt alone.
    """

    token_ids: list[int] = field(default_factory=list)
    scores: list[TokenScore] = field(default_factory=list)
    total: float = 0.0
    parent: Beam | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """A hypothesis that has ended, with its final score."""

    beam: Beam
    score: float


class BeamGroup:
    """The running beams and the finished hypotheses of one group, the best first."""

    def __init__(
        self,
        root: Beam,
        width: int,
        *,
        max_tokens: int,
        end_token_ids: Collection[int],
        length_penalty: float = 1.0,
        early_stopping: bool | Literal["never"] = False,
    ) -> None:
        self.running = [root]
        self.finished: list[Finished] = []
        self.is_done = False
        self._width = width
        self._num_considered = max(2, 1 + len(end_token_ids)) * width
        self._max_tokens = max_tokens
        self._end_token_ids = frozenset(end_token_ids)
        self._length_penalty = length_penalty
        self._early_stopping = early_stopping

    def step(
        self, tops: Sequence[Sequence[TokenScore]], ids: Sequence[Sequence[int]], penalties: Counter[int], weight: float
    ) -> None:
        """Extend the running beams by one token.

        ids, tops: for each running beam, its most likely tokens and their scores, most likely first.
        penalties: how often earlier groups have chosen each token at this position; each time costs `weight`.
        """
        best = self._best(tops, ids, penalties, weight)
        length = len(best[0].token_ids) if best else self._max_tokens
        is_last = length >= self._max_tokens
        ends = [is_last or beam.token_ids[-1] in self._end_token_ids for beam in best]
        for beam, has_ended in zip(best[: self._width], ends, strict=False):
            if has_ended:
                self.finished.append(Finished(beam, beam.total / length**self._length_penalty))
        self.finished.sort(key=lambda one: -one.score)  # stable: of equal ones the earlier is kept
        del self.finished[self._width :]
        self.running = [beam for beam, has_ended in zip(best, ends, strict=True) if not has_ended][: self._width]
        self.is_done = not self.running or not self._can_improve(length)

    def _best(
        self, tops: Sequence[Sequence[TokenScore]], ids: Sequence[Sequence[int]], penalties: Counter[int], weight: float
    ) -> list[Beam]:
        """Return the best continuations in order; ties go to the better beam, then to the likelier token."""
        candidates = [
            (beam.total + score.logprob - weight * penalties[token_id], beam, token_id, score)
            for beam, its_ids, its_scores in zip(self.running, ids, tops, strict=True)
            for token_id, score in zip(its_ids, its_scores, strict=True)
        ]
        candidates.sort(key=lambda one: -one[0])
        return [
            Beam([*beam.token_ids, token_id], [*beam.scores, score], total, beam)
            for total, beam, token_id, score in candidates[: self._num_considered]
        ]

    def _can_improve(self, length: int) -> bool:
        """Return True if a running beam may still replace a finished hypothesis."""
        if len(self.finished) < self._width:
            return True
        if self._early_stopping is True:
            return False
        is_patient = self._early_stopping == "never" and self._length_penalty > 0
        hypothetical = self._max_tokens if is_patient else length
        return self.running[0].total / float(hypothetical**self._length_penalty) > self.finished[-1].score
