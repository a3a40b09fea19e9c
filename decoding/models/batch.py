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

_MAX_SCORES = 1 << 21  # attention scores held at once: what a long prompt's prefill takes besides its tokens


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
        if self.num_new.min() < 1 or self.num_new.sum() != len(self.token_ids):
            raise ParameterError.single("num_new", self.num_new, "must be >= 1 and sum to the number of tokens")
        _check_range("token_ids", self.token_ids, vocab_size)
        _check_range("slots", self.slots, num_slots)
        _check_range("start", self.start, max_tokens + 1)
        longest = int((self.start + self.num_new).max())
        if longest > max_tokens:
            raise ContextLengthError(longest, max_tokens)

    @property
    def last(self) -> Indices:
        """Index of each row's last token in token_ids, [rows]."""
        ends: Indices = np.cumsum(self.num_new, dtype=np.intp)
        return ends - 1

    @property
    def token_slots(self) -> Indices:
        """The slot of each token, [total]."""
        return np.repeat(self.slots.astype(np.intp), self.num_new)

    @property
    def positions(self) -> Indices:
        """The position of each token in its sequence, [total]."""
        first = self.last - self.num_new + 1
        positions: Indices = np.arange(len(self.token_ids)) + np.repeat(self.start - first, self.num_new)
        return positions

    def spans(self, num_heads: int) -> Iterator[Span]:
        """All rows with one new token together; every other row by itself, in blocks of bounded memory."""
        single = np.flatnonzero(self.num_new == 1)
        if single.size:
            yield Span(_rows(self.last[single]), _rows(self.slots[single]), self.start[single, None] + np.intp(1))
        for row in np.flatnonzero(self.num_new > 1):
            new, start, end = int(self.num_new[row]), int(self.start[row]), int(self.last[row]) + 1
            block = max(1, _MAX_SCORES // (num_heads * (start + new)))
            for first in range(0, new, block):
                after = min(first + block, new)
                num_visible = np.arange(start + first + 1, start + after + 1)
                tokens = slice(end - new + first, end - new + after)
                yield Span(tokens, _rows(self.slots[row : row + 1]), num_visible[None])


class Span(NamedTuple):
    """Tokens whose attention is one call: the same number of new tokens for each of a batch of sequences.

    tokens: which of the forward pass's tokens, [batch * new]; slots: their cache slots, [batch].
    num_visible: int [batch, new]; how many tokens of its sequence, from the first, each new one sees.
    """

    tokens: Rows
    slots: Rows
    num_visible: Indices


def _rows(indices: Integers) -> Rows:
    """The same rows, as a slice where they are consecutive: indexing with it gives a view, not a copy."""
    first, count = int(indices[0]), len(indices)
    if (indices == np.arange(first, first + count)).all():
        return slice(first, first + count)
    return indices.astype(np.intp)


def _check_range(name: str, values: Integers, end: int) -> None:
    for value in (values.min(), values.max()):
        if not 0 <= value < end:
            raise ParameterError.single(name, int(value), f"must be from 0 to {end - 1:,}")
