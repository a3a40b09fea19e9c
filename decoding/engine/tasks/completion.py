"""CompletionTask: one request for text, with its n or best_of candidates and its echoed prompt."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import replace
from typing import TypeAlias

from decoding.engine.best_of import Ranking
from decoding.engine.candidate import Candidate
from decoding.engine.healing import Healing
from decoding.engine.logprobs import TokenScore
from decoding.engine.outputs import CompletionResult, Delta, Metrics, Usage
from decoding.engine.request import Request
from decoding.engine.sequence import Sequence
from decoding.engine.share import Share
from decoding.engine.tasks.echo import shown_prompt
from decoding.engine.tasks.scores import max_score_rows, token_scores
from decoding.engine.transcript import Prefix
from decoding.errors import DecodingError
from decoding.models.batch import Logits
from decoding.sampling.sampler import Sampler
from decoding.text.tokenizer import Tokenizer

Listener: TypeAlias = Callable[["CompletionTask", Candidate], None]
"""Called when a candidate has got a token, and when it has ended."""


class CompletionTask:
    """A request in the engine (see `Task`).

    Candidates are made one by one, as they can run: n may be a million. A greedy request is computed once and reported
    as all of its choices.

    num_runs: candidates to compute.
    listener: called with the news of each candidate; None where only the result counts.
    """

    def __init__(
        self,
        request: Request,
        arrival: int,
        tokenizer: Tokenizer | None,
        vocab_size: int,
        rope_regime: int,
        listener: Listener | None = None,
        share: Share | None = None,
        *,
        is_streamed: bool = False,
    ) -> None:
        """rope_regime: the model's, for the length of the prompt. share: that of its request; None is its own one."""
        params = request.params
        self.request = request
        self.arrival = arrival
        self._is_greedy = request.is_greedy
        self.num_runs = 1 if self._is_greedy else params.num_candidates
        self.max_score_rows = max_score_rows(vocab_size)
        self.listener = listener
        self.is_streamed = is_streamed
        self.metrics = Metrics()
        self.share = Share() if share is None else share
        self.scores_prompt = params.echo and params.logprobs is not None and len(request.token_ids) > 1
        self.healing = None if request.remainder is None else Healing(request.remainder)
        self.is_instant = not request.max_output_tokens and not self.scores_prompt
        self._tokenizer = tokenizer
        self._rope_regime = rope_regime
        self._arrived_at = time.perf_counter()
        self._first_token_at: float | None = None
        self._last_token_at = self._arrived_at
        self._num_made = self._num_finished = self._num_sampled = 0
        self._scores: list[TokenScore] = []
        self._first_logits: Logits | None = None
        self._prefix: Prefix | None = None
        self._ranking = Ranking(1 if self._is_greedy else params.n, ranked=params.ranks_candidates)

    @property
    def is_done(self) -> bool:
        """True once all candidates have ended."""
        return self._num_finished == self.num_runs

    @property
    def first_logits(self) -> Logits:
        """The logits [vocab] behind the prompt."""
        if self._first_logits is None:
            raise AssertionError("the prompt is not computed")
        return self._first_logits

    @property
    def num_unstarted(self) -> int:
        """The number of sequences not made yet. A prompt that is only scored needs one for all candidates."""
        return (self.num_runs if self.request.max_output_tokens else 1) - self._num_made

    def next_sequence(self) -> Sequence:
        """Make the sequence of the next candidate. With echo, the first one has the prompt scored."""
        index, token_ids = self._num_made, self.request.token_ids
        self._num_made += 1
        if not self.request.max_output_tokens:  # nobody wants the logits of the last token
            token_ids = token_ids[:-1]
        return Sequence(
            self,
            index,
            list(token_ids),
            num_shared=len(token_ids),
            rope_length=self.request.rope_length,
            rope_regime=self._rope_regime,
            score_from=0 if self.scores_prompt and index == 0 else None,
        )

    def on_admitted(self, sequence: Sequence) -> None:
        """Note when the prompt's computation begins, and how much of it was cached."""
        if sequence.index == 0:
            self.metrics.queue_seconds = time.perf_counter() - self._arrived_at
            self.metrics.cached_tokens = sequence.num_computed

    def on_logits(self, sequence: Sequence, first: int, logits: Logits, sampler: Sampler) -> None:
        """Score the tokens of the prompt that these rows predict."""
        following = self.request.token_ids[first + 1 : first + 1 + len(logits)]
        params = self.request.params
        self._scores[first:] = token_scores(sampler, logits, following, params.logprobs or 0, params.logprob_token_ids)

    def on_prompt_computed(self, sequence: Sequence, logits: Logits | None) -> Candidate | None:
        """Return the sequence's candidate; None if no token is asked for."""
        sequence.score_from = None
        if not self.request.max_output_tokens:
            self.finish_empty()
            return None
        if logits is not None and self.num_runs > 1 and self._first_logits is None:
            self._first_logits = logits.copy()
        candidate = self._new_candidate(sequence.index)
        if candidate.num_output_tokens:
            return candidate
        candidate.finish_empty()  # a replay whose choice has no token
        self.on_sampled(candidate)
        return None

    def on_sampled(self, candidate: Candidate) -> None:
        """Count a token or an end, and call the listener."""
        if self._first_token_at is None and candidate.num_tokens:
            self._first_token_at = time.perf_counter()
        if candidate.finish_reason is not None:
            self._count_finished(candidate)
        if self.listener is not None:
            try:
                self.listener(self, candidate)
            except BaseException:  # the step fails, and the listener is not called for that: it would raise again
                self.listener = None
                raise
            if candidate.finish_reason is not None and self.is_done:
                self.listener = None  # which mostly refers to the task

    def on_preempted(self) -> None:
        """Count a preemption."""
        self.metrics.num_preemptions += 1

    def fail(self, sequences: Iterable[Sequence], error: DecodingError) -> None:
        """End the candidates of these sequences, and all that have not started."""
        for sequence in sequences:
            self._fail(sequence.candidate or self._new_candidate(sequence.index), error)
        for index in range(self._num_made, self.num_runs):
            self._fail(self._new_candidate(index), error)

    def finish_empty(self) -> None:
        """End every candidate before its first token, because none was asked for."""
        for index in range(self.num_runs):
            candidate = self._new_candidate(index)
            candidate.finish_empty()
            self.on_sampled(candidate)

    def deltas(self, candidate: Candidate, first_index: int) -> list[Delta]:
        """Return a candidate's output since the last call, as choices numbered from `first_index`.

        Text that was held back is a piece of its own, before the piece with the candidate's error.
        """
        delta = candidate.delta(first_index + candidate.choice)
        if not (delta.text or delta.token_ids or delta.finish_reason):
            return []
        pieces = [delta]
        if delta.error is not None and (delta.text or delta.token_ids):
            pieces = [replace(delta, finish_reason=None, error=None), candidate.delta(delta.index)]
        if not self._is_greedy:
            return pieces
        indices = range(first_index + 1, first_index + self.request.params.n)
        return [*pieces, *(replace(deepcopy(piece), index=index) for index in indices for piece in pieces)]

    def result(self, model_name: str) -> CompletionResult:
        """Return all choices, once every candidate has ended."""
        params = self.request.params
        choices = self._ranking.best()
        if self._is_greedy:
            choices = [replace(deepcopy(choices[0]), index=index) for index in range(params.n)]
        return CompletionResult(
            choices, self.usage, list(self.request.token_ids), model_name, self.metrics, self.request
        )

    @property
    def usage(self) -> Usage:
        """Tokens of the candidates that have ended. The one run of a greedy request counts for all its choices."""
        times = self.request.params.num_candidates if self._is_greedy else 1
        return Usage(prompt_tokens=len(self.request.token_ids), completion_tokens=self._num_sampled * times)

    def _new_candidate(self, choice: int) -> Candidate:
        if self._prefix is None:
            self._prefix = shown_prompt(self.request, self._tokenizer, self._scores)
        return Candidate(self.request, choice, self._tokenizer, self._prefix, self.healing)

    def _fail(self, candidate: Candidate, error: DecodingError) -> None:
        candidate.fail(error)
        self.on_sampled(candidate)

    def _count_finished(self, candidate: Candidate) -> None:
        if candidate.num_tokens:
            self._last_token_at = time.perf_counter()
        self._num_finished += 1
        self._num_sampled += candidate.num_tokens
        self._ranking.add(candidate.finished_choice())
        if self.is_done:
            self._first_logits = None
            self._measure()

    def _measure(self) -> None:
        metrics, num_tokens = self.metrics, max(1, self._num_sampled)
        first_token_at = self._arrived_at if self._first_token_at is None else self._first_token_at
        metrics.first_token_seconds = first_token_at - self._arrived_at
        metrics.prefill_seconds = max(0.0, metrics.first_token_seconds - metrics.queue_seconds)
        metrics.per_token_seconds = (self._last_token_at - first_token_at) / max(1, num_tokens - self.num_runs)
        metrics.total_seconds = time.perf_counter() - self._arrived_at
