"""KVCache: the keys and values of every token of every running sequence."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from decoding.errors import ParameterError
from decoding.models.batch import Indices, Rows
from decoding.models.config import ModelConfig

_FIRST_CAPACITY = 64


class KVCache:
    """Storage for `num_slots` sequences: float32 [layers, slots, kv_heads, capacity, head_dim], twice.

    The capacity doubles when a sequence needs more, up to the model's context. Which slot is whose, and how
    many tokens it holds, is the caller's to know. What a slot held before never reaches its next sequence,
    NaN included.
    """

    def __init__(self, config: ModelConfig, num_slots: int) -> None:
        if type(num_slots) is not int or num_slots < 1:
            raise ParameterError.single("num_slots", num_slots, "must be an integer >= 1")
        self.num_slots = num_slots
        self._max_capacity = config.max_position_embeddings
        shape = (config.num_hidden_layers, num_slots, config.num_key_value_heads, 0, config.head_dim)
        self._keys = np.empty(shape, np.float32)
        self._values = np.empty(shape, np.float32)

    @property
    def capacity(self) -> int:
        """Tokens that each slot has room for at the moment."""
        return self._keys.shape[3]

    def reserve(self, num_tokens: int) -> None:
        """Make room for `num_tokens` (at most the model's context) in every slot."""
        if num_tokens > self.capacity:
            capacity = min(self._max_capacity, max(num_tokens, 2 * self.capacity, _FIRST_CAPACITY))
            self._keys = _grown(self._keys, capacity)
            self._values = _grown(self._values, capacity)

    def clear(self, slots: Indices) -> None:
        """Make `slots` ready for new sequences.

        Attention reads whole slots, padded to the longest, and gives the padding weight zero; but zero times
        the NaN of an earlier sequence that went wrong would be NaN.
        """
        self._values[:, slots] = 0.0

    def copy(self, src_slot: int, dst_slot: int, num_tokens: int) -> None:
        """Start the sequence in `dst_slot` with the first `num_tokens` tokens of the one in `src_slot`."""
        self._keys[:, dst_slot, :, :num_tokens] = self._keys[:, src_slot, :, :num_tokens]
        self._values[:, dst_slot, :, :num_tokens] = self._values[:, src_slot, :, :num_tokens]
        self._values[:, dst_slot, :, num_tokens:] = 0.0

    def write(
        self,
        layer: int,
        slots: Indices,
        positions: Indices,
        keys: NDArray[np.float32],
        values: NDArray[np.float32],
    ) -> None:
        """Store one layer's keys and values [tokens, kv_heads, head_dim], each at its slot and position."""
        self._keys[layer][slots, :, positions] = keys
        self._values[layer][slots, :, positions] = values

    def read(self, layer: int, slots: Rows, num_tokens: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """One layer's keys and values [slots, kv_heads, num_tokens, head_dim]; views for a slice."""
        return self._keys[layer][slots, :, :num_tokens], self._values[layer][slots, :, :num_tokens]


def _grown(array: NDArray[np.float32], capacity: int) -> NDArray[np.float32]:
    *outer, old, head_dim = array.shape
    grown = np.zeros((*outer, capacity, head_dim), np.float32)  # the operating system's zero pages: free until used
    grown[..., :old, :] = array
    return grown
