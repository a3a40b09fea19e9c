"""Rotary frequencies by their formulas, and the table of rotations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from decoding.models.rope import DynamicRope, LinearRope, Llama3Rope, LongRope, Rope, RotaryTable, YarnRope

PLAIN = 100.0 ** -(np.arange(4) / 4)
YARN = {"factor": 4.0, "trained": 40, "beta_fast": 4.0, "beta_slow": 1.0}


def test_default_frequencies() -> None:
    """theta^(-2j/dim)."""
    np.testing.assert_allclose(Rope(theta=100.0, dim=8).frequencies(0), PLAIN, rtol=1e-6)


def test_an_odd_number_of_rotated_numbers_is_rounded_up_to_pairs() -> None:
    """With 3 of a head's numbers to turn there are two pairs, and 3 in the exponents."""
    rope = Rope(theta=100.0, dim=3)
    assert rope.num_pairs == 2
    np.testing.assert_allclose(rope.frequencies(0), [1.0, 100 ** (-2 / 3)], rtol=1e-6)


def test_linear_divides_all_by_the_factor() -> None:
    """Positions are squeezed."""
    np.testing.assert_allclose(LinearRope(theta=100.0, dim=8, factor=4.0).frequencies(0), PLAIN / 4, rtol=1e-6)


def test_dynamic_grows_with_the_length() -> None:
    """As default up to the trained length, then with theta * (factor * length / trained - factor + 1)^(d / (d - 2))."""
    rope = DynamicRope(theta=100.0, dim=8, factor=3.0, trained=10)
    assert rope.regimes(np.array([1, 10, 11, 20])).tolist() == [0, 0, 11, 20]
    np.testing.assert_allclose(rope.frequencies(0), PLAIN, rtol=1e-6)
    theta = 100 * (3 * 20 / 10 - 2) ** (8 / 6)
    np.testing.assert_allclose(rope.frequencies(20), theta ** -(np.arange(4) / 4), rtol=1e-5)


def test_yarn_keeps_fast_pairs_and_squeezes_slow_ones() -> None:
    """The bounds lie where a pair turns beta times within the trained length; a straight line in between."""
    exact = YarnRope(theta=100.0, dim=8, **YARN, truncate=False)
    low, high = (8 * math.log(40 / (beta * 2 * math.pi)) / (2 * math.log(100)) for beta in (4, 1))
    squeeze = np.clip((np.arange(4) - low) / (high - low), 0, 1)
    np.testing.assert_allclose(exact.frequencies(0), PLAIN * (1 - squeeze) + PLAIN / 4 * squeeze, rtol=1e-5)
    whole = YarnRope(theta=100.0, dim=8, **YARN, truncate=True)
    squeeze = np.clip((np.arange(4) - math.floor(low)) / (math.ceil(high) - math.floor(low)), 0, 1)
    np.testing.assert_allclose(whole.frequencies(0), PLAIN * (1 - squeeze) + PLAIN / 4 * squeeze, rtol=1e-5)


def test_llama3_goes_by_wavelengths() -> None:
    """Waves shorter than trained / high stay, longer than trained / low are divided, others are mixed."""
    rope = Llama3Rope(theta=100.0, dim=8, factor=8.0, trained=40, low_freq_factor=1.0, high_freq_factor=4.0)
    waves = 2 * np.pi / PLAIN  # 6.3, 19.9, 62.8, 198.7
    smooth = (40 / waves[1] - 1) / 3
    expected = [PLAIN[0], (1 - smooth) * PLAIN[1] / 8 + smooth * PLAIN[1], PLAIN[2] / 8, PLAIN[3] / 8]
    np.testing.assert_allclose(rope.frequencies(0), expected, rtol=1e-5)


def test_longrope_has_two_sets_of_factors() -> None:
    """One up to the trained length, one beyond."""
    rope = LongRope(theta=100.0, dim=8, trained=10, short_factor=(1.0, 2.0, 3.0, 4.0), long_factor=(5.0,) * 4)
    assert rope.regimes(np.array([1, 10, 11, 20])).tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(rope.frequencies(0), PLAIN / [1, 2, 3, 4], rtol=1e-6)
    np.testing.assert_allclose(rope.frequencies(1), PLAIN / 5, rtol=1e-6)


def _at(table: RotaryTable, positions: list[int], lengths: list[int]) -> np.ndarray:
    return table.at(np.array(positions), np.array(lengths))


def test_the_table_has_rotations_by_position_in_any_order() -> None:
    """exp(i p f), times the attention factor; computed anew or looked up, the same to the bit."""
    table = RotaryTable(Rope(theta=100.0, dim=8, attention_factor=1.5), 8)
    far, near = _at(table, [1000, 3], [1001, 1001]), _at(table, [3], [4])
    np.testing.assert_allclose(far, 1.5 * np.exp(1j * np.outer([1000, 3], PLAIN)), atol=2e-4)
    np.testing.assert_array_equal(near, far[1:])


def test_pairs_that_do_not_turn_stay_as_they_are() -> None:
    """Partial embeddings have 1 for the rest of the head, without the attention factor."""
    turns = _at(RotaryTable(Rope(theta=100.0, dim=4, attention_factor=1.5), 10), [7], [8])
    np.testing.assert_allclose(turns[0, :2], 1.5 * np.exp(7j * np.array([1.0, 0.1])), atol=1e-5)
    np.testing.assert_array_equal(turns[0, 2:], [1, 1, 1])


@pytest.mark.parametrize(
    "rope",
    [
        DynamicRope(theta=100.0, dim=8, factor=3.0, trained=10),
        LongRope(theta=100.0, dim=8, trained=10, short_factor=(1.0,) * 4, long_factor=(5.0,) * 4),
    ],
)
def test_sequences_of_different_lengths_turn_differently(rope: Rope) -> None:
    """In one batch every token has the rotation that its own sequence's length asks for."""
    together = _at(RotaryTable(rope, 8), [5, 9, 5, 12, 5], [6, 10, 15, 15, 30])
    alone = [_at(RotaryTable(rope, 8), [p], [n]) for p, n in ((5, 6), (9, 10), (5, 15), (12, 15), (5, 30))]
    np.testing.assert_array_equal(together, np.concatenate(alone))
    assert abs(together[0, 1] - together[2, 1]) > 0.1
