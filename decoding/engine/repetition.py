"""Loop detection: finds the same tokens several times in a row at an output's end (vLLM's `repetition_detection`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_SPARE = 64


class RepetitionDetector:
    """Detects loops in the output of one candidate; each token takes time proportional to the largest pattern size.

    For each pattern size p it counts how many of the last tokens are equal to the token p positions before them. The
    last p * count tokens are the same pattern `count` times exactly where that is at least p * (count - 1).
    """

    def __init__(self, max_pattern_size: int, min_pattern_size: int, min_count: int) -> None:
        self._sizes = np.arange(min_pattern_size, max_pattern_size + 1)
        self._needed = self._sizes * (min_count - 1)
        self._max_size = max_pattern_size
        self._runs = np.zeros(len(self._sizes), np.int64)
        self._tokens: NDArray[np.int64] = np.full(max_pattern_size + _SPARE, -1, np.int64)  # -1 before the output
        self._end = max_pattern_size

    def append(self, token_id: int) -> bool:
        """Append a token. Return True if the output ends with a pattern that is repeated often enough."""
        if self._end == len(self._tokens):
            self._tokens = np.concatenate([self._tokens, np.empty_like(self._tokens)])
        before = self._tokens[self._end - self._sizes]
        self._tokens[self._end] = token_id
        self._end += 1
        self._runs = np.where(before == token_id, self._runs + 1, 0)
        return bool((self._runs >= self._needed).any())

    def take_back(self, num_tokens: int) -> None:
        """Keep the first tokens."""
        kept = self._tokens[self._max_size : self._max_size + num_tokens].tolist()
        self._end, self._runs = self._max_size, np.zeros_like(self._runs)
        for token_id in kept:
            self.append(token_id)
