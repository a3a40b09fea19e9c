"""The candidates of one prompt: they share its prefill, its text and its result."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace

from decoding.engine.logprobs import OffsetCounter, TokenScore, token_logprob
from decoding.engine.outputs import CompletionResult, Delta, TokenLogprob, Usage
from decoding.engine.ranking import Ranking
from decoding.engine.request import Request
from decoding.engine.runner import Logits
from decoding.engine.sequence import Sequence
from decoding.engine.transcript import NO_PREFIX, Prefix
from decoding.errors import DecodingError
from decoding.text.detokenizer import Detokenizer
from decoding.text.tokenizer import Tokenizer


class SequenceGroup:
    """A request in the engine. Candidates are made one by one, as slots become free: n may be a million.

    A greedy request is computed once and reported as all of its choices.

    source_slot: the slot whose first tokens are the prompt, from the group's first candidate on.
    num_prefilled: how many of the prompt's tokens the cache has before the step that feeds the rest.
    first_logits: [vocab], what predicts the first token of every candidate; None until the prompt has been fed.
    error: why the prompt itself failed; every candidate then fails with it.
    """

    def __init__(self, request: Request, tokenizer: Tokenizer | None) -> None:
        self.request = request
        self.source_slot: int | None = None
        self.num_prefilled = 0
        self.first_logits: Logits | None = None
        self.error: DecodingError | None = None
        self._tokenizer = tokenizer
        self._num_started = 0
        self._num_sampled = 0
        self._prompt = NO_PREFIX
        self._ranking = Ranking(1 if request.is_greedy else request.params.n, ranked=request.params.ranks_candidates)

    @property
    def num_runs(self) -> int:
        """Candidates that are really computed."""
        return 1 if self.request.is_greedy else self.request.params.num_candidates

    @property
    def is_fully_started(self) -> bool:
        """Whether no further candidate will start."""
        return self._num_started == self.num_runs

    def show_prompt(self, scores: list[TokenScore]) -> None:
        """Make what results show of the prompt; `scores`, for echo, are those of all prompt tokens but the first."""
        params = self.request.params
        if not params.echo and params.logprobs is None:
            return  # nobody will see the text or count its characters
        pieces = _prompt_bytes(self.request, self._tokenizer)
        entries = [] if params.logprobs is None else _prompt_entries(self.request, self._tokenizer, pieces, scores)
        self._prompt = Prefix(b"".join(pieces), self.request.prefix_token_ids, entries)

    def start_next(self) -> Sequence:
        """The next candidate."""
        sequence = Sequence(self.request, self._num_started, self._tokenizer, self._prompt)
        self._num_started += 1
        return sequence

    def finish(self, sequence: Sequence) -> None:
        """Count and rank a candidate that has ended."""
        self._num_sampled += sequence.num_tokens
        self._ranking.add(sequence.finished_choice())

    def deltas(self, sequence: Sequence, first_index: int) -> Iterator[Delta]:
        """What `sequence` has released since the last call, as choice numbers from `first_index` on."""
        delta = sequence.delta(first_index + sequence.choice)
        if not (delta.text or delta.token_ids or delta.finish_reason):
            return
        yield delta
        if self.request.is_greedy:
            for index in range(1, self.request.params.n):
                yield replace(deepcopy(delta), index=first_index + index)

    def result(self, model_name: str) -> CompletionResult:
        """All choices, once every candidate has ended."""
        params = self.request.params
        choices, num_sampled = self._ranking.best(), self._num_sampled
        if self.request.is_greedy:
            choices = [replace(deepcopy(choices[0]), index=index) for index in range(params.n)]
            num_sampled *= params.num_candidates
        usage = Usage(prompt_tokens=len(self.request.token_ids), completion_tokens=num_sampled)
        return CompletionResult(choices, usage, list(self.request.token_ids), model_name)


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
        score = scores[index - 1] if scores and index > first else None
        entries.append(token_logprob(tokenizer, token_id, data, offsets.add(data), score))
    return entries
