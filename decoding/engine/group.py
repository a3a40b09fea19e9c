"""The candidates of one prompt: they share its prefill, its text and its result."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import TypeAlias

from decoding.engine.best_of import Ranking
from decoding.engine.logprobs import OffsetCounter, TokenScore, token_logprob
from decoding.engine.outputs import CompletionResult, Delta, Metrics, TokenLogprob, Usage
from decoding.engine.request import Request
from decoding.engine.runner import MAX_CHUNK_LOGITS, Logits
from decoding.engine.scheduler import Entry, Family
from decoding.engine.sequence import Sequence
from decoding.engine.transcript import NO_PREFIX, Prefix
from decoding.errors import DecodingError
from decoding.text.detokenizer import Detokenizer
from decoding.text.tokenizer import Tokenizer

Listener: TypeAlias = Callable[["SequenceGroup", Sequence], None]
"""Called when a candidate has got a token, or has ended; once more with the last of them when all have ended."""


class SequenceGroup:
    """A request in the engine. Candidates are made one by one, as slots become free: n may be a million.

    A greedy request is computed once and reported as all of its choices.

    num_runs: candidates that are really computed.
    family: the request as the scheduler sees it.
    first_logits: [vocab], what predicts the first token of candidates to come; None before the prompt has been fed.
    error: why the prompt itself failed; every candidate then fails with it.
    listener: who is told; None where only the result counts.
    """

    def __init__(
        self, request: Request, tokenizer: Tokenizer | None, number: int, vocab_size: int, listener: Listener | None
    ) -> None:
        params = request.params
        self.request = request
        self._is_greedy = request.is_greedy
        self.num_runs = 1 if self._is_greedy else params.num_candidates
        self.listener = listener
        self.first_logits: Logits | None = None
        self.error: DecodingError | None = None
        self.metrics = Metrics()
        self._has_begun = False
        self._arrival = time.perf_counter()
        self._first_token_at: float | None = None
        self._last_token_at = self._arrival
        self._tokenizer = tokenizer
        self._num_started = self._num_finished = 0
        self._num_sampled = 0
        self._scores: list[TokenScore] = []
        self._prompt: Prefix | None = None
        self._ranking = Ranking(1 if self._is_greedy else params.n, ranked=params.ranks_candidates)
        self.scores_prompt = params.echo and params.logprobs is not None and len(request.token_ids) > 1
        self.is_only_scored = self.scores_prompt and not request.max_output_tokens
        self.family = Family(
            arrival=number,
            token_ids=request.token_ids[:-1] if self.is_only_scored else request.token_ids,
            num_left=1 if self.is_only_scored else self.num_runs,
            finds=not self.scores_prompt,
            max_chunk=max(1, MAX_CHUNK_LOGITS // vocab_size) if self.scores_prompt else len(request.token_ids),
            owner=self,
        )

    @property
    def is_done(self) -> bool:
        """Whether the result is there."""
        return self._num_finished == self.num_runs

    def start(self, choice: int) -> Sequence:
        """Candidate number `choice`, once the prompt has been fed."""
        if self._prompt is None:
            self._prompt = self._shown_prompt()
        self._num_started += 1
        if self._num_started == self.num_runs:
            self.first_logits = None
        return Sequence(self.request, choice, self._tokenizer, self._prompt)

    def start_next(self) -> Sequence | None:
        """The next candidate, for an ending without a token; None where all have started."""
        return self.start(self._num_started) if self._num_started < self.num_runs else None

    @property
    def num_top(self) -> int:
        """Rivals that are reported with each token of a scored prompt."""
        return self.request.params.logprobs or 0

    def is_scored(self, entry: Entry) -> bool:
        """Whether what `entry` feeds next is scored: a prompt that echo shows with its log-probabilities."""
        return self.scores_prompt and entry.owner is None and entry.choice == 0

    def following(self, entry: Entry, num_new: int) -> list[int]:
        """The tokens that the next `num_new` rows predict, and that are known."""
        return self.request.token_ids[entry.num_computed + 1 : entry.num_computed + 1 + num_new]

    def add_scores(self, entry: Entry, scores: list[TokenScore]) -> None:
        """Scores of the prompt's tokens behind those that the cache has (nothing predicts the first)."""
        self._scores[entry.num_computed :] = scores

    def finish_scored(self, entry: Entry | None = None) -> None:
        """End every candidate before its first token, because none was asked for."""
        while (sequence := self.start_next()) is not None:
            sequence.finish_empty()
            self.tell(sequence)

    def fail_all(self, error: DecodingError) -> None:
        """End every candidate that has not started."""
        while (sequence := self.start_next()) is not None:
            sequence.fail(error)
            self.tell(sequence)

    def tell(self, sequence: Sequence) -> None:
        """Let the listener know what is new, once a candidate that has ended is counted and ranked."""
        if sequence.num_tokens == 1 and self._first_token_at is None:
            self._first_token_at = time.perf_counter()
        if sequence.finish_reason is not None:
            self._end(sequence)
        if self.listener is not None:
            try:
                self.listener(self, sequence)
            except BaseException:  # the step fails, and that is not told to a listener which would raise again
                self.listener = None
                raise

    def _end(self, sequence: Sequence) -> None:
        """Count and rank a candidate."""
        if sequence.num_tokens:
            self._last_token_at = time.perf_counter()
        self._num_finished += 1
        self._num_sampled += sequence.num_tokens
        self._ranking.add(sequence.finished_choice())
        if self.is_done:
            self._measure()

    def begin(self, num_cached: int) -> bool:
        """The prompt's first part is about to be fed, so many of its tokens the cache had; False for later parts."""
        is_first = not self._has_begun
        if is_first:
            self._has_begun = True
            self.metrics.queue_seconds = time.perf_counter() - self._arrival
            self.metrics.cached_tokens = num_cached
        return is_first

    def _measure(self) -> None:
        metrics, num_tokens = self.metrics, max(1, self._num_sampled)
        first_token_at = self._arrival if self._first_token_at is None else self._first_token_at
        metrics.first_token_seconds = first_token_at - self._arrival
        metrics.prefill_seconds = max(0.0, metrics.first_token_seconds - metrics.queue_seconds)
        metrics.per_token_seconds = (self._last_token_at - first_token_at) / max(1, num_tokens - self.num_runs)
        metrics.num_preemptions = self.family.num_preemptions
        metrics.total_seconds = time.perf_counter() - self._arrival

    def deltas(self, sequence: Sequence, first_index: int) -> list[Delta]:
        """What `sequence` has released since the last call, as choice numbers from `first_index` on."""
        delta = sequence.delta(first_index + sequence.choice)
        if not (delta.text or delta.token_ids or delta.finish_reason):
            return []
        if not self._is_greedy:
            return [delta]
        return [delta, *(replace(deepcopy(delta), index=first_index + i) for i in range(1, self.request.params.n))]

    def result(self, model_name: str) -> CompletionResult:
        """All choices, once every candidate has ended."""
        params = self.request.params
        choices = self._ranking.best()
        if self._is_greedy:
            choices = [replace(deepcopy(choices[0]), index=index) for index in range(params.n)]
        return CompletionResult(
            choices, self.usage, list(self.request.token_ids), model_name, self.metrics, self.request
        )

    @property
    def usage(self) -> Usage:
        """What the candidates that have ended cost; a greedy one counts for all that it stands for."""
        times = self.request.params.num_candidates if self._is_greedy else 1
        return Usage(prompt_tokens=len(self.request.token_ids), completion_tokens=self._num_sampled * times)

    def _shown_prompt(self) -> Prefix:
        """What results show of the prompt; with echo, its tokens' scores."""
        params = self.request.params
        if not params.echo and params.logprobs is None:
            return NO_PREFIX  # nobody will see the text or count its characters
        pieces = _prompt_bytes(self.request, self._tokenizer)
        entries = (
            [] if params.logprobs is None else _prompt_entries(self.request, self._tokenizer, pieces, self._scores)
        )
        return Prefix(b"".join(pieces), self.request.prefix_token_ids, entries)


def _prompt_bytes(request: Request, tokenizer: Tokenizer | None) -> list[bytes]:
    """The bytes of the caller's own part of the prompt, token by token."""
    if tokenizer is None:
        return [b""] * len(request.prefix_token_ids)
    detokenizer = Detokenizer(tokenizer, (), request.params.skip_special_tokens)
    return [detokenizer.append(token_id) for token_id in request.prefix_token_ids]


def _prompt_entries(
    request: Request, tokenizer: Tokenizer | None, pieces: list[bytes], scores: list[TokenScore]
) -> list[TokenLogprob]:
    """Entries of the caller's own part; the first is null by contract, also behind a marker, as are unscored ones."""
    offsets = OffsetCounter()
    first = request.prefix.start
    entries = []
    for index, (token_id, data) in enumerate(zip(request.prefix_token_ids, pieces, strict=True), first):
        score = scores[index - 1] if index > first and index - 1 < len(scores) else None
        entries.append(token_logprob(tokenizer, token_id, data, offsets.add(data), score))
    return entries
