"""The decoding loop: schedule, run, sample, postprocess.

Every step feeds the newest token of every running sequence, and as much of waiting prompts as the step's budget has
room for, through the model, and draws all next tokens in one call of the sampler. Nothing here depends on which
sequences share a step, nor on how often one lost its memory: with equal logits, a request gets the tokens that it
would have got alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from collections.abc import Sequence as Several
from dataclasses import dataclass, fields

from decoding.checks import Check, RuleError, boolean, integer, or_none
from decoding.engine.block_manager import BLOCK_SIZE, MAX_DEPTH, BlockPool, Change, num_blocks_of
from decoding.engine.group import Listener, SequenceGroup
from decoding.engine.logprobs import TokenScore
from decoding.engine.request import Request
from decoding.engine.runner import Cache, Logits, Model, Row, Runner
from decoding.engine.sampling_step import Drawing, draw
from decoding.engine.scheduler import Entry, Scheduler
from decoding.engine.scoring import ScoringGroup
from decoding.engine.speculation import Drafter
from decoding.errors import ContextLengthError, EngineError, LogitsError, ParameterError, Problem, shown
from decoding.sampling.sampler import Sampler
from decoding.text.tokenizer import Tokenizer

DEFAULT_CACHE_BYTES = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What bounds an engine; ParameterError names all that are wrong.

    max_num_seqs: sequences that run at the same time, >= 1; further ones wait.
    max_batched_tokens: tokens that one step feeds, >= 1 (max_num_seqs at least); a long prompt is fed in pieces of it.
    kv_cache_bytes: memory for keys and values; None is what max_num_seqs sequences of full length need, up to 2 GiB.
    prefix_cache: whether the cache keeps what prompts and outputs left in it, for later prompts that begin alike.
    num_draft_tokens: tokens that are guessed at once, where there is speculation.
    """

    max_num_seqs: int = 32
    max_batched_tokens: int = 512
    kv_cache_bytes: int | None = None
    prefix_cache: bool = True
    num_draft_tokens: int = 4

    def __post_init__(self) -> None:
        problems = []
        for field in fields(self):
            value = getattr(self, field.name)
            try:
                object.__setattr__(self, field.name, _SETTINGS[field.name](value))
            except RuleError as error:
                problems.append(Problem(field.name, shown(value), str(error)))
        if problems:
            raise ParameterError(problems)


_SETTINGS: dict[str, Check] = {
    "max_num_seqs": integer(1),
    "max_batched_tokens": integer(1),
    "kv_cache_bytes": or_none(integer(1, 2**63 - 1)),
    "prefix_cache": boolean,
    "num_draft_tokens": integer(1),
}


@dataclass(frozen=True, slots=True)
class EngineStats:
    """The engine at this moment, in plain numbers; totals are since it was made.

    Blocks are of `block_size` tokens. num_blocks_used counts what is kept for later prompts, too; num_blocks_live what
    sequences rely on. num_prompt_tokens: those of prompts (and of what is scored behind them) that were computed;
    num_cached_tokens: those that were found instead.
    """

    num_running: int
    num_waiting: int
    block_size: int
    num_blocks: int
    num_blocks_used: int
    num_blocks_live: int
    kv_cache_bytes: int
    num_steps: int
    num_prompt_tokens: int
    num_cached_tokens: int
    num_sampled_tokens: int
    num_draft_tokens: int
    num_accepted_tokens: int
    num_preemptions: int


