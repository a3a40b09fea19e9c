"""Powers and logarithms that are the same on every machine."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from decoding.models.real_functions import log, powers

POSITIVE = st.floats(min_value=1e-30, max_value=1e30)


@given(base=POSITIVE)
def test_square_roots_are_correctly_rounded(base: float) -> None:
    """The power 1/2 has the bits of sqrt, which IEEE 754 rounds correctly; the powers 0 and 1 are exact."""
    assert powers(base, [0.5, 0.0, 1.0]) == [math.sqrt(base), 1.0, base]


@given(base=POSITIVE, exponent=st.floats(-2, 2))
def test_powers_and_logarithms_agree_with_the_c_library(base: float, exponent: float) -> None:
    """Powers and logarithms agree with the C library to two units in the last place."""
    (power,) = powers(base, [exponent])
    assert abs(power - base**exponent) <= 2 * math.ulp(power)
    assert abs(log(base) - math.log(base)) <= 2 * math.ulp(math.log(base))


def test_overflow_is_infinite() -> None:
    """Overflow gives infinity without an exception, as in numpy."""
    assert powers(math.inf, [0.0, 0.5, 1.0]) == [1.0, math.inf, math.inf]
    assert np.isnan(powers(math.nan, [0.5])).all()
    assert powers(1e300, [2.0]) == [math.inf]
