"""The operations of the reference network, each against its formula in loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from decoding.reference.layers import (
    LayerNorm,
    Linear,
    RMSNorm,
    attention,
    rotary_table,
    rotate,
    soft_cap,
    softmax,
)

RNG = np.random.default_rng(7)


def _random(*shape: int) -> NDArray[np.float64]:
    return RNG.normal(size=shape)


def test_linear_with_and_without_a_bias() -> None:
    """Linear multiplies by a weight [out, in] and adds the bias if there is one."""
    x, weight, bias = _random(3, 4), _random(5, 4), _random(5)
    np.testing.assert_allclose(Linear(weight)(x), np.einsum("ti,oi->to", x, weight), rtol=1e-12)
    np.testing.assert_allclose(Linear(weight, bias)(x), np.einsum("ti,oi->to", x, weight) + bias, rtol=1e-12)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e15])
def test_rms_norm(size: float) -> None:
    """Each vector of the last axis is divided by its root mean square and multiplied by the weight, at any scale."""
    x, weight = _random(2, 3, 8) * size, _random(8)
    found = RMSNorm(weight, 1e-12)(x)
    for index in np.ndindex(2, 3):
        mean = sum(value**2 for value in x[index]) / 8
        np.testing.assert_allclose(found[index], x[index] / np.sqrt(mean + 1e-12) * weight, rtol=1e-12)


def test_layer_norm() -> None:
    """Each row is normalised to mean 0 and variance 1, then multiplied by the weight, and the bias is added."""
    x, weight, bias = _random(3, 8) + 5, _random(8), _random(8)
    exact = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5) * weight + bias
    np.testing.assert_allclose(LayerNorm(weight, bias, 1e-5)(x), exact, rtol=1e-12)


def test_soft_cap() -> None:
    """The cap changes small numbers little and limits large ones; a cap of None changes nothing."""
    x = np.array([0.01, -0.01, 3.0, 1e6, -1e6])
    np.testing.assert_allclose(soft_cap(x, 3.0), [0.01, -0.01, 3 * np.tanh(1), 3, -3], rtol=1e-5)
    assert soft_cap(x, None) is x


def test_softmax_does_not_overflow() -> None:
    """Scores of thousands give finite weights that sum to one."""
    weights = softmax(np.array([[5000.0, 4999.0, -np.inf], [-9000.0, -9000.0, -9000.0]]))
    np.testing.assert_allclose(weights, [[1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1)), 0.0], [1 / 3] * 3], rtol=1e-12)


@pytest.mark.parametrize("pairs", [4, 2, 1])
def test_rotation_turns_pairs_that_are_apart(pairs: int) -> None:
    """Pairs (j, j + pairs) are rotated as complex numbers; the rest of a head is unchanged."""
    x, positions, frequencies = _random(2, 3, 8), np.array([3, 70]), RNG.uniform(0.01, 1, pairs).astype(np.float32)
    found = rotate(x, rotary_table(frequencies, 1.0, positions))
    for token, head in np.ndindex(2, 3):
        turn = np.exp(1j * float(positions[token]) * frequencies.astype(float))
        turned = (x[token, head, :pairs] + 1j * x[token, head, pairs : 2 * pairs]) * turn
        np.testing.assert_allclose(found[token, head, :pairs], turned.real, atol=1e-5)
        np.testing.assert_allclose(found[token, head, pairs : 2 * pairs], turned.imag, atol=1e-5)
        np.testing.assert_array_equal(found[token, head, 2 * pairs :], x[token, head, 2 * pairs :])


def test_angles_of_a_rotary_table_are_rounded_to_float32() -> None:
    """Angles are rounded to float32, as in training, which shows at position 100,000."""
    frequency, position = np.float32(0.7), 100_003
    table = rotary_table(np.array([frequency]), 1.5, np.array([position]))
    angle = float(np.float32(position) * frequency)
    assert angle != position * float(frequency)
    np.testing.assert_allclose(table, [[1.5 * np.cos(angle), 1.5 * np.sin(angle)]], rtol=1e-6)


def _expected(q: Any, k: Any, v: Any, scale: float, cap: float | None, window: int | None) -> NDArray[np.float64]:
    """Compute attention in loops over tokens, heads and keys."""
    out = np.zeros_like(q)
    past, group = len(k) - len(q), q.shape[1] // k.shape[1]
    for token, head in np.ndindex(q.shape[:2]):
        end = past + token + 1
        seen = range(0 if window is None else max(0, end - window), end)
        scores = [scale * float(q[token, head] @ k[key, head // group]) for key in seen]
        scores = scores if cap is None else [cap * np.tanh(score / cap) for score in scores]
        weights = np.exp(np.array(scores)) / sum(np.exp(scores))
        out[token, head] = sum(weight * v[key, head // group] for weight, key in zip(weights, seen, strict=True))
    return out


@pytest.mark.parametrize("window", [None, 1, 3, 100])
@pytest.mark.parametrize("cap", [None, 0.7])
@pytest.mark.parametrize("num_past", [0, 5])
def test_attention(num_past: int, cap: float | None, window: int | None) -> None:
    """Attention agrees with loops, for grouped heads, past tokens, caps and windows."""
    q, k, v = _random(4, 6, 8), _random(num_past + 4, 2, 8), _random(num_past + 4, 2, 8)
    found = attention(q, k, v, scale=0.3, cap=cap, window=window)
    np.testing.assert_allclose(found, _expected(q, k, v, 0.3, cap, window), rtol=1e-12)
