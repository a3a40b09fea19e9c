"""How a batch is divided for attention: every token once, all that it sees, nothing copied without need."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from decoding.models import ForwardBatch
from decoding.models.batch import Span


def _batch(*rows: tuple[int, int, int]) -> ForwardBatch:
    """Rows of (slot, new tokens, start)."""
    slots, new, starts = map(np.array, zip(*rows, strict=True))
    return ForwardBatch(np.zeros(new.sum(), int), slots, new, starts)


def _seen(batch: ForwardBatch, span: Span, window: int | None) -> list[tuple[int, int, list[int]]]:
    """(token, slot, keys that it sees) for each place of a span that is meant."""
    keys, mask = span.visible(window)
    slots = np.arange(20)[span.slots]
    shape = span.num_visible.shape
    mask = np.zeros((*shape, keys.stop - keys.start)) if mask is None else mask
    places = range(shape[0]) if span.places is None else span.places
    tokens = np.arange(len(batch.token_ids))[span.tokens].reshape(len(places), shape[1])
    return [
        (int(token), int(slots[place]), (np.flatnonzero(mask[place, column] == 0) + keys.start).tolist())
        for row, place in zip(tokens, places, strict=True)
        for column, token in enumerate(row)
    ]


BATCHES = [
    [(0, 1, 0)],
    [(3, 1, 7)],
    [(3, 5, 7)],
    [(0, 1, 5), (1, 1, 5), (2, 1, 5)],
    [(2, 1, 9), (0, 1, 8), (5, 1, 7), (3, 1, 6)],
    [(1, 1, 100), (2, 1, 3), (3, 1, 90), (7, 1, 4)],
    [(0, 1, 9), (15, 1, 9)],
    [(4, 12, 0), (2, 9, 3), (3, 1, 11), (0, 30, 0), (1, 2, 50), (6, 1, 4)],
]


@pytest.mark.parametrize("window", [None, 1, 4, 1000])
@pytest.mark.parametrize("rows", BATCHES)
def test_every_token_sees_its_past(rows: list[tuple[int, int, int]], window: int | None, monkeypatch: Any) -> None:
    """Whatever the groups: each token is asked for, in its slot, with the keys up to its own or the last of them."""
    monkeypatch.setattr("decoding.models.batch._MAX_QUERIES", 8)
    batch = _batch(*rows)
    found: dict[int, tuple[int, list[int]]] = {}
    for span in batch.spans(4):
        for token, slot, keys in _seen(batch, span, window):
            assert found.setdefault(token, (slot, keys)) == (slot, keys)
    for token, (slot, position) in enumerate(zip(batch.token_slots, batch.positions, strict=True)):
        first = 0 if window is None else max(0, position + 1 - window)
        assert found.pop(token) == (slot, list(range(first, position + 1)))
    assert not found


def test_decoding_is_one_span_of_views() -> None:
    """Sequences of about the same length are one call on a slice of the cache, whatever the order of their slots."""
    (span,) = _batch((2, 1, 9), (0, 1, 8), (3, 1, 7), (1, 1, 6)).spans(4)
    assert span.slots == slice(0, 4)
    assert span.places is None
    (span,) = _batch((2, 1, 9), (0, 1, 8), (5, 1, 7), (3, 1, 6)).spans(4)
    assert span.slots == slice(0, 6)
    assert span.places is not None
    assert span.places.tolist() == [0, 2, 3, 5]
    (span,) = _batch((0, 1, 9), (15, 1, 9)).spans(4)
    np.testing.assert_array_equal(span.slots, [0, 15])


def test_short_sequences_do_not_pay_for_a_long_one() -> None:
    """Rows whose lengths differ by more than two are different spans."""
    assert len(list(_batch((0, 1, 1000), (1, 1, 10), (2, 1, 12)).spans(4))) == 2


def test_short_prompts_are_one_span() -> None:
    """Prompts of about the same length are computed together, filled up with repetitions."""
    (span,) = _batch((0, 5, 0), (1, 7, 0), (2, 6, 0)).spans(4)
    assert span.num_visible.tolist() == [[1, 2, 3, 4, 5, 5, 5], [1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 6]]
    np.testing.assert_array_equal(
        np.reshape(span.tokens, (3, 7))[[0, 2]], [[0, 1, 2, 3, 4, 4, 4], [12, 13, 14, 15, 16, 17, 17]]
    )


def test_the_scores_of_a_span_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither one long row nor many short ones hold more scores at once than the bound, a single query excepted."""
    monkeypatch.setattr("decoding.models.batch._MAX_SCORES", 4 * 100)
    for rows in ([(0, 30, 0)], [(slot, 10, 0) for slot in range(6)], [(slot, 1, 60) for slot in range(6)]):
        spans = list(_batch(*rows).spans(4))
        assert all(4 * span.num_visible.size * span.num_visible.max() <= 400 for span in spans)
        assert len(spans) > 1


def test_the_last_tokens_are_a_batch() -> None:
    """One token a row, at its place."""
    last = _batch((4, 12, 0), (2, 3, 5), (3, 1, 11)).last_tokens()
    assert last.one_each
    assert (last.slots.tolist(), last.positions.tolist(), last.lengths.tolist()) == (
        [4, 2, 3],
        [11, 7, 11],
        [12, 8, 12],
    )
