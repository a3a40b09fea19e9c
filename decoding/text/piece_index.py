"""PieceIndex: finds the tokens of a vocabulary that contain given bytes, without comparing all of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_END = 256
"""The value that marks the end of a piece in place of its next byte."""


class PieceIndex:
    """An inverted index of the pieces of a vocabulary by pairs of neighbouring bytes.

    A search compares only the pieces with the rarest pair of the searched bytes. Building takes time and memory
    linear in the bytes of all pieces, about ten bytes each.
    """

    def __init__(self, pieces: Sequence[bytes]) -> None:
        """pieces: the bytes of each token, by its id."""
        lengths = np.array([len(piece) for piece in pieces], np.int64)
        self._longest = int(lengths.max(initial=0))
        self._starts = np.concatenate([[0], np.cumsum(lengths)])  # [tokens + 1]
        self._data = np.frombuffer(b"".join(pieces), np.uint8)
        following = np.append(self._data[1:], 0).astype(np.int32)
        following[self._starts[1:][lengths > 0] - 1] = _END
        pairs = self._data * np.int32(_END + 1) + following
        order = np.argsort(pairs, kind="stable")
        self._positions = order.astype(np.int32)
        self._firsts = np.searchsorted(pairs[order], np.arange(256 * (_END + 1) + 1))

    def find(self, data: bytes) -> NDArray[np.int64]:
        """Return the ids of the tokens that contain `data`, at least one byte, in ascending order."""
        if len(data) > self._longest:
            return np.empty(0, np.int64)
        begins = self._candidates(data)
        token_ids = np.searchsorted(self._starts, begins, side="right") - 1
        fits = (begins >= self._starts[token_ids]) & (begins + len(data) <= self._starts[token_ids + 1])
        begins, token_ids = begins[fits], token_ids[fits]
        for offset, byte in enumerate(data):
            matches = self._data[begins + offset] == byte
            begins, token_ids = begins[matches], token_ids[matches]
        return np.unique(token_ids)

    def _candidates(self, data: bytes) -> NDArray[np.int64]:
        """Return the positions at which `data` may begin, by the positions of its rarest pair."""
        if len(data) == 1:
            first, end = self._firsts[[data[0] * (_END + 1), (data[0] + 1) * (_END + 1)]]
            return self._positions[first:end].astype(np.int64)
        pairs = [before * (_END + 1) + after for before, after in pairwise(data)]
        counts = self._firsts[np.add(pairs, 1)] - self._firsts[pairs]
        offset = int(np.argmin(counts))
        first = self._firsts[pairs[offset]]
        positions = self._positions[first : first + counts[offset]].astype(np.int64) - offset
        return positions[positions >= 0]
