"""Token counts for the penalties: how often each distinct token stands in the prompt, the output, the window.

Kept as parallel arrays over the distinct tokens, because that is what the kernel reads: a penalty then costs as much
as there are distinct tokens, never as much as the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from decoding.types import RepetitionScope


class TokenHistory:
    """Counts of the distinct tokens of a sequence, updated token by token in both directions.

    `scope_counts` are what the multiplicative repetition penalty looks at: prompt + output, the output, or the last
    N tokens of prompt + output. Arrays are int32 with room to spare; `num_distinct` entries are in use. `version`
    changes when the arrays have moved.
    """

    def __init__(self, prompt_token_ids: Sequence[int], scope: RepetitionScope | int) -> None:
        distinct, counts = np.unique(np.asarray(prompt_token_ids, np.int32), return_counts=True)
        self._tokens: list[int] = list(prompt_token_ids)
        self._slots = {token_id: slot for slot, token_id in enumerate(distinct.tolist())}
        self.num_distinct = len(distinct)
        self.version = 0
        capacity = self.num_distinct + 64
        self.token_ids: NDArray[np.int32] = np.zeros(capacity, np.int32)
        self.output_counts: NDArray[np.int32] = np.zeros(capacity, np.int32)
        self.total_counts: NDArray[np.int32] = np.zeros(capacity, np.int32)
        self.token_ids[: self.num_distinct] = distinct
        self.total_counts[: self.num_distinct] = counts
        self._window = scope if isinstance(scope, int) else None
        self._scope = scope
        self._window_counts: NDArray[np.int32] = np.zeros(capacity if self._window else 0, np.int32)
        for token_id in self._tokens[-self._window :] if self._window else ():
            self._window_counts[self._slots[token_id]] += 1

    @property
    def scope_counts(self) -> NDArray[np.int32]:
        """Counts within the scope of the repetition penalty."""
        if self._window:
            return self._window_counts
        return self.output_counts if self._scope == "output" else self.total_counts

    def append(self, token_id: int) -> None:
        """A token was generated."""
        slot = self._slot(token_id)
        self.output_counts[slot] += 1
        self.total_counts[slot] += 1
        self._tokens.append(token_id)
        if self._window:
            self._window_counts[slot] += 1
            self._count_window_edge(-1)

    def pop(self) -> None:
        """The last generated token is taken back."""
        if self._window:
            self._count_window_edge(+1)
        token_id = self._tokens.pop()
        slot = self._slots[token_id]
        self.output_counts[slot] -= 1
        self.total_counts[slot] -= 1
        if self._window:
            self._window_counts[slot] -= 1
        if self.total_counts[slot] == 0:  # tokens leave in the reverse order of their coming: it is the last slot
            del self._slots[token_id]
            self.num_distinct -= 1

    def _count_window_edge(self, step: int) -> None:
        """The token just before the window has left it (-1), or comes back (+1)."""
        assert self._window is not None
        edge = len(self._tokens) - self._window - 1
        if edge >= 0:
            self._window_counts[self._slots[self._tokens[edge]]] += step

    def _slot(self, token_id: int) -> int:
        slot = self._slots.get(token_id)
        if slot is None:
            slot = self._slots[token_id] = self.num_distinct
            if slot == len(self.token_ids):
                self._grow()
            self.token_ids[slot] = token_id
            self.num_distinct += 1
        return slot

    def _grow(self) -> None:
        spare = np.zeros(len(self.token_ids), np.int32)
        self.token_ids = np.concatenate([self.token_ids, spare])
        self.output_counts = np.concatenate([self.output_counts, spare])
        self.total_counts = np.concatenate([self.total_counts, spare])
        if self._window:
            self._window_counts = np.concatenate([self._window_counts, spare])
        self.version += 1
