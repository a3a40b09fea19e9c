"""Rotary frequencies against their formulas."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest

from decoding.models.rope import DynamicRope, LinearRope, Llama3Rope, LongRope, Rope, YarnRope

PLAIN = 100.0 ** -(np.arange(4) / 4)
YARN = {"factor": 4.0, "trained": 40, "beta_fast": 4.0, "beta_slow": 1.0}


def test_default_frequencies() -> None:
    """The default frequencies are theta^(-2j/dim)."""
    np.testing.assert_allclose(Rope(theta=100.0, dim=8).frequencies(0), PLAIN, rtol=1e-6)


def test_an_odd_dim_is_rounded_up_to_pairs() -> None:
    """With dim=3 there are two pairs, and 3 in the exponents."""
    rope = Rope(theta=100.0, dim=3)
    assert rope.num_pairs == 2
    np.testing.assert_allclose(rope.frequencies(0), [1.0, 100 ** (-2 / 3)], rtol=1e-6)


def test_linear_divides_all_by_the_factor() -> None:
    """Linear scaling divides every frequency by the factor."""
    np.testing.assert_allclose(LinearRope(theta=100.0, dim=8, factor=4.0).frequencies(0), PLAIN / 4, rtol=1e-6)


def test_dynamic_grows_with_the_length() -> None:
    """Beyond the trained length theta is multiplied by (factor * length / trained - factor + 1)^(d / (d - 2))."""
    rope = DynamicRope(theta=100.0, dim=8, factor=3.0, trained=10)
    assert [rope.regime(length) for length in (1, 10, 11, 20)] == [0, 0, 11, 20]
    np.testing.assert_allclose(rope.frequencies(0), PLAIN, rtol=1e-6)
    theta = 100 * (3 * 20 / 10 - 2) ** (8 / 6)
    np.testing.assert_allclose(rope.frequencies(20), theta ** -(np.arange(4) / 4), rtol=1e-5)


def test_yarn_keeps_fast_pairs_and_scales_slow_ones() -> None:
    """YaRN keeps fast pairs, divides slow ones by the factor and interpolates linearly between the bounds."""
    exact = YarnRope(theta=100.0, dim=8, **YARN, truncate=False)
    low, high = (8 * math.log(40 / (beta * 2 * math.pi)) / (2 * math.log(100)) for beta in (4, 1))
    squeeze = np.clip((np.arange(4) - low) / (high - low), 0, 1)
    np.testing.assert_allclose(exact.frequencies(0), PLAIN * (1 - squeeze) + PLAIN / 4 * squeeze, rtol=1e-5)
    whole = YarnRope(theta=100.0, dim=8, **YARN, truncate=True)
    squeeze = np.clip((np.arange(4) - math.floor(low)) / (math.ceil(high) - math.floor(low)), 0, 1)
    np.testing.assert_allclose(whole.frequencies(0), PLAIN * (1 - squeeze) + PLAIN / 4 * squeeze, rtol=1e-5)


def test_llama3_scales_by_wavelength() -> None:
    """Llama 3 keeps short wavelengths, divides the frequencies of long ones and interpolates between."""
    rope = Llama3Rope(theta=100.0, dim=8, factor=8.0, trained=40, low_freq_factor=1.0, high_freq_factor=4.0)
    waves = 2 * np.pi / PLAIN  # 6.3, 19.9, 62.8, 198.7
    smooth = (40 / waves[1] - 1) / 3
    expected = [PLAIN[0], (1 - smooth) * PLAIN[1] / 8 + smooth * PLAIN[1], PLAIN[2] / 8, PLAIN[3] / 8]
    np.testing.assert_allclose(rope.frequencies(0), expected, rtol=1e-5)


def test_longrope_has_two_sets_of_factors() -> None:
    """LongRoPE uses the short factors up to the trained length and the long factors beyond it."""
    rope = LongRope(theta=100.0, dim=8, trained=10, short_factor=(1.0, 2.0, 3.0, 4.0), long_factor=(5.0,) * 4)
    assert [rope.regime(length) for length in (1, 10, 11, 20)] == [0, 0, 1, 1]
    np.testing.assert_allclose(rope.frequencies(0), PLAIN / [1, 2, 3, 4], rtol=1e-6)
    np.testing.assert_allclose(rope.frequencies(1), PLAIN / 5, rtol=1e-6)


ROPES = {
    "default": Rope(theta=500000.0, dim=128),
    "linear": LinearRope(theta=500000.0, dim=128, factor=3.0),
    "dynamic": DynamicRope(theta=500000.0, dim=128, factor=3.0, trained=100),
    "yarn": YarnRope(theta=500000.0, dim=128, factor=4.0, trained=4096, beta_fast=32.0, beta_slow=1.0, truncate=False),
    "llama3": Llama3Rope(theta=500000.0, dim=128, factor=8.0, trained=8192, low_freq_factor=1.0, high_freq_factor=4.0),
    "longrope": LongRope(
        theta=500000.0, dim=128, trained=10, short_factor=(1.1,) * 64, long_factor=tuple(range(1, 65))
    ),
}
BITS = {
    "default": 0xBA07E29D,
    "linear": 0x5EEB3067,
    "dynamic": 0xD299752F,
    "yarn": 0x5E520B08,
    "llama3": 0xD6C3E69A,
    "longrope": 0x2B01864A,
}
"""CRC-32 of the bits of the frequencies for the regimes 0 and 1,000; equal on every machine and with every numpy."""


@pytest.mark.parametrize("kind", ROPES)
def test_bits_do_not_depend_on_the_machine(kind: str) -> None:
    """The frequencies have the same bits on every machine."""
    bits = b"".join(ROPES[kind].frequencies(regime).astype("<f4").tobytes() for regime in (0, 1000))
    assert zlib.crc32(bits) == BITS[kind]
