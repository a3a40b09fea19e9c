"""The decoding loop: schedule, run, sample, postprocess.

Every step feeds the newest token of every running sequence, and the prompts of those that start, through the
model in one forward pass, and draws all next tokens in one call of the sampler. Nothing here depends on which
sequences share a step: with equal logits, a request gets the tokens that it would have got alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Several
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from decoding.engine.group import SequenceGroup
from decoding.engine.logprobs import TokenScore
from decoding.engine.request import Request
from decoding.engine.runner import Cache, Logits, Model, Row, Runner
from decoding.engine.sequence import Sequence
from decoding.errors import LogitsError
from decoding.sampler import Sampler, SamplerOutput, SamplingState
from decoding.text.tokenizer import Tokenizer

OnSample: TypeAlias = Callable[[Sampler, Logits, Several[SamplingState]], None]
"""Called before each draw, to look at what is drawn from: logits [rows, vocab], and a state for each row."""

MAX_PREFILL_TOKENS = 2048
"""Prompt tokens after which no further prompt joins the same step."""


@dataclass(frozen=True, slots=True, eq=False)
class Running:
    """A sequence that has a slot of the cache, and the group that it belongs to."""

    group: SequenceGroup
    sequence: Sequence
    slot: int


class Engine:
    """Runs requests on one model, first come, first served, at most `max_num_seqs` sequences at a time.

        engine = Engine(model, tokenizer, max_num_seqs=8)
        groups = [engine.add_request(request) for request in requests]
        while engine.has_work:
            engine.step()
        results = [group.result(name) for group in groups]

    Not for several threads at once. Dropping the engine frees everything that it holds.
    """

    def __init__(
        self,
        model: Model[Cache],
        tokenizer: Tokenizer | None,
        *,
        max_num_seqs: int,
        on_sample: OnSample | None = None,
    ) -> None:
        vocab_size = model.config.vocab_size
        num_valid = vocab_size if tokenizer is None else min(vocab_size, tokenizer.vocab_size)
        self._sampler = Sampler(vocab_size, num_valid_tokens=num_valid)
        self._runner = Runner(model, max_num_seqs)
        self._on_sample = on_sample
        self._tokenizer = tokenizer
        self._waiting: deque[SequenceGroup] = deque()
        self._running: list[Running] = []
        self._free_slots = list(range(max_num_seqs))[::-1]

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything left to do."""
        return bool(self._waiting or self._running)

    def add_request(self, request: Request) -> SequenceGroup:
        """Queue a request; its group has the result once `has_work` is False."""
        group = SequenceGroup(request, self._tokenizer)
        self._waiting.append(group)
        return group

    def step(self) -> list[Running]:
        """One round for everything that fits: each running sequence gets its next token, or its error.

        Returns the sequences that took part, those that ended in this step included.
        """
        self._running += self._schedule()
        self._running.sort(key=lambda running: running.slot)  # neighbours in the cache are read without a copy
        active = [running for running in self._running if not running.sequence.is_finished]
        if active:
            logits = self._run(active)  # [len(active), vocab]
            states = [running.sequence.state for running in active]
            if self._on_sample is not None:
                self._on_sample(self._sampler, logits, states)
            self._postprocess(active, self._sampler.sample(logits, states, on_error="status"))
        return self._retire()

    def _schedule(self) -> list[Running]:
        """Give free slots to the first groups in line.

        A group leaves the line only when its last candidate has started: until then every slot that it was
        given keeps its prompt, also after the candidate in it has ended.
        """
        started: list[Running] = []
        budget = MAX_PREFILL_TOKENS
        while self._waiting and self._free_slots and budget > 0:
            group, slot = self._waiting[0], self._free_slots.pop()
            if group.source_slot is None:
                budget -= len(group.request.token_ids)
                self._admit(group, slot)
            running = Running(group, group.start_next(), slot)
            if group.error is not None:
                running.sequence.fail(group.error)
            elif group.request.max_output_tokens == 0:
                running.sequence.finish_empty()
            elif group.first_logits is not None:  # at once: the source slot may be another group's in this step
                self._fork(running)
            started.append(running)
            if group.is_fully_started:
                self._waiting.popleft()
        return started

    def _admit(self, group: SequenceGroup, slot: int) -> None:
        """Feed what of the prompt must be fed before the step: a long one's beginning, all of one that is scored."""
        request = group.request
        params, scores = request.params, []
        group.source_slot = slot
        try:
            if params.echo and params.logprobs is not None:
                scores = self._score_prompt(slot, request.token_ids, params.logprobs)
                group.num_prefilled = len(request.token_ids) - 1
            elif request.max_output_tokens:
                group.num_prefilled = self._runner.prefill_head(slot, request.token_ids)
        except LogitsError as error:
            group.error = error
        group.show_prompt(scores)

    def _score_prompt(self, slot: int, token_ids: Several[int], num_top: int) -> list[TokenScore]:
        """Raw scores of every prompt token but the first."""
        scores: list[TokenScore] = []
        for logits, following in self._runner.prompt_logits(slot, token_ids):
            output = self._sampler.score(logits, following, num_top=num_top)
            scores += [TokenScore.from_output(output, row, num_top) for row in range(len(following))]
        return scores

    def _run(self, active: Several[Running]) -> Logits:
        """One forward pass; the logits that each active sequence draws from, [len(active), vocab]."""
        starting = [running for running in active if running.sequence.num_tokens == 0]
        fresh = list(dict.fromkeys(r.group for r in starting if r.group.first_logits is None))
        rows = [_prompt_row(group) for group in fresh]
        rows += [_decode_row(running) for running in active if running.sequence.num_tokens]
        logits = self._runner.forward(rows) if rows else np.empty((0, 0), np.float32)
        if not starting:
            return logits
        for group, row in zip(fresh, logits, strict=False):
            group.first_logits = row.copy()
        for running in starting:
            if running.group in fresh and running.slot != running.group.source_slot:
                self._fork(running)
        return _gather(active, logits[len(fresh) :])

    def _fork(self, running: Running) -> None:
        """Share the prompt's prefill; also within one slot, to be rid of what an earlier candidate left there."""
        group = running.group
        if group.source_slot is not None:
            self._runner.fork(group.source_slot, running.slot, len(group.request.token_ids))

    def _postprocess(self, active: Several[Running], output: SamplerOutput) -> None:
        """Hand each sequence its token, or the error of its row."""
        for row, (running, error) in enumerate(zip(active, output.errors, strict=True)):
            sequence, params = running.sequence, running.group.request.params
            if error is not None:
                sequence.fail(error)
                continue
            num_top = params.logprobs
            score = None if num_top is None else TokenScore.from_output(output, row, num_top)
            raw_logprob = float(output.raw_logprobs[row]) if params.ranks_candidates else 0.0
            sequence.append(int(output.token_ids[row]), score, raw_logprob)

    def _retire(self) -> list[Running]:
        """Free the slots of sequences that have ended; returns all that took part in the step."""
        stepped, self._running = self._running, []
        for running in stepped:
            if running.group.is_fully_started:
                running.group.first_logits = None
            if running.sequence.is_finished:
                running.group.finish(running.sequence)
                self._free_slots.append(running.slot)
            else:
                self._running.append(running)
        self._free_slots.sort(reverse=True)  # the lowest is taken first, so that running ones stay neighbours
        return stepped


def _prompt_row(group: SequenceGroup) -> Row:
    """What is left of a prompt to feed."""
    return Row(group.source_slot or 0, group.num_prefilled, group.request.token_ids[group.num_prefilled :])


def _decode_row(running: Running) -> Row:
    """The newest token of a sequence, which the cache does not have yet."""
    sequence = running.sequence
    start = len(running.group.request.token_ids) + sequence.num_tokens - 1
    return Row(running.slot, start, sequence.state.output_token_ids[-1:])


def _gather(active: Several[Running], decoded: Logits) -> Logits:
    """Rows in the order of `active`: a sequence that starts takes its group's, the others take theirs in turn."""
    rest = iter(decoded)
    rows = [next(rest) if r.sequence.num_tokens else r.group.first_logits for r in active]
    return np.stack([row for row in rows if row is not None])  # [len(active), vocab]
