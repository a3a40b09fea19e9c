"""KVCache: the keys and values of every token of every running sequence."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from decoding.errors import ParameterError
from decoding.models.activations import Array
from decoding.models.batch import ForwardBatch, Indices, Integers, Rows
from decoding.models.config import ModelConfig
from decoding.models.pages import Pages

_LEAST_CAPACITY = 64
# To begin with: address space, no memory. To grow is to copy everything, while every sequence waits.
_FIRST_CAPACITY, _FIRST_BYTES = 1024, 1 << 32


class Stretch(NamedTuple):
    """Tokens `first` to `after` of a sequence, as they lie in `slot`."""

    slot: int
    first: int
    after: int


class KVCache:
    """Storage for `num_slots` sequences: float32 [slots, layers, 2, kv_heads, capacity, head_dim], keys and values.

    A slot is address space: memory is taken page by page, where tokens are written, and given back by `truncate`. Its
    capacity doubles when a sequence needs more, up to the model's context. A slot may begin with tokens that lie in
    another one (`share`): they are read there, so sequences that begin alike have that beginning once. Which slot is
    whose, and how many tokens it holds, is the caller's to know. What a slot held before never reaches its next
    sequence, NaN included.

    token_bytes: memory that one token takes. `token_ids` [slots, capacity] and `regimes` [slots] are the model's, for
    rotary embeddings that compute a sequence again; such a model writes to what it has read (`copies`): its slots get
    copies of what they share.
    """

    def __init__(self, config: ModelConfig, num_slots: int, *, copies: bool = False) -> None:
        if type(num_slots) is not int or num_slots < 1:
            raise ParameterError.single("num_slots", num_slots, "must be an integer >= 1")
        self.num_slots = num_slots
        self.copies = copies
        self._max_capacity = config.max_position_embeddings
        self._shape = (config.num_hidden_layers, 2, config.num_key_value_heads)
        self._head_dim = config.head_dim
        self.token_bytes = 8 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
        self.capacity = 0
        self._pages = Pages(0)
        self._used = [0] * num_slots  # tokens of each slot up to which something was ever written
        self._shared: list[tuple[Stretch, ...]] = [()] * num_slots
        self.token_ids = np.empty((num_slots, 0), np.int32)
        self.regimes = np.zeros(num_slots, np.intp)

    def reserve(self, num_tokens: int) -> None:
        """Make room for `num_tokens` (at most the model's context) in every slot."""
        if num_tokens <= self.capacity:
            return
        first = min(_FIRST_CAPACITY, max(_LEAST_CAPACITY, _FIRST_BYTES // (self.num_slots * self.token_bytes)))
        capacity = min(self._max_capacity, max(num_tokens, 2 * self.capacity, first))
        capacity = self._pages.whole_pages(capacity, self._head_dim)  # no page has tokens of two slots or heads
        old, self._pages = self._pages, Pages(self.num_slots, *self._shape, capacity, self._head_dim)
        size = old.array.size // self.num_slots
        for slot, used in enumerate(self._used):  # one by one, so that what is there is never there twice
            if used:
                own = slice(self._shared_end(slot), used)  # what lies elsewhere must not take memory here
                self._data[slot, :, :, :, own] = old.array[slot, :, :, :, own]
                old.release(slot * size, (slot + 1) * size)
        self.capacity = capacity
        self.token_ids = _grown(self.token_ids, capacity)

    @property
    def _data(self) -> Array:
        return self._pages.array

    def prepare(self, batch: ForwardBatch) -> None:
        """Make room for the new tokens of `batch`, and clear the slots in which sequences begin."""
        ends = batch.ends.tolist()
        self.reserve(max(ends))
        for slot, start, end in zip(batch.slots.tolist(), batch.start.tolist(), ends, strict=True):
            if start == 0:
                self.truncate(slot, 0)
            self._used[slot] = max(self._used[slot], end)

    def share(self, src_slot: int, dst_slot: int, num_tokens: int) -> None:
        """Start the sequence in `dst_slot` with the first `num_tokens` tokens of the one in `src_slot`.

        They must stay there, as they are, for as long as the new sequence needs them.
        """
        self.truncate(dst_slot, 0)
        self.regimes[dst_slot] = self.regimes[src_slot]
        if self.copies:
            self._data[dst_slot, :, :, :, :num_tokens] = self._data[src_slot, :, :, :, :num_tokens]
            self.token_ids[dst_slot, :num_tokens] = self.token_ids[src_slot, :num_tokens]
            self._used[dst_slot] = num_tokens
            return
        own = Stretch(src_slot, self._shared_end(src_slot), num_tokens)
        stretches = (*self._shared[src_slot], own)
        cut = (stretch._replace(after=min(stretch.after, num_tokens)) for stretch in stretches)
        self._shared[dst_slot] = tuple(stretch for stretch in cut if stretch.first < stretch.after)

    def truncate(self, slot: int, num_tokens: int) -> None:
        """Forget the tokens of a slot after its first `num_tokens`, and give back their memory.

        Attention reads slots padded to the longest, and gives the padding weight zero; but zero times the NaN of
        an earlier sequence that went wrong would be NaN. So what is forgotten is zero.
        """
        used = self._used[slot]
        if num_tokens == 0:
            self._shared[slot] = ()
        if used <= num_tokens:
            return
        self._used[slot] = num_tokens
        heads = int(np.prod(self._shape))
        size = self.capacity * self._head_dim  # numbers of one head
        begin = slot * heads * size
        if num_tokens == 0:
            self._pages.release(begin, begin + heads * size)
            return
        for head in range(
            begin, begin + heads * size, size
        ):  # the page of the last token goes, too: nothing is after it
            after = min(head + size, self._pages.page_end(head + used * self._head_dim))
            self._pages.release(head + num_tokens * self._head_dim, after)

    def _shared_end(self, slot: int) -> int:
        return self._shared[slot][-1].after if self._shared[slot] else 0

    def kinds(self, slots: Integers) -> Indices | None:
        """For each slot a number, the same for those that begin with the same memory; None where none shares any."""
        shared = [self._shared[slot] for slot in slots.tolist()]
        if not any(shared):
            return None
        numbers: dict[tuple[Stretch, ...], int] = {}
        return np.array([numbers.setdefault(stretches, len(numbers)) for stretches in shared])

    def write(self, layer: int, slots: Indices, positions: Indices, keys_values: Array) -> None:
        """Store one layer's keys and values [tokens, 2, kv_heads, head_dim], each at its slot and position."""
        if len(slots) == 1:  # plain numbers are a third of the way of arrays of one
            self._data[int(slots[0]), layer, :, :, int(positions[0])] = keys_values[0]
            return
        self._data[slots, layer, :, :, positions] = keys_values

    def read(self, layer: int, slots: Rows, tokens: slice) -> list[tuple[Array, Array]]:
        """One layer's keys and values of some tokens, in one part or, where they are shared, in several.

        slots: all of one kind. Each part is a pair [slots or 1, kv_heads, its tokens, head_dim]; views for a slice of
        slots.
        """
        leader = int(slots.start if isinstance(slots, slice) else slots[0])
        if not self._shared[leader]:
            return [(self._data[slots, layer, 0, :, tokens], self._data[slots, layer, 1, :, tokens])]
        stretches = [*self._shared[leader], Stretch(-1, self._shared_end(leader), tokens.stop)]
        parts = []
        for source, first, after in stretches:
            part = slice(max(first, tokens.start), min(after, tokens.stop))
            if part.start < part.stop:
                rows: Rows = slots if source < 0 else slice(source, source + 1)
                parts.append((self._data[rows, layer, 0, :, part], self._data[rows, layer, 1, :, part]))
        return parts


def _grown(array: NDArray[Any], capacity: int) -> NDArray[Any]:
    grown = np.zeros((len(array), capacity), array.dtype)  # the operating system's zero pages: free until used
    grown[:, : array.shape[1]] = array
    return grown
