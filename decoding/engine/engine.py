"""The decoding loop: schedule, run, sample, postprocess.

Every step feeds the newest token of every running sequence, and as much of waiting prompts as the step's budget has
room for, through the model, and draws all next tokens in one call of the sampler. Nothing here depends on which
sequences share a step, nor on how often one lost its memory: with equal logits, a request gets the tokens that it
would have got alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Several
from dataclasses import dataclass, fields
from typing import NamedTuple

from decoding.checks import Check, RuleError, boolean, integer, or_none
from decoding.engine.blocks import BLOCK_SIZE, MAX_DEPTH, BlockPool, Change, num_blocks_of
from decoding.engine.drawing import Drawing, draw
from decoding.engine.group import Listener, SequenceGroup
from decoding.engine.logprobs import TokenScore
from decoding.engine.request import Request
from decoding.engine.runner import Cache, Logits, Model, Row, Runner
from decoding.engine.scheduler import Entry, Scheduler, Work
from decoding.engine.scoring import ScoringGroup
from decoding.engine.speculation import Drafter
from decoding.errors import ContextLengthError, EngineError, LogitsError, ParameterError, Problem, shown
from decoding.sampler import Sampler
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
    sequences rely on.
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


class _Rows(NamedTuple):
    """Logits of a step: for each sequence the array, [rows, vocab], and its first row there; one that has them all."""

    of: dict[Entry, tuple[Logits, int]]
    matrix: Logits | None


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

        listener: called within `step` for each candidate that has got a token or has ended.
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
        that took part in it, with an EngineError that has the cause.
        """
        self._num_steps += 1
        for group in self._instant:
            group.finish_scored()
        self._instant.clear()
        works: list[Work] = []
        try:
            self._guess()
            works = self._scheduler.schedule()
            self._runner.follow(self._pool.changes)
            rows = self._run(works)
            self._scheduler.commit(works)
            self._draw([one for work in works if (one := self._drawing(work, rows)) is not None], rows.matrix)
            for family in {work.entry.family for work in works if not work.entry.family.num_left}:
                family.owner.first_logits = None  # nobody is left to start from them
        except BaseException as error:  # an interrupt, too, must not leave a step that is half done
            self._fail(works, error)
            if not works or not isinstance(error, Exception):
                raise
        return len(works)

    def _run(self, works: Several[Work]) -> _Rows:
        """The forward passes of a step."""
        self._count(works)
        kinds: dict[str, list[Work]] = {"plain": [], "guessed": [], "scored": []}
        for work in works:
            if work.num_new:
                kinds["scored" if _is_scored(work) else "guessed" if work.num_draft else "plain"].append(work)
        plain, rows, logits = kinds["plain"], dict[Entry, tuple[Logits, int]](), None
        if plain:
            logits = self._runner.forward([_row(work) for work in plain])
            rows.update((work.entry, (logits, row)) for row, work in enumerate(plain))
        if kinds["guessed"]:
            every, first = self._runner.forward([_row(work) for work in kinds["guessed"]], all_logits=True), 0
            for entry, num_new, num_draft in kinds["guessed"]:
                rows[entry] = (every, first + num_new - 1)
                first += num_new + num_draft
        for work in kinds["scored"]:
            every = self._runner.forward([_row(work)], all_logits=True)  # [num_new, vocab]
            self._score(work, every)
            rows[work.entry] = (every, len(every) - 1)
        return _Rows(rows, logits if len(plain) == len(works) else None)

    def _count(self, works: Several[Work]) -> None:
        self._num_fed += sum(work.num_new for work in works)
        for entry, num_new, _ in works:
            group = entry.family.owner
            if num_new and group.begin(entry.num_computed):
                self._num_found += entry.num_computed

    def _score(self, work: Work, logits: Logits) -> None:
        """Raw scores of the tokens that follow the ones just fed; an error ends the whole request."""
        group, entry = work.entry.family.owner, work.entry
        following, num_top = group.following(entry, work.num_new), group.num_top
        try:
            output = self._sampler.score(logits[: len(following)], following, num_top=num_top)
        except LogitsError as error:
            group.error = error
            return
        group.add_scores(entry, [TokenScore.from_output(output, row, num_top) for row in range(len(following))])

    def _drawing(self, work: Work, rows: _Rows) -> Drawing | None:
        """The draw of a sequence whose tokens are all fed; None for the others."""
        entry, group = work.entry, work.entry.family.owner
        if group.error is not None:
            self._scheduler.remove(entry.family)
            group.fail_all(group.error)
        elif not entry.num_pending and group.is_only_scored:
            self._scheduler.finish(entry)
            group.finish_scored(entry)
        elif not entry.num_pending:
            logits, first = rows.of.get(entry) or (group.first_logits, 0)
            if entry.owner is None:
                entry.owner = group.start(entry.choice)
                if entry.family.num_left and group.first_logits is None:
                    group.first_logits = logits[first : first + 1].copy()
                if not entry.owner.num_output_tokens:  # forced to have none
                    entry.owner.finish_empty()
                    self._scheduler.finish(entry)
                    group.tell(entry.owner)
                    return None
            return Drawing(entry, group, entry.owner, logits, first, entry.draft[: work.num_draft])
        return None

    def _draw(self, drawing: list[Drawing], matrix: Logits | None) -> None:
        """Round by round: each sequence takes its token, or the error of its row, and then those that it guessed."""
        if matrix is not None and len(matrix) != len(drawing):
            matrix = None
        while drawing:
            draw(self._sampler, drawing, matrix)
            going_on = [one for one in drawing if one.goes_on()]
            for one in drawing:
                self._settle(one, ends=one not in going_on)
            drawing, matrix = going_on, None

    def _settle(self, one: Drawing, *, ends: bool) -> None:
        """Tell what has come of a draw; `ends`: it was the last of this step."""
        entry, group, sequence = one.entry, one.group, one.sequence
        self._num_sampled += one.error is None
        if one.error is not None:  # what it left in the cache may be as wrong as its logits
            sequence.fail(one.error)
        if ends and one.draft:
            self._count_guesses(one)
        if sequence.is_finished:
            self._scheduler.finish(entry, forget=one.error is not None)
        elif ends and one.draft:
            self._scheduler.accept(entry, one.num_accepted)
            self._runner.follow([Change(entry.slot or 0, entry.num_computed)])  # what was wrong must not linger
        group.tell(sequence)

    def _count_guesses(self, one: Drawing) -> None:
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
            entry.draft = []
            if entry.owner is not None and entry.num_pending == 1:
                left = entry.owner.num_output_tokens - entry.owner.num_tokens - 1
                room = min(left, self.max_tokens - len(entry.token_ids), self._num_draft_tokens)
                if room > 0:
                    ready.append((entry, room))
        self._drafter.guess(ready)

    def _fail(self, works: Iterable[Work], cause: BaseException) -> None:
        """The step raised: all who took part in it end, and what they had is given back."""
        error = EngineError(f"the engine's step failed: {type(cause).__name__}")
        error.__cause__ = cause
        for group in dict.fromkeys(work.entry.family.owner for work in works):
            entries = self._scheduler.remove(group.family)
            for entry in entries:
                if entry.owner is not None:
                    entry.owner.fail(error)
                    group.tell(entry.owner)
            group.fail_all(error)


def _is_scored(work: Work) -> bool:
    """Whether every row of logits is wanted, for the tokens that are known to follow."""
    return bool(work.entry.family.owner.is_scored(work.entry)) and work.num_new > 0


def _row(work: Work) -> Row:
    entry = work.entry
    token_ids = entry.token_ids[entry.num_computed : entry.num_computed + work.num_new]
    return Row(entry.slot or 0, entry.num_computed, token_ids + entry.draft[: work.num_draft])


def _num_blocks(settings: EngineSettings, max_tokens: int, token_bytes: int) -> int:
    """As many blocks as the memory allows, and no more than can be used; at least one."""
    wanted = settings.max_num_seqs * num_blocks_of(max_tokens) + MAX_DEPTH - 1
    if not token_bytes:
        return wanted
    most = (settings.kv_cache_bytes or DEFAULT_CACHE_BYTES) // (BLOCK_SIZE * token_bytes)
    return min(most, wanted) if settings.kv_cache_bytes is None else most
