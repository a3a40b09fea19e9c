"""ScoringTask: how likely given continuations of a prompt are; the prompt is computed once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from decoding.engine.candidate import Candidate
from decoding.engine.logprobs import TokenScore
from decoding.engine.outputs import Metrics, Score
from decoding.engine.sequence import Sequence
from decoding.engine.share import Share
from decoding.engine.tasks.scores import max_score_rows, token_scores
from decoding.errors import DecodingError
from decoding.models.batch import Logits
from decoding.sampling.sampler import Sampler


class ScoringTask:
    """Continuations of one prompt in the engine (see `Task`); nothing is sampled.

    The last token of the prompt predicts the first one of each continuation, so every sequence computes it itself.
    """

    def __init__(
        self,
        prompt: list[int],
        continuations: list[list[int]],
        arrival: int,
        vocab_size: int,
        rope_regime: Callable[[int], int],
    ) -> None:
        """Set up; each continuation has a token. rope_regime: the model's number of the rotary factors for a length."""
        self.arrival = arrival
        self.metrics = Metrics()
        self.share = Share()
        self.is_streamed = False
        self.max_score_rows = max_score_rows(vocab_size)
        self.error: DecodingError | None = None
        self._prompt = prompt
        self._continuations = continuations
        self._scores: list[list[TokenScore]] = [[] for _ in continuations]
        self._num_open = len(continuations)
        self._regimes = [rope_regime(len(prompt) + len(continuation)) for continuation in continuations]
        # Texts with equal rotary factors follow each other: they share what is computed of the prompt.
        self._indices = sorted(range(len(continuations)), key=self._regimes.__getitem__, reverse=True)

    @property
    def num_unstarted(self) -> int:
        """Continuations whose sequence has not been made."""
        return len(self._indices)

    @property
    def is_done(self) -> bool:
        """True if everything is scored, or the task has failed."""
        return self.error is not None or not self._num_open

    @property
    def first_logits(self) -> Logits:
        """Unavailable: each forked sequence computes the prompt's last token itself."""
        raise AssertionError("scoring samples nothing")

    def next_sequence(self) -> Sequence:
        """Make the sequence of the next continuation, with the rotary factors of the whole text."""
        index = self._indices.pop()
        continuation = self._continuations[index]
        return Sequence(
            self,
            index,
            [*self._prompt, *continuation[:-1]],
            num_shared=len(self._prompt) - 1,
            rope_length=len(self._prompt) + len(continuation),
            rope_regime=self._regimes[index],
            score_from=len(self._prompt) - 1,
        )

    def on_admitted(self, sequence: Sequence) -> None:
        """Do nothing: there are no times to record."""

    def on_logits(self, sequence: Sequence, first: int, logits: Logits, sampler: Sampler) -> None:
        """Score the next tokens of a continuation, or the same ones again after a preemption."""
        start = first - sequence.num_shared
        following = self._continuations[sequence.index][start : start + len(logits)]
        self._scores[sequence.index][start:] = token_scores(sampler, logits, following, 0)

    def on_prompt_computed(self, sequence: Sequence, logits: Logits | None) -> Candidate | None:
        """Count a continuation that is scored."""
        self._num_open -= 1
        return None

    def on_sampled(self, candidate: Candidate) -> None:
        """Do nothing; never called, because nothing is sampled."""

    def on_preempted(self) -> None:
        """Count a preemption."""
        self.metrics.num_preemptions += 1

    def fail(self, sequences: Iterable[Sequence], error: DecodingError) -> None:
        """End the whole task; `result` then raises the error."""
        self.error = error

    def result(self) -> list[Score]:
        """Return one score per continuation, in their order; raise the error of a task that failed."""
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
