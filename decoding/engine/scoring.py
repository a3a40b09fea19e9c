"""Scoring: how likely given tokens are behind a prompt, which is computed once for all of them."""

from __future__ import annotations

from decoding.engine.logprobs import TokenScore
from decoding.engine.outputs import Score
from decoding.engine.runner import MAX_CHUNK_LOGITS
from decoding.engine.scheduler import Entry, Family
from decoding.errors import DecodingError


class ScoringGroup:
    """Continuations of one prompt in the engine; to the engine what a SequenceGroup is, but nothing is drawn.

    The last token of the prompt predicts the first of each continuation, so it belongs to what each one feeds itself.
    """

    num_top = 0
    is_only_scored = True
    first_logits = None

    def __init__(self, prompt: list[int], continuations: list[list[int]], number: int, vocab_size: int) -> None:
        self.error: DecodingError | None = None
        self._prompt = prompt
        self._continuations = continuations
        self._scores: list[list[TokenScore]] = [[] for _ in continuations]
        self._num_open = len(continuations)
        self.family = Family(
            arrival=number,
            token_ids=prompt[:-1],
            num_left=len(continuations),
            max_chunk=max(1, MAX_CHUNK_LOGITS // vocab_size),
            tails=[[prompt[-1], *continuation[:-1]] for continuation in continuations],
            owner=self,
        )

    @property
    def is_done(self) -> bool:
        """Whether all is scored, or nothing will be."""
        return self.error is not None or not self._num_open

    def begin(self, num_cached: int) -> bool:
        """Whether this counts as found in the cache: nothing here does."""
        return False

    def is_scored(self, entry: Entry) -> bool:
        """What stands behind the prompt is; the prompt is not."""
        return entry.num_computed >= len(self.family.token_ids)

    def following(self, entry: Entry, num_new: int) -> list[int]:
        """The tokens that the next `num_new` rows predict."""
        first = entry.num_computed - len(self.family.token_ids)
        return self._continuations[entry.choice][first : first + num_new]

    def add_scores(self, entry: Entry, scores: list[TokenScore]) -> None:
        """Scores of the next tokens of a continuation; of the same tokens again after it lost its memory."""
        self._scores[entry.choice][entry.num_computed - len(self.family.token_ids) :] = scores

    def finish_scored(self, entry: Entry) -> None:
        """One continuation is scored."""
        self._num_open -= 1

    def fail_all(self, error: DecodingError) -> None:
        """Nothing more will come."""
        self.error = error

    def result(self) -> list[Score]:
        """One for each continuation, in their order; raises what went wrong."""
        if self.error is not None:
            raise self.error
        return [
            Score(
                token_ids=list(token_ids),
                logprobs=[score.logprob for score in scores],
                ranks=[score.rank for score in scores],
                total=sum(score.logprob for score in scores),
            )
            for token_ids, scores in zip(self._continuations, self._scores, strict=True)
        ]
