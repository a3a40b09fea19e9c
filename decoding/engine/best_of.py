"""best_of: the order of candidates, and the ones that are returned."""

from __future__ import annotations

import heapq
from dataclasses import replace

from decoding.engine.outputs import Choice


class Ranking:
    """Keeps the best n of any number of candidates, in memory for n.

    The order is the mean raw log-probability per sampled token, descending; failed candidates come last; ties go to
    the lower candidate index. Without ranking (`best_of` = n) it is the candidate index alone.
    """

    def __init__(self, n: int, *, ranked: bool) -> None:
        """n: choices to return; ranked: True if best_of ranks them."""
        self._n = n
        self._ranked = ranked
        self._heap: list[tuple[tuple[bool, float, int], Choice]] = []  # the worst of them on top

    def add(self, candidate: Choice) -> None:
        """Take a finished candidate; `candidate.index` is its candidate index."""
        entry = (self._key(candidate), candidate)  # keys are distinct: choices themselves are never compared
        if len(self._heap) < self._n:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def best(self) -> list[Choice]:
        """Return the best candidates, best first, numbered from 0."""
        ordered = sorted(self._heap, key=lambda entry: entry[0], reverse=True)
        return [replace(choice, index=index) for index, (_, choice) in enumerate(ordered)]

    def _key(self, candidate: Choice) -> tuple[bool, float, int]:
        if not self._ranked or candidate.mean_logprob is None:
            return (True, 0.0, -candidate.index)
        return (candidate.finish_reason != "error", candidate.mean_logprob, -candidate.index)
