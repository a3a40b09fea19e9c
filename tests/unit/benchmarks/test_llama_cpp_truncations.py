"""Tests of benchmarks.llama_cpp_truncations: its counts, with peers whose answers are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.llama_cpp_truncations import LlamaCpp, Row, compare, ours, rows
from decoding import Sampler


class Peer(LlamaCpp):
    """A peer that keeps our sampler's tokens, and one more token in every second row."""

    def __init__(self) -> None:
        self.num_asked = 0

    def kept(self, row: Row, params: dict[str, Any]) -> tuple[Any, bool]:
        """Return ids in ascending order, and NaN for the third row."""
        self.num_asked += 1
        ids = ours(Sampler(len(row), profile="llama_cpp"), row, params)
        if self.num_asked % 2:
            return ids, self.num_asked == 3
        others = np.setdiff1d(np.arange(len(row)), ids)
        return np.sort([*ids, others[np.argmax(row[others])]]), False


def test_differences_are_counted_and_measured() -> None:
    """Different rows, rows with NaN and the distance of p from the kept mass are counted."""
    asked = rows(50, 6)
    found = compare(Peer(), asked, {"top_p": 0.9})
    assert (found.num_rows, found.num_different, found.num_nan) == (6, 3, 1)
    sorted_row = np.sort(asked[1].astype(np.float64))[::-1]
    mass = np.cumsum(np.exp(sorted_row - sorted_row[0]))
    mass /= mass[-1]
    overshoot = mass[np.searchsorted(mass, 0.9)] - 0.9
    assert found.mass is not None
    assert found.mass >= overshoot - 1e-12
    assert compare(Peer(), asked, {"top_k": 3}).mass is None


def test_a_peer_that_agrees_is_at_no_distance() -> None:
    """A peer that keeps the same tokens has no differences and a distance of 0, up to float32."""
    agreeing = Peer()
    agreeing.kept = lambda row, params: (ours(Sampler(len(row), profile="llama_cpp"), row, params), False)  # type: ignore[method-assign]
    found = compare(agreeing, rows(200, 6), {"top_p": 0.95})
    assert (found.num_different, found.num_nan) == (0, 0)
    assert found.mass == pytest.approx(0, abs=1e-7)
