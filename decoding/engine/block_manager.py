"""BlockPool: which sequence may keep how many tokens where, in plain integers.

A slot is a stretch of cache as long as the longest sequence; a block is `block_size` tokens of it. Slots are address
space and cost nothing; blocks are memory, and there are `num_blocks` of them for all slots together. A sequence keeps
its tokens in a slot of its own, but for a beginning that it shares with the slot of another one: so all candidates of a
prompt hold the prompt's blocks once, and each writes only behind it (what copy on write comes to, where nobody ever
writes into what is shared).

A slot whose sequence has gone keeps the blocks that are full, for the next prompt that begins alike (by a hash of
each block and all before it), until the memory is needed: least recently used first, and of a slot the end first.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

BLOCK_SIZE = 16
"""Tokens of a block."""
MAX_DEPTH = 4
"""Slots that one sequence may be spread over."""

Digest = bytes


class Prefix(NamedTuple):
    """The first `num_tokens` tokens of the sequence in `slot`."""

    slot: int
    num_tokens: int


class Change(NamedTuple):
    """What the cache has to do: let `slot` begin with `base`, or (None) forget what is after its first tokens."""

    slot: int
    num_tokens: int
    base: int | None = None


@dataclass(slots=True)
class _Slot:
    """One slot. holders: how many tokens of it others rely on, by who they are."""

    is_live: bool = False
    base: Prefix | None = None
    end: int = 0
    digests: list[Digest] = field(default_factory=list)
    holders: dict[object, int] = field(default_factory=dict)
    last_used: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known of it."""
        return not (self.is_live or self.end or self.holders or self.base)

    @property
    def num_own(self) -> int:
        """Blocks that this slot takes of the memory; `end` is counted in blocks from the start of the sequence."""
        return self.end - self.first

    @property
    def first(self) -> int:
        """The first block that is its own, if only in part."""
        return 0 if self.base is None else self.base.num_tokens // BLOCK_SIZE


