"""Rows of rotary tables for the tokens of a batch, and the lengths that choose their frequencies."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from decoding.errors import UnsupportedModelError
from decoding.models.config import LayerConfig
from decoding.models.numpy_backend import compute_table
from decoding.models.rope import DynamicRope, LongRope, Rope
from decoding.models.rotary import RotaryTables
from decoding.reference.layers import rotary_table

PLAIN = Rope(theta=100.0, dim=8)
DYNAMIC = DynamicRope(theta=100.0, dim=8, factor=3.0, trained=10)
LONG = LongRope(theta=100.0, dim=8, trained=10, short_factor=(1.0,) * 4, long_factor=(5.0,) * 4)


def _tables(*ropes: Rope | None) -> RotaryTables:
    config: Any = SimpleNamespace(layers=[LayerConfig(rope, None, 1.0) for rope in ropes])
    return RotaryTables(config, compute_table)


def _rows(tables: RotaryTables, batch: Any) -> list[NDArray[np.float32]]:
    """Return, per rope, the row of each token."""
    found = []
    for pieces in tables.rows(batch):
        rows = np.full((len(batch.token_ids), pieces[0].table.shape[1]), np.nan, np.float32)
        for tokens, table, offsets in pieces:
            assert np.isnan(rows[tokens]).all()
            rows[tokens] = table[offsets]
        found.append(rows)
    return found


def _row(rope: Rope, position: int, length: int) -> NDArray[np.float32]:
    return rotary_table(rope.frequencies(rope.regime(length)), rope.attention_factor, np.array([position]))[0]


def test_tokens_get_the_rows_of_their_positions(runs: Any) -> None:
    """Each rope has one row per token, by its position; ropes are numbered in the order of the layers."""
    other = Rope(theta=7.0, dim=4, attention_factor=1.5)
    tables = _tables(PLAIN, None, other, PLAIN)
    assert [tables.index(rope) for rope in (PLAIN, None, other)] == [0, None, 1]
    batch = runs.make_batch(runs.Row([1, 1, 1], 40), runs.Row([1], 700), runs.Row([1, 1]))
    rows = _rows(tables, batch)
    for rope, found in zip((PLAIN, other), rows, strict=True):
        expected = [_row(rope, position, position + 1) for position in (40, 41, 42, 700, 0, 1)]
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("rope", [DYNAMIC, LONG])
def test_lengths_choose_the_frequencies(rope: Rope, runs: Any) -> None:
    """A token has the factors of its prompt's length, or of its own position + 1 if that is larger.

    The batch has prompts, chunks and decoding tokens on both sides of the boundary.
    """
    rows = [(0, 4, 20), (8, 4, 9), (15, 1, 12), (3, 2, 0), (30, 1, 12)]  # start, new tokens, rope_length
    batch = runs.make_batch(*(runs.Row([1] * new, start, [0] * 3, length) for start, new, length in rows))
    expected = [
        _row(rope, position, max(length, position + 1))
        for start, new, length in rows
        for position in range(start, start + new)
    ]
    np.testing.assert_array_equal(_rows(_tables(rope), batch)[0], expected)


def test_regime_depends_on_the_length() -> None:
    """The regime is 0 for short sequences; beyond, longrope has one regime and dynamic one per length."""
    lengths = [1, 10, 11, 12, 500]
    assert [_tables(PLAIN).regime(length) for length in lengths] == [0, 0, 0, 0, 0]
    assert [_tables(PLAIN, LONG).regime(length) for length in lengths] == [0, 0, 1, 1, 1]
    assert [_tables(DYNAMIC, PLAIN).regime(length) for length in lengths] == [0, 0, 11, 12, 500]
    assert [_tables(None).regime(length) for length in lengths] == [0, 0, 0, 0, 0]


def test_only_longrope_has_a_border() -> None:
    """Only longrope has a border, beyond which cached keys must be recomputed."""
    assert [_tables(rope).border for rope in (None, PLAIN, DYNAMIC, LONG)] == [None, None, None, 10]


def test_two_borders_are_refused() -> None:
    """Layers whose factors change at different lengths raise an UnsupportedModelError."""
    other = LongRope(theta=100.0, dim=8, trained=11, short_factor=(1.0,) * 4, long_factor=(5.0,) * 4)
    with pytest.raises(UnsupportedModelError, match="different lengths: 10, 11"):
        _tables(LONG, other)
