"""The reference of quantised arithmetic: inputs in int8 groups."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from decoding.reference.quantised import GROUP_SIZE, SMALLEST, matmul, quantise_inputs

FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)


@given(hnp.arrays(np.float32, (2, 3 * GROUP_SIZE), elements=FLOATS))
def test_groups(inputs):
    """Each group's largest magnitude becomes 127, and rounding moves no number by more than half a step."""
    quantised = quantise_inputs(inputs)
    groups = inputs.reshape(2, 3, GROUP_SIZE)
    largest = np.abs(groups).max(axis=2)
    assert (np.abs(quantised.q.astype(int)).max(axis=2) == np.where(largest >= SMALLEST, 127, 0)).all()
    errors = np.abs(quantised.values().reshape(groups.shape) - groups)
    assert (errors <= np.maximum(largest / 127 * (0.5 + 1e-4), SMALLEST)[:, :, None]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_in_a_group(bad):
    """A NaN or an infinity makes its group's scale and its row's outputs NaN; other rows are unaffected."""
    inputs = np.ones((2, 2 * GROUP_SIZE), np.float32)
    inputs[1, 40] = bad
    quantised = quantise_inputs(inputs)
    assert np.isnan(quantised.scales[:, :, 0]).tolist() == [[False, False], [False, True]]
    assert (quantised.q[1, 1] == 0).all()
    outputs = matmul(inputs, np.ones((3, 2 * GROUP_SIZE), np.float32))
    np.testing.assert_allclose(outputs[0], 64, rtol=1e-6)
    assert np.isnan(outputs[1]).all()


def test_exact_integers():
    """Integers up to 127 are exact if the largest of the group is 127, and halves round to even."""
    inputs = np.zeros((1, GROUP_SIZE), np.float32)
    inputs[0, :6] = [127, 0.5, 1.5, 2.5, -0.5, -1.5]
    assert quantise_inputs(inputs).q[0, 0, :7].tolist() == [127, 0, 2, 2, 0, -2, 0]
    assert matmul(inputs, np.ones((1, GROUP_SIZE)), np.float32([10])).tolist() == [[127 + 2 + 2 - 2 + 10]]