class BlockPool:
    """Hands out slots and blocks, and remembers what is in them.

    num_slots: >= 1. num_blocks: for all slots together. keeps: whether blocks are kept for later prompts. copies:
    whether what sequences share is copied, for a cache that writes to it.
    changes: what has happened that the cache must follow before it is used, in order; whoever does so empties it.
    """

    def __init__(self, num_slots: int, num_blocks: int, *, keeps: bool = True, copies: bool = False) -> None:
        self.num_blocks = num_blocks
        self.num_used = 0
        self.changes: list[Change] = []
        self.keeps = keeps
        self._copies = copies
        self._slots = [_Slot() for _ in range(num_slots)]
        self._index: dict[Digest, int] = {}
        self._clock = 0

    @property
    def num_slots(self) -> int:
        """How many slots there are."""
        return len(self._slots)

    @property
    def num_live(self) -> int:
        """Blocks that cannot be had: those of sequences that run, and what these and other holders rely on."""
        needed: dict[int, int] = {}
        for index, slot in enumerate(self._slots):
            held = [count for holder, count in slot.holders.items() if not isinstance(holder, int)]
            if slot.is_live or held:
                self._need(index, slot.end if slot.is_live else num_blocks_of(max(held)), needed)
        return sum(max(0, end - self._slots[index].first) for index, end in needed.items())

    def _need(self, index: int, end: int, needed: dict[int, int]) -> None:
        needed[index] = max(end, needed.get(index, 0))
        base = self._slots[index].base
        if base is not None:
            self._need(base.slot, num_blocks_of(base.num_tokens), needed)

    def match(self, token_ids: Sequence[int], max_tokens: int) -> Prefix | None:
        """The longest beginning of `token_ids`, in full blocks and at most max_tokens, that some slot has."""
        found = None
        for number, digest in enumerate(digests_of(token_ids[:max_tokens]), 1):
            slot = self._index.get(digest)
            if slot is None:
                break
            found = Prefix(slot, number * BLOCK_SIZE)
        return found

    def open(self, prefix: Prefix | None = None) -> Prefix | None:
        """A slot for a new sequence, with how many of the prefix's tokens it has; None where every slot is needed."""
        self._clock += 1
        if prefix is not None and self._can_take_over(prefix):
            self._slots[prefix.slot].is_live = True
            return prefix
        if prefix is None:
            index = self._free_slot()
            if index is None:
                return None
            self._slots[index].is_live = True
            return Prefix(index, 0)
        return self._share(self._within_depth(prefix))

    def _share(self, prefix: Prefix) -> Prefix | None:
        """A slot that begins with the prefix of another one."""
        source = self._slots[prefix.slot]
        source.holders[self] = prefix.num_tokens  # or it might be evicted for the slot that is to share it
        source.last_used = self._clock
        index = self._free_slot()
        if index is not None:
            slot = self._slots[index]
            slot.is_live = True
            if not self._copies:
                slot.base, slot.end = prefix, prefix.num_tokens // BLOCK_SIZE
                source.holders[index] = prefix.num_tokens
            elif not self.reserve(index, prefix.num_tokens):
                self._slots[index], index = _Slot(), None
        del source.holders[self]
        if index is None:
            return None
        self.changes.append(Change(index, prefix.num_tokens, prefix.slot))
        return Prefix(index, prefix.num_tokens)

    def reserve(self, index: int, num_tokens: int) -> bool:
        """Memory for `num_tokens` tokens in a live slot; False, and nothing has changed but what was kept, if none."""
        slot = self._slots[index]
        end = num_blocks_of(num_tokens)
        if end > slot.end:
            if not self._make_room(end - slot.end):
                return False
            self.num_used += end - slot.end
            slot.end = end
        return True

    def commit(self, index: int, token_ids: Sequence[int], num_tokens: int) -> None:
        """The first `num_tokens` of `token_ids` are in the slot for good: full blocks of them may be found."""
        slot = self._slots[index]
        if not self.keeps or num_tokens // BLOCK_SIZE <= len(slot.digests):
            return
        if not slot.digests and slot.first:
            slot.digests = [*digests_of(token_ids[: slot.first * BLOCK_SIZE])]
        start = len(slot.digests)
        new = [*digests_of(token_ids[start * BLOCK_SIZE : num_tokens], slot.digests[-1] if start else b"")]
        for digest in new:
            self._index.setdefault(digest, index)
        slot.digests += new

    def hold(self, index: int, holder: object, num_tokens: int) -> None:
        """Keep the first tokens of a slot, whatever becomes of its sequence, until `holder` lets go of them."""
        self._slots[index].holders[holder] = num_tokens

    def let_go(self, index: int, holder: object) -> None:
        """The opposite of `hold`."""
        del self._slots[index].holders[holder]
        self._settle(index)

    def close(self, index: int, *, forget: bool = False) -> None:
        """The slot's sequence has ended. `forget`: what it computed since its last `commit` is all that may be wrong,
        but nobody should look at any of it again.
        """
        self._clock += 1
        slot = self._slots[index]
        slot.is_live, slot.last_used = False, self._clock
        if forget:
            self._forget(slot, index, 0)
        self._settle(index)

    def _settle(self, index: int) -> None:
        """Give up what nobody relies on and no prompt can find."""
        slot = self._slots[index]
        if not slot.is_live:
            self._trim(index, max(len(slot.digests), _held(slot)))

    def _trim(self, index: int, end: int) -> None:
        """Give up a slot's blocks from number `end` on that nobody relies on; the slot where nothing is left of it."""
        slot = self._slots[index]
        end = max(end, _held(slot))
        if end < slot.end:
            self.num_used -= slot.end - end
            slot.end = end
            self.changes.append(Change(index, end * BLOCK_SIZE))
        self._forget(slot, index, end)
        if slot.num_own == 0 and not slot.is_live and not slot.holders:
            base, self._slots[index] = slot.base, _Slot()
            self._forget(slot, index, 0)
            self.changes.append(Change(index, 0))
            if base is not None:
                self.let_go(base.slot, index)

    def _forget(self, slot: _Slot, index: int, end: int) -> None:
        for digest in slot.digests[end:]:
            if self._index.get(digest) == index:
                del self._index[digest]
        del slot.digests[end:]

    def _can_take_over(self, prefix: Prefix) -> bool:
        """Whether a kept slot has that prefix and nothing else: the new sequence goes on in it."""
        slot = self._slots[prefix.slot]
        return not slot.is_live and not slot.holders and slot.end * BLOCK_SIZE == prefix.num_tokens

    def _within_depth(self, prefix: Prefix) -> Prefix:
        """The part of a prefix that does not spread a sequence over more slots than are allowed."""
        chain = [prefix]
        while (base := self._slots[chain[-1].slot].base) is not None:
            chain.append(Prefix(base.slot, min(base.num_tokens, chain[-1].num_tokens)))
        while len(chain) > 1 and chain[1].num_tokens == chain[0].num_tokens:  # all of it is further down
            del chain[0]
        return chain[max(0, len(chain) - (MAX_DEPTH - 1))]

    def _free_slot(self) -> int | None:
        """The lowest empty slot, so that sequences that run are neighbours; or the one that was longest not used."""
        for index, slot in enumerate(self._slots):
            if slot.is_empty:
                return index
        for index in self._kept():
            if not self._slots[index].holders:
                self._trim(index, 0)
                return index
        return None

    def _make_room(self, num_blocks: int) -> bool:
        """Give up what is kept until so many blocks are free; whether they are."""
        while (missing := self.num_used + num_blocks - self.num_blocks) > 0:
            kept = self._kept()
            if not kept:
                return False
            self._trim(kept[0], self._slots[kept[0]].end - missing)
        return True

    def _kept(self) -> list[int]:
        """Slots without a sequence that have something to give up, least recently used first."""
        idle = [index for index, slot in enumerate(self._slots) if not slot.is_live and slot.end > _held(slot)]
        return sorted(idle, key=lambda index: self._slots[index].last_used)


def _held(slot: _Slot) -> int:
    """Blocks, from the start of the sequence, that others rely on."""
    return max(slot.first, num_blocks_of(max(slot.holders.values(), default=0)))


def num_blocks_of(num_tokens: int) -> int:
    """Blocks that so many tokens take."""
    return -(-num_tokens // BLOCK_SIZE)


def digests_of(token_ids: Sequence[int], before: Digest = b"") -> Iterator[Digest]:
    """A digest for each full block: of its tokens and all before it; `before` is that of the block before."""
    for start in range(0, len(token_ids) - BLOCK_SIZE + 1, BLOCK_SIZE):
        block = array("q", token_ids[start : start + BLOCK_SIZE]).tobytes()
        before = hashlib.blake2b(block, digest_size=16, key=before).digest()
        yield before
