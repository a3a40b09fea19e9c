"""Scheduler: who takes part in the next step, and with how many tokens; in plain integers.

First come, first served. Sequences that generate always get their token; what is left of the step's budget goes to
prompts, oldest first, so that a long prompt is fed in pieces and stalls nobody. When the memory is used up, the
youngest sequence gives up its own, and is computed again when its turn comes: the oldest one so always gets on.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from decoding.engine.block_manager import BLOCK_SIZE, MAX_DEPTH, BlockPool, Prefix


@dataclass(slots=True, eq=False)
class Family:
    """The sequences of one prompt. The first one feeds it; the others start behind what that one has left.

    token_ids: the prompt. num_left: sequences that have not started. finds: whether kept blocks will do in place of
    feeding them. max_chunk: tokens of the prompt that may be fed at once. source: the prompt in the cache, once it is
    there and as long as it is needed. tails: for each sequence what it has behind the prompt from the start, to be
    scored: then that alone is fed in chunks, and never together with the prompt.
    """

    arrival: int
    token_ids: list[int]
    num_left: int
    finds: bool = True
    max_chunk: int = 2**31
    num_started: int = 0
    source: Prefix | None = None
    is_prefilling: bool = False
    num_preemptions: int = 0
    tails: list[list[int]] | None = None
    owner: Any = None

    def token_ids_of(self, choice: int) -> list[int]:
        """What a sequence begins with."""
        return [*self.token_ids, *(() if self.tails is None else self.tails[choice])]


@dataclass(slots=True, eq=False)
class Entry:
    """One sequence. token_ids: all that is known of it; num_computed: how many of these the cache has in `slot`.

    draft: guesses of the tokens after these, of which as many are checked as there is room for. num_new, num_draft: its
    part in the step that has been scheduled: it feeds so many of its tokens, and so many guesses behind them. owner:
    whom its tokens belong to, once the first has been drawn.
    """

    family: Family
    choice: int
    token_ids: list[int]
    num_computed: int = 0
    slot: int | None = None
    draft: Sequence[int] = ()
    num_new: int = 0
    num_draft: int = 0
    memo: Any = None
    owner: Any = None

    @property
    def order(self) -> tuple[int, int]:
        """Smaller is older."""
        return (self.family.arrival, self.choice)

    @property
    def num_pending(self) -> int:
        """Tokens that the cache does not have; 0 for one that starts behind a prompt that is there."""
        return len(self.token_ids) - self.num_computed

    @property
    def max_chunk(self) -> int:
        """Tokens that may be fed at once."""
        left = len(self.family.token_ids) - self.num_computed
        return left if self.family.tails is not None and left > 0 else self.family.max_chunk


@dataclass(slots=True)
class Scheduler:
    """Keeps the line, and everything that is in memory, within the bounds that it is given.

    max_running: sequences that have a slot. max_batched_tokens: tokens that a step feeds, at least max_running.
    """

    pool: BlockPool
    max_running: int
    max_batched_tokens: int
    running: list[Entry] = field(default_factory=list)
    preempted: list[Entry] = field(default_factory=list)
    waiting: list[Family] = field(default_factory=list)
    num_preemptions: int = 0

    @property
    def max_tokens(self) -> int:
        """The longest sequence that the memory holds; blocks on the border of what is shared may be there twice."""
        return (self.pool.num_blocks - MAX_DEPTH + 1) * BLOCK_SIZE

    @property
    def has_work(self) -> bool:
        """Whether anything runs or waits."""
        return bool(self.running or self.preempted or self.waiting)

    def add(self, family: Family) -> None:
        """Stand in line."""
        self.waiting.append(family)

    def schedule(self) -> list[Entry]:
        """Who takes part in the next step: at most max_batched_tokens in all, and memory for each of them."""
        granted: dict[Entry, None] = {}
        budget, before = self.max_batched_tokens, self.num_preemptions
        for entry in sorted(self.running, key=lambda entry: entry.num_pending > 1):  # else they stay as they are
            budget -= self._grant(entry, budget, granted)
        while budget > 0 and self.num_preemptions == before and (started := self._admit()) is not None:
            budget -= self._grant(started, budget, granted)
        self._grant_drafts(granted, budget)
        return sorted(granted, key=attrgetter("slot"))  # neighbours in the cache are read at once

    def _grant(self, entry: Entry, budget: int, granted: dict[Entry, None]) -> int:
        """Take `entry` into the step with what it needs or can have; returns how many tokens that is.

        Whoever loses its memory for it is taken out again; its tokens are then not given to anybody else.
        """
        num_pending, num_computed = entry.num_pending, entry.num_computed
        num_new = num_pending if num_pending <= 1 else min(num_pending, budget, entry.max_chunk)
        if entry.slot is None or (num_new == 0 and num_pending) or num_new > budget:
            return 0
        needs_block = num_new > 1 or num_computed % BLOCK_SIZE == 0  # otherwise its last one has room
        while needs_block and not self.pool.reserve(entry.slot, num_computed + num_new):
            if self._drop_source():
                continue
            victim = self.running[-1]
            granted.pop(victim, None)
            self._preempt(victim)
            if victim is entry:
                return 0
        granted[entry] = None
        entry.num_new, entry.num_draft = num_new, 0
        return num_new

    def _grant_drafts(self, granted: Iterable[Entry], budget: int) -> None:
        """Guesses are for what is left over."""
        for entry in granted:
            if not entry.draft or not entry.num_new == entry.num_pending > 0:
                continue
            num_draft = min(len(entry.draft), budget)
            if self.pool.reserve(entry.slot or 0, len(entry.token_ids) + num_draft):
                entry.num_draft = num_draft
                budget -= num_draft

    def commit(self, entries: Iterable[Entry]) -> None:
        """The step's tokens are in the cache."""
        for entry in entries:
            before = entry.num_computed
            entry.num_computed = now = before + entry.num_new
            if before // BLOCK_SIZE != now // BLOCK_SIZE:
                self.pool.commit(entry.slot or 0, entry.token_ids, now)
            if entry.owner is None and entry.choice == 0 and now >= len(entry.family.token_ids):
                self._hold_prompt(entry, entry.family)

    def _hold_prompt(self, entry: Entry, family: Family) -> None:
        """The first sequence has fed the prompt: those to come start from there."""
        if family.is_prefilling:
            family.is_prefilling = False
            if family.num_left:
                family.source = Prefix(entry.slot or 0, len(family.token_ids))
                self.pool.hold(family.source.slot, family, family.source.num_tokens)

    def accept(self, entry: Entry, num_tokens: int) -> None:
        """So many of the guesses that the step has fed were right: they are in the cache, and among its tokens."""
        entry.num_computed += num_tokens
        self.pool.commit(entry.slot or 0, entry.token_ids, entry.num_computed)

    def finish(self, entry: Entry, *, forget: bool = False) -> None:
        """A sequence has ended; `forget`: what it has in the cache is not to be used again."""
        if entry.slot is None:
            self.preempted.remove(entry)
            return
        self.running.remove(entry)
        self.pool.close(entry.slot, forget=forget)
        entry.slot = None

    def remove(self, family: Family) -> list[Entry]:
        """Forget all of a prompt at once; returns the sequences that had started."""
        members = [entry for entry in (*self.running, *self.preempted) if entry.family is family]
        for entry in members:
            self.finish(entry)
        if family in self.waiting:
            self.waiting.remove(family)
        self._release_source(family)
        return members

    def _admit(self) -> Entry | None:
        """Give the next one in line a slot, and memory for all of its tokens, if there is both."""
        if len(self.running) == self.max_running:
            return None
        entry, opened = self._next(), None
        while entry is not None and (opened := self._open(entry)) is None and not self.running:
            if not self._drop_source():  # `max_tokens` keeps it from getting here
                raise AssertionError("nothing runs, nothing is held, and yet there is not enough memory")
        if entry is None or opened is None:
            return None
        entry.slot, entry.num_computed = opened
        self._start(entry)
        return entry

    def _open(self, entry: Entry) -> Prefix | None:
        """Also None where those that run would soon have to take back what they spare now, or where it is better to
        wait for a block that one of them is about to have.
        """
        if self.running and self.pool.num_blocks - self.pool.num_live < len(self.running):
            return None
        prefix = entry.family.source if entry.choice == entry.family.num_started else None
        if prefix is None and entry.family.finds:
            most = len(entry.token_ids) - 1 if entry.family.tails is None else len(entry.family.token_ids)
            prefix = self.pool.match(entry.token_ids, most)
            if entry not in self.preempted and self._is_coming(entry.token_ids[:most], prefix):
                return None
        opened = self._opened(entry, prefix)
        if opened is None and prefix is not None and not self.running:  # what is shared may be what is in the way
            return self._opened(entry, None)
        return opened

    def _is_coming(self, token_ids: list[int], found: Prefix | None) -> bool:
        """Whether the first block that was not found is one that a running sequence feeds now, so that it will be.

        Nobody waits for those that are fed in small chunks.
        """
        end = BLOCK_SIZE if found is None else found.num_tokens + BLOCK_SIZE
        return (
            self.pool.keeps
            and end <= len(token_ids)
            and any(
                entry.num_computed < end <= len(entry.token_ids) and entry.token_ids[:end] == token_ids[:end]
                for entry in self.running
                if entry.family.finds and entry.family.tails is None
            )
        )

    def _opened(self, entry: Entry, prefix: Prefix | None) -> Prefix | None:
        opened = self.pool.open(prefix)
        if opened is not None and not self.pool.reserve(opened.slot, len(entry.token_ids)):
            self.pool.close(opened.slot)
            return None
        return opened

    def _next(self) -> Entry | None:
        """The oldest that can start: sequences of a prompt wait until their first has fed it."""
        family = next((family for family in self.waiting if not family.is_prefilling), None)
        if family is None or (self.preempted and self.preempted[0].order < (family.arrival, family.num_started)):
            return self.preempted[0] if self.preempted else None
        return Entry(family, family.num_started, family.token_ids_of(family.num_started))

    def _start(self, entry: Entry) -> None:
        family = entry.family
        insort(self.running, entry, key=lambda entry: entry.order)
        if entry in self.preempted:
            self.preempted.remove(entry)
            return
        family.is_prefilling = family.num_started == 0 and bool(family.token_ids)
        family.num_started += 1
        family.num_left -= 1
        if not family.num_left:
            self.waiting.remove(family)
            self._release_source(family)

    def _preempt(self, entry: Entry) -> None:
        self.num_preemptions += 1
        entry.family.num_preemptions += 1
        self.finish(entry)
        entry.num_computed = 0
        insort(self.preempted, entry, key=lambda entry: entry.order)

    def _drop_source(self) -> bool:
        """Let go of the youngest prompt that is kept for sequences to come; whether there was one."""
        for family in reversed(self.waiting):
            if family.source is not None:
                self._release_source(family)
                return True
        return False

    def _release_source(self, family: Family) -> None:
        if family.source is not None:
            source, family.source = family.source, None
            self.pool.let_go(source.slot, family)

    def entries(self) -> Iterator[Entry]:
        """All that have started."""
        yield from self.running
        yield from self.preempted
