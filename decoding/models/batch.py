"""ForwardBatch: the new tokens of one forward pass, and the spans in which their attention is computed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from decoding.errors import ContextLengthError, ParameterError

Integers: TypeAlias = NDArray[np.integer[Any]]
Indices: TypeAlias = NDArray[np.intp]
Rows: TypeAlias = slice | Indices
Mask: TypeAlias = NDArray[np.float32]

_MAX_SCORES = 1 << 21  # attention scores held at once: what a long prompt's prefill takes besides its tokens
_MAX_QUERIES = 64  # of one row at once: later blocks need keys that earlier ones must not even look at
_FEW = 100
_MAX_COVER = 2  # slots looked at for each that is meant, rather than copying those


@dataclass(slots=True)
class ForwardBatch:
    """New tokens of several sequences: prompts, chunks of prompts, single decoding steps, mixed as it comes.

    token_ids: int [total], the new tokens of all rows, one row after another.
    slots: int [rows], distinct; where in the cache each row's sequence lives.
    num_new: int [rows], each >= 1; how many of the tokens are each row's.
    start: int [rows], each >= 0; how many tokens of its sequence the cache has already.
    all_logits: whether logits are wanted for every new token, or for each row's last one only.
    """

    token_ids: Integers
    slots: Integers
    num_new: Integers
    start: Integers
    all_logits: bool = False

    def check(self, vocab_size: int, num_slots: int, max_tokens: int) -> None:
        """ParameterError or ContextLengthError unless the arrays fit each other, the model and the cache."""
        rows = len(self.slots)
        if not 0 < rows == len(self.num_new) == len(self.start):
            raise ParameterError.single("slots", rows, "slots, num_new and start must have one entry for each row")
        if _extremes(self.num_new)[0] < 1 or sum(self.num_new.tolist()) != len(self.token_ids):
            raise ParameterError.single("num_new", self.num_new, "must be >= 1 and sum to the number of tokens")
        _check_range("token_ids", self.token_ids, vocab_size)
        _check_range("slots", self.slots, num_slots)
        _check_range("start", self.start, max_tokens + 1)
        _, longest = _extremes(self.ends)
        if longest > max_tokens:
            raise ContextLengthError(longest, max_tokens)

    @property
    def one_each(self) -> bool:
        """Whether every row has one new token, as in decoding."""
        return len(self.token_ids) == len(self.slots)

    @property
    def ends(self) -> Integers:
        """How many tokens each row's sequence has after this pass, [rows]."""
        return self.start + self.num_new

    @property
    def last(self) -> Indices:
        """Index of each row's last token in token_ids, [rows]."""
        if self.one_each:
            return np.arange(len(self.slots))
        ends: Indices = np.cumsum(self.num_new, dtype=np.intp)
        return ends - 1

    @property
    def token_slots(self) -> Indices:
        """The slot of each token, [total]."""
        return self._for_tokens(self.slots)

    @property
    def lengths(self) -> Indices:
        """For each token, how many tokens its sequence has after this pass, [total]."""
        return self._for_tokens(self.ends)

    @property
    def positions(self) -> Indices:
        """The position of each token in its sequence, [total]."""
        if self.one_each:
            return self.start.astype(np.intp)
        first = self.last - self.num_new + 1
        positions: Indices = np.arange(len(self.token_ids)) + self._for_tokens(self.start - first)
        return positions

    def _for_tokens(self, values: Integers) -> Indices:
        """Values of rows, repeated for each of their tokens."""
        indices: Indices = values.astype(np.intp)
        return indices if self.one_each else np.repeat(indices, self.num_new)

    def last_tokens(self) -> ForwardBatch:
        """Each row's last token as a batch of its own."""
        return ForwardBatch(self.token_ids[self.last], self.slots, np.ones_like(self.num_new), self.ends - 1)

    def spans(self, num_heads: int, kinds: Indices | None = None) -> Iterator[Span]:
        """The rows, in groups of about the same shape; a long row by itself, in blocks of bounded memory.

        kinds [rows]: rows of different numbers are in different groups.
        """
        if len(self.slots) == 1:
            yield from self._blocks(0, num_heads)
            return
        num_keys = self.ends
        waiting = np.lexsort((num_keys, self.num_new))[::-1]  # long ones first
        while waiting.size:
            first = waiting[0]
            most = max(1, _MAX_SCORES // int(num_heads * self.num_new[first] * num_keys[first]))
            alike = (2 * self.num_new[waiting] > self.num_new[first]) & (2 * num_keys[waiting] >= num_keys[first])
            if kinds is not None:
                alike &= kinds[waiting] == kinds[first]
            alike[np.flatnonzero(alike)[most:]] = False
            if np.count_nonzero(alike) == 1:
                yield from self._blocks(int(first), num_heads)
            else:
                rows = waiting[alike]
                yield self._group(rows[np.argsort(self.slots[rows])])
            waiting = waiting[~alike]

    def _group(self, rows: Indices) -> Span:
        """Several rows together, in the order of their slots, each filled up with repetitions of its last token."""
        new, last, slots = self.num_new[rows], self.last[rows], self.slots[rows].astype(np.intp)
        tokens = last[:, None] - np.maximum(new[:, None] - 1 - np.arange(new.max()), 0)  # [rows, new]
        num_visible = (self.start[rows] + new)[:, None] - (last[:, None] - tokens)
        places = slots - slots[0]
        width = int(places[-1]) + 1
        if width == len(rows) or width > _MAX_COVER * len(rows):
            return Span(_as_slice(tokens.ravel()), _as_slice(slots), num_visible)
        covered = np.full((width, int(new.max())), num_visible.max())
        covered[places] = num_visible
        return Span(tokens.ravel(), slice(int(slots[0]), int(slots[0]) + width), covered, places)

    def _blocks(self, row: int, num_heads: int) -> Iterator[Span]:
        """One row, in blocks of queries."""
        new, start = int(self.num_new[row]), int(self.start[row])
        first_slot = int(self.slots[row])
        slot = slice(first_slot, first_slot + 1)
        if len(self.token_ids) == 1:
            yield Span(slice(0, 1), slot, np.array([[start + 1]]))
            return
        end = int(self.last[row]) + 1
        size = max(1, min(_MAX_QUERIES, _MAX_SCORES // (num_heads * (start + new))))
        for first in range(0, new, size):
            after = min(first + size, new)
            num_visible = np.arange(start + first + 1, start + after + 1)
            yield Span(slice(end - new + first, end - new + after), slot, num_visible[None])


class Span(NamedTuple):
    """Tokens whose attention is one call: the same number of new tokens for each of a batch of sequences.

    tokens: which of the forward pass's tokens, [rows * new]; a token may be there several times.
    slots: the cache slots of the batch, [batch]. A slice gives views of the cache, so a few slots more than rows are
    worth it; places, [rows], then says which of them are meant (None: all).
    num_visible: int [batch, new]; how many tokens of its sequence, from the first, each new one sees.
    """

    tokens: Rows
    slots: Rows
    num_visible: Indices
    places: Indices | None = None

    def visible(self, window: int | None) -> tuple[slice, Mask | None]:
        """The keys that are seen at all, and the mask for `layers.attention` over them; None where all see all.

        window: a query sees no more keys than that, the last ones.
        """
        if self.num_visible.size == 1:
            end = int(self.num_visible[0, 0])
            return slice(0 if window is None else max(0, end - window), end), None
        end = int(self.num_visible.max())
        first = 0 if window is None else max(0, int(self.num_visible.min()) - window)
        after = self.num_visible[..., None] - first  # [batch, new, 1]
        keys = np.arange(end - first)
        hidden = keys >= after
        if window is not None:
            hidden |= keys < after - window
        mask = np.where(hidden, np.float32(-np.inf), np.float32(0.0)) if hidden.any() else None
        return slice(first, end), mask


def _as_slice(indices: Indices) -> Rows:
    """The same indices, as a slice where they are consecutive: indexing with it gives a view, not a copy."""
    first, count = int(indices[0]), len(indices)
    if (indices == np.arange(first, first + count)).all():
        return slice(first, first + count)
    return indices


def _check_range(name: str, values: Integers, end: int) -> None:
    for value in _extremes(values):
        if not 0 <= value < end:
            raise ParameterError.single(name, value, f"must be from 0 to {end - 1:,}")


def _extremes(values: Integers) -> tuple[int, int]:
    """The least and the largest; of a few numbers sooner as Python's than as numpy's."""
    if values.size > _FEW:
        return int(values.min()), int(values.max())
    numbers = values.tolist()
    return min(numbers), max(numbers)
