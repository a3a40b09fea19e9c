"""The token history of a sequence for the kernel: its tokens in order, and counts of each distinct token.

Both are int32 arrays that grow with the sequence and shrink when it is truncated, by their names in `decoding_row`.
Counts are kept per distinct token, so a penalty costs as much as there are distinct tokens, not as the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from decoding.types import RepetitionScope

SPARE = 64
"""Spare entries at the start; later the arrays double."""


class TokenContext:
    """Prompt and output in order, for DRY, n-grams and bad words."""

    num_field = "num_context"

    def __init__(self, prompt_token_ids: Sequence[int]) -> None:
        self._num_tokens = len(prompt_token_ids)
        self._token_ids: NDArray[np.int32] = np.zeros(self._num_tokens + SPARE, np.int32)
        self._token_ids[: self._num_tokens] = prompt_token_ids

    def __len__(self) -> int:
        """Entries in use."""
        return self._num_tokens

    @property
    def arrays(self) -> dict[str, NDArray[np.int32]]:
        """The array, with room to spare."""
        return {"context_token_ids": self._token_ids}

    def append(self, token_id: int) -> bool:
        """Append a generated token. Return True if the array has moved."""
        moves = self._num_tokens == len(self._token_ids)
        if moves:
            self._token_ids = np.concatenate([self._token_ids, np.zeros_like(self._token_ids)])
        self._token_ids[self._num_tokens] = token_id
        self._num_tokens += 1
        return moves

    def pop(self) -> None:
        """Remove the last generated token."""
        self._num_tokens -= 1


class TokenHistory:
    """Counts of the distinct tokens of a sequence, updated token by token in both directions.

    Scope counts are for the multiplicative repetition penalty: prompt + output, the output, or the last N
    tokens of prompt + output.
    """

    num_field = "num_history"

    def __init__(self, prompt_token_ids: Sequence[int], scope: RepetitionScope | int) -> None:
        distinct, counts = np.unique(np.asarray(prompt_token_ids, np.int32), return_counts=True)
        self._tokens: list[int] = list(prompt_token_ids)
        self._slots = {token_id: slot for slot, token_id in enumerate(distinct.tolist())}
        self._window = scope if isinstance(scope, int) else None
        self._scope = scope
        self._use(np.zeros((4, len(distinct) + SPARE), np.int32))
        self._token_ids[: len(distinct)] = distinct
        self._total_counts[: len(distinct)] = counts
        for token_id in self._tokens[-self._window :] if self._window else ():
            self._window_counts[self._slots[token_id]] += 1

    def _use(self, table: NDArray[np.int32]) -> None:
        self._table = table
        self._token_ids, self._output_counts, self._total_counts, self._window_counts = table

    def __len__(self) -> int:
        """Entries in use: the number of distinct tokens."""
        return len(self._slots)

    @property
    def arrays(self) -> dict[str, NDArray[np.int32]]:
        """Parallel arrays, with room to spare."""
        by_scope = {"output": self._output_counts, "prompt+output": self._total_counts}
        return {
            "history_token_ids": self._token_ids,
            "history_scope_counts": by_scope[self._scope] if isinstance(self._scope, str) else self._window_counts,
            "history_output_counts": self._output_counts,
            "history_total_counts": self._total_counts,
        }

    def append(self, token_id: int) -> bool:
        """Append a generated token. Return True if the arrays have moved."""
        moves = token_id not in self._slots and len(self._slots) == len(self._token_ids)
        if moves:
            self._use(np.concatenate([self._table, np.zeros_like(self._table)], axis=1))
        slot = self._slots.setdefault(token_id, len(self._slots))
        self._token_ids[slot] = token_id
        self._output_counts[slot] += 1
        self._total_counts[slot] += 1
        self._tokens.append(token_id)
        if self._window:
            self._window_counts[slot] += 1
            self._count_window_edge(-1)
        return moves

    def pop(self) -> None:
        """Remove the last generated token."""
        if self._window:
            self._count_window_edge(+1)
        token_id = self._tokens.pop()
        slot = self._slots[token_id]
        self._output_counts[slot] -= 1
        self._total_counts[slot] -= 1
        if self._window:
            self._window_counts[slot] -= 1
        if self._total_counts[slot] == 0:  # tokens leave in the reverse order of their coming: it is the last slot
            del self._slots[token_id]

    def _count_window_edge(self, step: int) -> None:
        """Count the token just before the window out (-1), or in again (+1)."""
        assert self._window is not None
        edge = len(self._tokens) - self._window - 1
        if edge >= 0:
            self._window_counts[self._slots[self._tokens[edge]]] += step
