"""Rotary tables: sine and cosine in C against numpy's in float64, for angles up to 2^31."""

from __future__ import annotations

import numpy as np
import pytest

from decoding.errors import KernelError
from decoding.models.native_plan import rotary_table


def expected(frequencies, factor, first, count):
    """Return cos and sin of float32 angles, computed in float64, rounded, then scaled in float32."""
    angles = (np.arange(first, first + count).astype(np.float32)[:, None] * frequencies).astype(np.float64)
    both = np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    return both * np.float32(factor)


@pytest.mark.parametrize("first", [0, 1000, 100_000, 1_000_000, 2**31 - 600])
def test_against_float64(first):
    """All but four of 32,000 values are correctly rounded, and the others differ by one unit."""
    frequencies = (10000.0 ** (-np.arange(32) / 32)).astype(np.float32)
    table, wanted = rotary_table(frequencies, 1.0, first, 500), expected(frequencies, 1.0, first, 500)
    different = table != wanted
    assert different.sum() <= 4
    assert (np.abs(table - wanted)[different] <= np.spacing(np.abs(wanted[different]))).all()


def test_quarters_and_signs():
    """Negative frequencies, exact zeros and all quarters of the circle agree with float64."""
    frequencies = np.array([0.0, -0.5, 1.5707964, 3.1415927, -7.0], np.float32)
    table = rotary_table(frequencies, 1.0, 0, 12)
    assert np.abs(table - expected(frequencies, 1.0, 0, 12)).max() < 1e-7
    assert (table[:, 0] == 1).all()
    assert (table[:, 5] == 0).all()


def test_attention_factor():
    """The attention factor multiplies the rounded values."""
    frequencies = np.array([0.3, 0.01], np.float32)
    assert (rotary_table(frequencies, 1.25, 3, 9) == expected(frequencies, 1.25, 3, 9)).all()


def test_rows_do_not_depend_on_the_first():
    """The row of a position does not depend on the first position of the call."""
    frequencies = (500000.0 ** (-np.arange(16) / 16)).astype(np.float32)
    assert (rotary_table(frequencies, 1.0, 0, 300)[250:] == rotary_table(frequencies, 1.0, 250, 50)).all()


def test_absurd_frequencies():
    """Angles that are not below 2^31 give NaN."""
    frequencies = np.array([np.inf, np.nan, 3e38, -np.inf], np.float32)
    assert np.isnan(rotary_table(frequencies, 1.0, 1, 3)).all()


def test_refusals():
    """A table without pairs, or with positions outside 0 .. 2^31 - 1, is refused."""
    for size, first, count in ((0, 0, 1), (1, -1, 1), (1, 0, -1), (1, 2**31 - 1, 1)):
        with pytest.raises((KernelError, ValueError)):
            rotary_table(np.ones(size, np.float32), 1.0, first, count)
