"""Slots: the tokens of each sequence of a backend, and the best one to continue a given text with."""

from __future__ import annotations

from collections.abc import Container

import numpy as np

from decoding.backends.protocol import Backend
from decoding.models.batch import IntArray


class Slot:
    """One sequence of the backend. token_ids: int32, its tokens. last_used: number of the step that last used it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.token_ids: IntArray = np.empty(0, np.int32)
        self.last_used = -1


class Slots:
    """All sequences of a backend.

    piece: tokens that are computed together (see BackendModel); a text is never continued in the middle of a piece.
        None: any prefix will do.
    """

    def __init__(self, backend: Backend, piece: int | None) -> None:
        self._backend = backend
        self._piece = piece
        self._step = 0
        self._slots = [Slot(number) for number in range(backend.num_sequences)]

    def assign(self, texts: list[IntArray]) -> list[Slot]:
        """Return one slot per text. A slot then holds a prefix of its text, which may be empty, and nothing else.

        texts: int32, the tokens to continue. At most `num_sequences` of them.
        """
        self._step += 1
        found: dict[int, Slot] = {}
        taken: set[int] = set()
        for index, text in enumerate(texts):
            for slot in self._slots:
                if slot.number not in taken and np.array_equal(slot.token_ids, text):
                    found[index] = slot
                    taken.add(slot.number)
                    break
        for index, text in enumerate(texts):
            if index not in found:
                found[index] = slot = self._begin(text, taken)
                taken.add(slot.number)
        for slot in found.values():
            slot.last_used = self._step
        return [found[index] for index in range(len(texts))]

    def truncate(self, slot: Slot, num_tokens: int) -> None:
        """Keep the first tokens of a slot."""
        if num_tokens < len(slot.token_ids):
            self._backend.truncate(slot.number, num_tokens)
            slot.token_ids = slot.token_ids[:num_tokens]

    def clear(self, slots: list[Slot]) -> None:
        """Clear sequences whose state is unknown after an error."""
        for slot in slots:
            slot.token_ids = slot.token_ids[:0]
            self._backend.truncate(slot.number, 0)

    def _begin(self, text: IntArray, taken: Container[int]) -> Slot:
        """Copy the longest usable prefix that any slot has to the least recently used slot, and return that slot."""
        target = min(
            (slot for slot in self._slots if slot.number not in taken),
            key=lambda slot: (slot.last_used, slot.number),
        )
        source = max(self._slots, key=lambda slot: self._num_usable(slot, text))
        count = self._num_usable(source, text)
        if count <= self._num_usable(target, text):
            self.truncate(target, self._num_usable(target, text))
            return target
        self._backend.fork(source.number, target.number, count)
        target.token_ids = source.token_ids[:count]
        return target

    def _num_usable(self, slot: Slot, text: IntArray) -> int:
        """Return the length of the slot's longest prefix from which the text can be continued."""
        length = min(len(slot.token_ids), len(text))
        wrong = np.flatnonzero(slot.token_ids[:length] != text[:length])
        count = int(wrong[0]) if len(wrong) else length
        if count == len(slot.token_ids):
            return count
        if not self._backend.can_truncate:
            return 0
        if self._piece is None or count // self._piece == len(slot.token_ids) // self._piece:
            return count
        return count // self._piece * self._piece
