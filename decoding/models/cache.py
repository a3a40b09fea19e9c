"""KVCache: the keys and values of every token of every running sequence."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from decoding.errors import ParameterError
from decoding.models.activations import Array
from decoding.models.batch import ForwardBatch, Indices, Rows
from decoding.models.config import ModelConfig

_FIRST_CAPACITY = 64


class KVCache:
    """Storage for `num_slots` sequences: float32 [layers, 2, slots, kv_heads, capacity, head_dim], keys and values.

    The capacity doubles when a sequence needs more, up to the model's context. Which slot is whose, and how
    many tokens it holds, is the caller's to know. What a slot held before never reaches its next sequence,
    NaN included. `token_ids` [slots, capacity] and `regimes` [slots] are the model's, for rotary embeddings that
    compute a sequence again.
    """

    def __init__(self, config: ModelConfig, num_slots: int) -> None:
        if type(num_slots) is not int or num_slots < 1:
            raise ParameterError.single("num_slots", num_slots, "must be an integer >= 1")
        self.num_slots = num_slots
        self._max_capacity = config.max_position_embeddings
        shape = (config.num_hidden_layers, 2, num_slots, config.num_key_value_heads, 0, config.head_dim)
        self._data = np.empty(shape, np.float32)
        self._used = [0] * num_slots  # tokens of each slot that were ever written
        self.token_ids = np.empty((num_slots, 0), np.int32)
        self.regimes = np.zeros(num_slots, np.intp)

    @property
    def capacity(self) -> int:
        """Tokens that each slot has room for at the moment."""
        return self._data.shape[4]

    def reserve(self, num_tokens: int) -> None:
        """Make room for `num_tokens` (at most the model's context) in every slot."""
        if num_tokens > self.capacity:
            capacity = min(self._max_capacity, max(num_tokens, 2 * self.capacity, _FIRST_CAPACITY))
            self._data = _grown(self._data, 4, capacity)
            self.token_ids = _grown(self.token_ids, 1, capacity)

    def prepare(self, batch: ForwardBatch) -> None:
        """Make room for the new tokens of `batch`, and clear the slots in which sequences begin."""
        ends = batch.ends.tolist()
        self.reserve(max(ends))
        for slot, start, end in zip(batch.slots.tolist(), batch.start.tolist(), ends, strict=True):
            if start == 0:
                self._clear(slot, 0)
            self._used[slot] = max(self._used[slot], end)

    def copy(self, src_slot: int, dst_slot: int, num_tokens: int) -> None:
        """Start the sequence in `dst_slot` with the first `num_tokens` tokens of the one in `src_slot`."""
        self._clear(dst_slot, num_tokens)
        self._data[:, :, dst_slot, :, :num_tokens] = self._data[:, :, src_slot, :, :num_tokens]
        self.token_ids[dst_slot, :num_tokens] = self.token_ids[src_slot, :num_tokens]
        self.regimes[dst_slot] = self.regimes[src_slot]

    def share(self, src_slot: int, dst_slot: int, num_tokens: int) -> None:
        """Start the sequence in `dst_slot` with the first tokens of the one in `src_slot`."""
        self.copy(src_slot, dst_slot, num_tokens)

    def truncate(self, slot: int, num_tokens: int) -> None:
        """Forget the tokens of a slot after its first `num_tokens`."""
        self._clear(slot, num_tokens)

    def _clear(self, slot: int, first: int) -> None:
        """Zero what a slot has from token number `first` on.

        Attention reads slots padded to the longest, and gives the padding weight zero; but zero times the NaN of
        an earlier sequence that went wrong would be NaN.
        """
        if self._used[slot] > first:
            self._data[:, :, slot, :, first : self._used[slot]] = 0.0
            self._used[slot] = first

    def write(self, layer: int, slots: Indices, positions: Indices, keys_values: Array) -> None:
        """Store one layer's keys and values [tokens, 2, kv_heads, head_dim], each at its slot and position."""
        self._data[layer][:, slots, :, positions] = keys_values

    def read(self, layer: int, slots: Rows, tokens: slice) -> tuple[Array, Array]:
        """One layer's keys and values [slots, kv_heads, tokens, head_dim]; views for a slice of slots."""
        keys, values = self._data[layer]
        return keys[slots, :, tokens], values[slots, :, tokens]


def _grown(array: NDArray[Any], axis: int, capacity: int) -> NDArray[Any]:
    shape = list(array.shape)
    old, shape[axis] = shape[axis], capacity
    grown = np.zeros(shape, array.dtype)  # the operating system's zero pages: free until used
    grown[(slice(None),) * axis + (slice(old),)] = array
    return grown