class Engine:
    """Runs requests on one model, first come, first served.

        engine = Engine(model, tokenizer, EngineSettings(max_num_seqs=8))
        groups = [engine.add_request(request) for request in requests]
        while engine.has_work:
            engine.step()
        results = [group.result(name) for group in groups]

    Not for several threads at once. Requests may be added and aborted between any two steps.
    """

    def __init__(
        self,
        model: Model[Cache],
        tokenizer: Tokenizer | None,
        settings: EngineSettings,
        drafter: Drafter | None = None,
    ) -> None:
        """`drafter`: who guesses tokens in advance; None decodes one token a step."""
        config = model.config
        num_valid = config.vocab_size if tokenizer is None else min(config.vocab_size, tokenizer.vocab_size)
        self._sampler = Sampler(config.vocab_size, num_valid_tokens=num_valid)
        num_slots = 2 * settings.max_num_seqs  # as many again may keep what is shared, or may be found again
        self._runner = Runner(model, num_slots)
        num_blocks = _num_blocks(settings, config.max_position_embeddings, self._runner.token_bytes)
        if num_blocks < MAX_DEPTH:
            least = MAX_DEPTH * BLOCK_SIZE * self._runner.token_bytes
            raise ParameterError.single("kv_cache_bytes", settings.kv_cache_bytes, f"must be at least {least:,}")
        self._pool = BlockPool(num_slots, num_blocks, keeps=settings.prefix_cache, copies=self._runner.copies)
        self._scheduler = Scheduler(
            self._pool, settings.max_num_seqs, max(settings.max_batched_tokens, settings.max_num_seqs)
        )
        self.max_tokens = min(config.max_position_embeddings, self._scheduler.max_tokens)
        self._vocab_size = config.vocab_size
        self._tokenizer = tokenizer
        self._instant: list[SequenceGroup] = []
        self._drafter = drafter
        self._is_stepping = False
        self._num_draft_tokens = settings.num_draft_tokens
        self._num_guessed = self._num_accepted = 0
        self._num_requests = self._num_steps = self._num_fed = self._num_found = self._num_sampled = 0

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything left to do."""
        return bool(self._instant) or self._scheduler.has_work

    @property
    def stats(self) -> EngineStats:
        """Counts of now, and totals."""
        scheduler, pool = self._scheduler, self._pool
        return EngineStats(
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.preempted) + sum(family.num_left for family in scheduler.waiting),
            block_size=BLOCK_SIZE,
            num_blocks=pool.num_blocks,
            num_blocks_used=pool.num_used,
            num_blocks_live=pool.num_live,
            kv_cache_bytes=pool.num_blocks * BLOCK_SIZE * self._runner.token_bytes,
            num_steps=self._num_steps,
            num_prompt_tokens=self._num_fed,
            num_cached_tokens=self._num_found,
            num_sampled_tokens=self._num_sampled,
            num_draft_tokens=self._num_guessed,
            num_accepted_tokens=self._num_accepted,
            num_preemptions=scheduler.num_preemptions,
        )

    def add_request(self, request: Request, listener: Listener | None = None) -> SequenceGroup:
        """Queue a request. Raises ContextLengthError for a prompt that the memory can never hold.

        listener: called within `step` for each candidate that has got a token or has ended. It may add and abort
            requests; if it raises, the step fails.
        """
        if len(request.token_ids) > self.max_tokens:
            raise ContextLengthError(len(request.token_ids), self.max_tokens)
        group = SequenceGroup(request, self._tokenizer, self._num_requests, self._vocab_size, listener)
        self._num_requests += 1
        if request.max_output_tokens or group.scores_prompt:
            self._scheduler.add(group.family)
        else:
            self._instant.append(group)
        return group

    def add_scoring(self, prompt: list[int], continuations: list[list[int]]) -> ScoringGroup:
        """Queue the scoring of token ids, at least one each, behind one prompt of at least one token.

        Raises ContextLengthError where they can never fit the memory together.
        """
        longest = len(prompt) + max(map(len, continuations)) - 1  # the last token is predicted, and never fed
        if longest > self.max_tokens:
            raise ContextLengthError(longest + 1, self.max_tokens)
        group = ScoringGroup(prompt, continuations, self._num_requests, self._vocab_size)
        self._num_requests += 1
        self._scheduler.add(group.family)
        return group

    def abort(self, group: SequenceGroup | ScoringGroup) -> None:
        """Take a request back, whatever has become of it: its memory is free at once, nobody hears of it again."""
        if isinstance(group, SequenceGroup):
            group.listener = None
            if group in self._instant:
                self._instant.remove(group)
        self._scheduler.remove(group.family)

    def step(self) -> int:
        """One round for everything that fits; returns how many sequences took part.

        A row of logits that nothing can be drawn from ends its own candidate; a forward pass that raises ends those
        that took part in it, with an EngineError that has the cause. EngineError for a call from within a step: by a
        logits processor, say.
        """
        if self._is_stepping:
            raise EngineError("the engine is in the middle of a step, and cannot begin another")
        self._is_stepping = True
        try:
            return self._step()
        finally:
            self._is_stepping = False

    def _step(self) -> int:
        self._num_steps += 1
        while self._instant:
            self._instant.pop(0).finish_scored()
        entries: list[Entry] = []
        try:
            self._guess()
            entries = self._scheduler.schedule()
            self._runner.follow(self._pool.changes)
            drawing = self._run(entries)
            self._scheduler.commit(entries)
            self._draw([one for one in drawing if self._is_ready(one)])
        except BaseException as error:  # an interrupt, too, must not leave a step that is half done
            self._fail(entries, error)
            if not entries or not isinstance(error, Exception):
                raise
        return len(entries)

    def _run(self, entries: Several[Entry]) -> list[Drawing]:
        """The forward passes of a step: one for most sequences, which need the logits of their last token alone."""
        plain, guessed, scored, drawing = list[Entry](), list[Entry](), list[Entry](), list[Drawing]()
        for entry in entries:
            if not entry.num_new:
                drawing.append(Drawing(entry, entry.family.owner.first_logits, 0))
            elif entry.owner is None and self._begin(entry):
                scored.append(entry)
            else:
                (guessed if entry.num_draft else plain).append(entry)
        if plain:
            logits = self._runner.forward(map(_row, plain))
            drawing += [Drawing(entry, logits, row) for row, entry in enumerate(plain)]
        if guessed:
            logits, end = self._runner.forward(map(_row, guessed), all_logits=True), 0
            for entry in guessed:
                end += entry.num_new + entry.num_draft
                drawing.append(Drawing(entry, logits, end - entry.num_draft - 1, entry.draft[: entry.num_draft]))
        for entry in scored:
            logits = self._runner.forward([_row(entry)], all_logits=True)  # [num_new, vocab]
            self._score(entry, logits)
            drawing.append(Drawing(entry, logits, len(logits) - 1))
        return drawing

    def _begin(self, entry: Entry) -> bool:
        """Count a part of a prompt that is fed; whether all its logits are wanted, for the tokens known to follow."""
        self._num_fed += entry.num_new
        if entry.family.owner.begin(entry.num_computed):
            self._num_found += entry.num_computed
        return bool(entry.family.owner.is_scored(entry))

    def _score(self, entry: Entry, logits: Logits) -> None:
        """Raw scores of the tokens that follow the ones just fed; an error ends the whole request."""
        group = entry.family.owner
        following, num_top = group.following(entry, entry.num_new), group.num_top
        try:
            output = self._sampler.score(logits[: len(following)], following, num_top=num_top)
        except LogitsError as error:
            group.error = error
            return
        group.add_scores(entry, [TokenScore.from_output(output, row, num_top) for row in range(len(following))])

    def _is_ready(self, one: Drawing) -> bool:
        """Whether a token can be drawn: all is fed that is known, and the prompt has not failed or was all there is."""
        entry = one.entry
        if entry.slot is None:  # aborted by a listener, just now
            return False
        if entry.owner is not None:
            return not entry.num_pending
        family, group = entry.family, entry.family.owner
        if group.error is not None:
            self._scheduler.remove(family)
            group.fail_all(group.error)
        elif not entry.num_pending and group.is_only_scored:
            self._scheduler.finish(entry)
            group.finish_scored(entry)
        elif not entry.num_pending:
            if family.num_left and group.first_logits is None:
                group.first_logits = one.row[None].copy()
            entry.owner = group.start(entry.choice)
            if entry.owner.num_output_tokens:
                return True
            entry.owner.finish_empty()  # forced to have none
            self._scheduler.finish(entry)
            group.tell(entry.owner)
        return False

    def _draw(self, drawing: list[Drawing]) -> None:
        """Round by round: each sequence takes its token, or the error of its row, and then those that it guessed."""
        while drawing:
            draw(self._sampler, drawing)
            self._num_sampled += len(drawing)
            going_on = [one for one in drawing if one.draft and one.goes_on()]
            for one in drawing:
                if one.entry.slot is None:  # aborted by a listener, just now
                    continue
                sequence = one.sequence
                if one.error is not None:  # what it left in the cache may be as wrong as its logits
                    self._num_sampled -= 1
                    sequence.fail(one.error)
                if one.draft and one not in going_on:
                    self._settle_guesses(one)
                if sequence.finish_reason is not None:
                    self._scheduler.finish(one.entry, forget=one.error is not None)
                one.group.tell(sequence)
            drawing = [one for one in going_on if one.entry.slot is not None]

    def _settle_guesses(self, one: Drawing) -> None:
        """Keep what was guessed right, and let nothing linger of what was wrong."""
        if one.sequence.finish_reason is None:
            self._scheduler.accept(one.entry, one.num_accepted)
            self._runner.follow([Change(one.entry.slot or 0, one.entry.num_computed)])
        one.group.metrics.num_draft_tokens += len(one.draft)
        one.group.metrics.num_accepted_tokens += one.num_accepted
        self._num_guessed += len(one.draft)
        self._num_accepted += one.num_accepted

    def _guess(self) -> None:
        """Let the drafter guess what comes after each sequence that has nothing but its newest token to feed."""
        if self._drafter is None:
            return
        ready = []
        for entry in self._scheduler.running:
            entry.draft = ()
            if entry.owner is not None and entry.num_pending == 1:
                left = entry.owner.num_output_tokens - entry.owner.num_tokens - 1
                room = min(left, self.max_tokens - len(entry.token_ids), self._num_draft_tokens)
                if room > 0:
                    ready.append((entry, room))
        try:
            self._drafter.guess(ready)
        except Exception as error:  # without guesses the texts are the same
            self._drafter = None
            for entry, _ in ready:
                entry.draft = ()
            problem = f"{type(error).__name__}: {error}"
            warnings.warn(f"speculation is off from now on: who guesses raised {problem}", RuntimeWarning, stacklevel=2)

    def _fail(self, entries: Iterable[Entry], cause: BaseException) -> None:
        """The step raised: all who took part in it end, and what they had is given back."""
        error = EngineError(f"the engine's step failed: {type(cause).__name__}")
        error.__cause__ = cause
        for group in dict.fromkeys(entry.family.owner for entry in entries):
            for entry in self._scheduler.remove(group.family):
                if entry.owner is not None:
                    entry.owner.fail(error)
                    group.tell(entry.owner)
            group.fail_all(error)


def _row(entry: Entry) -> Row:
    start, num_draft = entry.num_computed, entry.num_draft
    token_ids = entry.token_ids[start : start + entry.num_new]
    return Row(entry.slot or 0, start, [*token_ids, *entry.draft[:num_draft]] if num_draft else token_ids)


def _num_blocks(settings: EngineSettings, max_tokens: int, token_bytes: int) -> int:
    """As many blocks as the memory allows, and no more than can be used; at least one."""
    wanted = settings.max_num_seqs * num_blocks_of(max_tokens) + MAX_DEPTH - 1
    if not token_bytes:
        return wanted
    most = (settings.kv_cache_bytes or DEFAULT_CACHE_BYTES) // (BLOCK_SIZE * token_bytes)
    return min(most, wanted) if settings.kv_cache_bytes is None else most
