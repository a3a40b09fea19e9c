"""Scheduler: choose the sequences of the next step and their numbers of tokens. Plain integers.

Sequences that generate get their token in every step; the rest of the step's budget goes to prompts in chunks, request
by request in turn, and to waiting sequences. Of these, the requests with the fewest running sequences come first, and
among equals the oldest: a request of many sequences does not keep others waiting. If the KV cache is
full, the youngest sequence is preempted: it loses its blocks and is computed again later. The oldest always makes
progress, so no request starves.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable
from collections.abc import Sequence as ListLike
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from decoding.engine.block_manager import BlockManager, block_digest
from decoding.engine.block_table import BlockTable
from decoding.engine.sequence import Sequence

if TYPE_CHECKING:
    from decoding.engine.tasks.protocol import Task

_ORDER, _TURN = attrgetter("order"), attrgetter("task.share.turn")


class HeldPrompt(NamedTuple):
    """The blocks of a task's shared tokens, kept for its sequences that have not started."""

    block_table: BlockTable
    rope_regime: int
    digests: list[bytes]


class Shared(NamedTuple):
    """Cached blocks that a sequence can begin with, and the number of its tokens that they hold."""

    blocks: ListLike[int]
    num_tokens: int
    held: HeldPrompt | None


class Scheduler:
    """Holds the waiting queue and the running sequences, and keeps them within the limits.

    max_num_seqs: sequences that run at the same time, at most max_batched_tokens.
    max_batched_tokens: tokens to compute per step.
    max_per_request: sequences of one request that run at the same time; None is max_num_seqs.
    rope_border: a sequence that outgrows this length is computed again with other rotary factors; None: never.
    rope_regime: the number of the rotary factors for a length.
    """

    def __init__(
        self,
        block_manager: BlockManager,
        *,
        max_num_seqs: int,
        max_batched_tokens: int,
        max_per_request: int | None = None,
        rope_border: int | None = None,
        rope_regime: Callable[[int], int] = lambda length: 0,
    ) -> None:
        self.block_manager = block_manager
        self.max_num_seqs = min(max_num_seqs, max_batched_tokens)
        self.max_batched_tokens = max_batched_tokens
        self.max_per_request = self.max_num_seqs if max_per_request is None else max_per_request
        self.rope_border = rope_border
        self.rope_regime = rope_regime
        self.waiting: list[Sequence] = []  # oldest first, as `running`
        self.running: list[Sequence] = []
        self.held: dict[Task, HeldPrompt] = {}
        self.only_decodes = False
        """True if each sequence of the step computes its last token, and nothing else is computed."""
        self.num_preemptions = 0
        self.num_cached_tokens = 0
        self._budget = 0  # tokens that the step being scheduled has left
        self._turn = 0  # number of that step

    @property
    def max_tokens(self) -> int:
        """The longest sequence that the KV cache holds."""
        return self.block_manager.num_blocks * self.block_manager.block_size

    @property
    def has_work(self) -> bool:
        """Return True if any sequence runs or waits."""
        return bool(self.running or self.waiting)

    def add(self, sequence: Sequence) -> None:
        """Put a sequence into the waiting queue, by its age."""
        insort(self.waiting, sequence, key=_ORDER)

    def schedule(self) -> list[Sequence]:
        """Return the sequences of the next step, with num_scheduled set and memory for these tokens.

        At most max_batched_tokens tokens in all. Preempted sequences do not take part, and their tokens are not given
        to others in this step.
        """
        batch: list[Sequence] = []
        prompts: list[Sequence] = []
        num_preemptions = self.num_preemptions
        self._budget = self.max_batched_tokens
        self._turn += 1
        if self.rope_border is not None:
            self._restart_outgrown(self.rope_border)
        for sequence in tuple(self.running):
            num_computed = sequence.num_computed
            if len(sequence.token_ids) - num_computed > 1:
                prompts.append(sequence)
            elif num_computed < sequence.num_reserved or (sequence.is_running and self._reserve(sequence, 1)):
                sequence.num_scheduled, sequence.num_draft = 1, 0
                batch.append(sequence)
        self.only_decodes = not prompts
        self._budget -= len(batch)
        if self.waiting and self._turn % 2 and self.num_preemptions == num_preemptions:
            self._admit_waiting(batch, only_new=True)  # in every other step, before prompts take the whole budget
        for sequence in sorted(prompts, key=_TURN):
            num_tokens = self._chunk_of(sequence)
            if num_tokens and sequence.is_running and self._reserve(sequence, num_tokens):
                self._schedule(sequence, num_tokens)
                batch.append(sequence)
        if self.num_preemptions != num_preemptions:
            return [sequence for sequence in batch if sequence.is_running]
        if self.waiting:
            self._admit_waiting(batch)
        return batch

    def schedule_drafts(self, batch: Iterable[Sequence]) -> None:
        """Give the rest of the budget to draft tokens, as far as memory allows without preemption."""
        for sequence in batch:
            if not sequence.draft or sequence.num_scheduled != sequence.num_pending:
                continue
            num_draft = min(len(sequence.draft), self._budget)
            end = len(sequence.token_ids) + num_draft
            if self.block_manager.reserve(sequence.block_table, sequence.num_computed, end):
                sequence.num_reserved = max(sequence.num_reserved, end)
                sequence.num_draft = num_draft
                self._budget -= num_draft
                self.only_decodes = False

    def reserve_ahead(self, batch: Iterable[Sequence], num_tokens: int) -> bool:
        """Reserve blocks for the next tokens of a step's sequences; return False if memory is short."""
        for sequence in batch:
            end = sequence.num_computed + num_tokens
            if end > sequence.num_reserved:
                if not self.block_manager.reserve(sequence.block_table, sequence.num_computed, end):
                    return False
                sequence.num_reserved = len(sequence.block_table) * self.block_manager.block_size
        return True

    def reserve_behind(self, sequence: Sequence, num_tokens: int) -> bool:
        """Reserve blocks for tokens behind the computed ones of a running sequence, preempting younger sequences.

        Return False if the sequence itself is preempted.
        """
        return self._reserve(sequence, num_tokens)

    def release_behind(self, sequence: Sequence) -> None:
        """Release the blocks behind the computed tokens of a sequence."""
        self.block_manager.truncate(sequence.block_table, sequence.num_computed)
        sequence.num_reserved = sequence.num_computed

    def take_back(self, sequence: Sequence, num_tokens: int) -> None:
        """Keep the first tokens of a running sequence, at least one; the last of them is computed again."""
        del sequence.token_ids[num_tokens:]
        sequence.num_computed = min(sequence.num_computed, num_tokens - 1)
        del sequence.digests[sequence.num_computed // self.block_manager.block_size :]
        self.block_manager.reopen(sequence.block_table, sequence.num_computed)
        sequence.num_reserved = sequence.num_computed

    def commit(self, batch: Iterable[Sequence]) -> None:
        """Count the step's known tokens as computed."""
        block_size = self.block_manager.block_size
        for sequence in batch:
            num_scheduled = sequence.num_scheduled
            sequence.num_computed = now = sequence.num_computed + num_scheduled
            if now % block_size < num_scheduled:  # the end of a block is among these tokens
                self._register(sequence, (now - num_scheduled) // block_size)
            if sequence.waits_for_shared and now >= sequence.num_shared:
                self._on_shared_computed(sequence)

    def accept_drafts(self, sequence: Sequence) -> None:
        """Count the accepted draft tokens as computed, and take back the blocks of the others."""
        before = sequence.num_computed
        sequence.num_computed += sequence.num_accepted
        self._register(sequence, before // self.block_manager.block_size)
        self.block_manager.truncate(sequence.block_table, sequence.num_computed)
        sequence.num_reserved = sequence.num_computed

    def finish(self, sequence: Sequence, *, forget: bool = False) -> None:
        """Remove a sequence that has ended. forget: remove its blocks from the prefix cache, too."""
        if sequence.is_running:
            sequence.is_running = False
            sequence.task.share.num_running -= 1
            self.running.remove(sequence)
            self._free(sequence, forget=forget)
        else:
            self.waiting.remove(sequence)

    def remove(self, task: Task) -> list[Sequence]:
        """Remove all sequences of a task, and return them."""
        members = [sequence for sequence in (*self.running, *self.waiting) if sequence.task is task]
        for sequence in members:
            self.finish(sequence)
        self._release_held(task)
        return members

    def _chunk_of(self, sequence: Sequence) -> int:
        """Return how many tokens of a prompt to compute in this step."""
        num_tokens = min(sequence.num_pending, self._budget)
        if sequence.score_from is None:
            return num_tokens
        last = max(sequence.num_computed, sequence.score_from) + sequence.task.max_score_rows
        return min(num_tokens, last - sequence.num_computed)

    def _schedule(self, sequence: Sequence, num_tokens: int) -> None:
        sequence.num_scheduled, sequence.num_draft = num_tokens, 0
        sequence.task.share.turn = self._turn
        self._budget -= num_tokens

    def _reserve(self, sequence: Sequence, num_tokens: int) -> bool:
        """Reserve memory for the next `num_tokens` tokens, preempting younger sequences where it is short.

        Return False if the sequence itself was the youngest and is preempted.
        """
        start = sequence.num_computed
        while not self.block_manager.reserve(sequence.block_table, start, start + num_tokens):
            if self.held:
                self._release_held(max(self.held, key=attrgetter("arrival")))
                continue
            youngest = self.running[-1]
            self._preempt(youngest)
            if youngest is sequence:
                return False
        block_size = self.block_manager.block_size
        sequence.num_reserved = len(sequence.block_table) * block_size if num_tokens else 0
        return True

    def _free(self, sequence: Sequence, *, forget: bool = False) -> None:
        self.block_manager.free(sequence.block_table, forget=forget)
        sequence.num_reserved = 0

    def _preempt(self, sequence: Sequence) -> None:
        self.num_preemptions += 1
        self.finish(sequence)
        sequence.num_computed = 0
        sequence.task.on_preempted()
        self.add(sequence)

    def _restart_outgrown(self, rope_border: int) -> None:
        """Free the blocks of sequences that have outgrown the border; they are computed again, once."""
        for sequence in self.running:
            length = len(sequence.token_ids)
            if length > rope_border >= sequence.rope_length:
                self._free(sequence)
                sequence.restart(length, self.rope_regime(length))

    def _admit_waiting(self, batch: list[Sequence], *, only_new: bool = False) -> None:
        """Start waiting sequences within all limits. only_new: only those of requests without running ones."""
        limit = 1 if only_new else self.max_per_request
        while self._budget > 0 and len(self.running) < self.max_num_seqs:
            sequence = self._next_waiting(limit)
            if sequence is None or not self._admit(sequence):
                break
            batch.append(sequence)
            self.only_decodes = False

    def _next_waiting(self, limit: int) -> Sequence | None:
        """Return the oldest sequence of the requests with the fewest running sequences, fewer than the limit."""
        found = None
        for sequence in self.waiting:
            num_running = sequence.task.share.num_running
            if num_running < limit and not self._is_being_computed(sequence):
                found, limit = sequence, num_running
                if limit == 0:
                    break
        return found

    def _admit(self, sequence: Sequence) -> bool:
        """Give a sequence memory for all of its known tokens, and its first chunk; return False if memory is short."""
        if self.rope_border is not None and len(sequence.token_ids) > self.rope_border >= sequence.rope_length:
            sequence.restart(len(sequence.token_ids), self.rope_regime(len(sequence.token_ids)))
        shared = self._find_shared(sequence)
        while not self._has_room(shared, len(sequence.token_ids)):
            if self.running:
                return False
            if not self.held:  # `max_tokens` keeps longer sequences away
                raise AssertionError("a sequence does not fit an empty KV cache")
            self._release_held(max(self.held, key=attrgetter("arrival")))
            shared = self._find_shared(sequence)
        self._start(sequence, shared)
        if sequence.waits_for_shared and shared.num_tokens >= sequence.num_shared:
            self._on_shared_computed(sequence)
        self.block_manager.reserve(sequence.block_table, shared.num_tokens, len(sequence.token_ids))
        num_tokens = self._chunk_of(sequence)
        if not self._reserve(sequence, num_tokens):
            return False
        self._schedule(sequence, num_tokens)
        return True

    def _start(self, sequence: Sequence, shared: Shared) -> None:
        """Move a sequence from the waiting queue to the running ones."""
        self.waiting.remove(sequence)
        insort(self.running, sequence, key=_ORDER)
        sequence.is_running = True
        sequence.task.share.num_running += 1
        sequence.block_table = self.block_manager.share(shared.blocks)
        sequence.num_computed = shared.num_tokens
        if shared.held is not None:
            sequence.digests = list(shared.held.digests)
        if not sequence.is_started:
            sequence.is_started = True
            sequence.task.on_admitted(sequence)
            self.num_cached_tokens += shared.num_tokens if shared.held is None else 0

    def _has_room(self, shared: Shared, num_tokens: int) -> bool:
        """Return False if memory is short, or so short that running sequences would soon preempt a new one."""
        manager = self.block_manager
        spare = manager.num_free - manager.num_needed(shared.blocks, shared.num_tokens, num_tokens)
        return spare >= len(self.running)

    def _find_shared(self, sequence: Sequence) -> Shared:
        """Return the held prompt of the sequence's task, or the blocks of it in the prefix cache."""
        held = self.held.get(sequence.task)
        if held is not None and held.rope_regime == sequence.rope_regime:
            return Shared(held.block_table.blocks, sequence.num_shared, held)
        num_blocks = sequence.max_cached // self.block_manager.block_size
        if not self.block_manager.prefix_cache or not num_blocks:
            return Shared((), 0, None)
        self._digest(sequence, num_blocks)
        blocks = self.block_manager.find(sequence.digests[:num_blocks])
        return Shared(blocks, len(blocks) * self.block_manager.block_size, None)

    def _is_being_computed(self, sequence: Sequence) -> bool:
        """Return True if a running sequence is about to compute the first block that is not cached.

        Waiting for it saves computing the block twice, unless the sequence has run before.
        """
        manager = self.block_manager
        last = sequence.max_cached // manager.block_size
        if not manager.prefix_cache or sequence.is_started or not last or sequence.task in self.held:
            return False
        self._digest(sequence, last)
        index = len(manager.find(sequence.digests[:last]))
        return index < last and any(
            index < len(other.digests) and other.digests[index] == sequence.digests[index]
            for other in self.running
            if index >= other.num_computed // manager.block_size
        )

    def _digest(self, sequence: Sequence, num_blocks: int) -> None:
        """Extend the digests of a sequence to its first `num_blocks` blocks, which must be full."""
        size, digests = self.block_manager.block_size, sequence.digests
        for index in range(len(digests), num_blocks):
            start = index * size
            regime = self.rope_regime(max(sequence.rope_length, start + 1))
            digests.append(
                block_digest(digests[-1] if digests else b"", sequence.token_ids[start : start + size], regime)
            )

    def _register(self, sequence: Sequence, first_block: int) -> None:
        num_blocks = sequence.num_computed // self.block_manager.block_size
        if self.block_manager.prefix_cache and first_block < num_blocks:
            self._digest(sequence, num_blocks)
            self.block_manager.register(sequence.block_table, sequence.digests[:num_blocks], first_block)

    def _on_shared_computed(self, sequence: Sequence) -> None:
        """Hold the blocks of the shared tokens for the task's next sequence, which may start now."""
        sequence.waits_for_shared = False
        task = sequence.task
        if not task.num_unstarted:
            self._release_held(task)
            return
        held = self.held.get(task)
        if sequence.num_shared and (held is None or held.rope_regime != sequence.rope_regime):
            self._release_held(task)
            table = self.block_manager.fork(sequence.block_table, sequence.num_shared)
            sequence.num_reserved = 0  # the last block is shared now
            num_full = sequence.num_shared // self.block_manager.block_size
            self.held[task] = HeldPrompt(table, sequence.rope_regime, sequence.digests[:num_full])
        self.add(task.next_sequence())

    def _release_held(self, task: Task) -> None:
        held = self.held.pop(task, None)
        if held is not None:
            self.block_manager.free(held.block_table)
