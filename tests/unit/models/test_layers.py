"""The pure operations, each against its formula."""

from __future__ import annotations

import numpy as np
import pytest

from decoding.models import layers

RNG = np.random.default_rng(7)


def _random(*shape: int) -> layers.Array:
    return RNG.normal(size=shape).astype(np.float32)


def test_linear_adds_its_bias_where_it_has_one() -> None:
    """The weight is stored [out, in], as Hugging Face does, and applied as x W^T + b."""
    x, weight, bias = _random(3, 4), _random(5, 4), _random(5)
    np.testing.assert_allclose(layers.Linear(weight)(x), np.einsum("ti,oi->to", x, weight), atol=1e-6)
    np.testing.assert_allclose(layers.Linear(weight, bias)(x), np.einsum("ti,oi->to", x, weight) + bias, atol=1e-6)


@pytest.mark.parametrize("size", [1e-20, 1.0, 1e25])
def test_rms_norm_neither_overflows_nor_underflows(size: float) -> None:
    """The norm of a row does not depend on its size, up to eps, however far its squares leave float32."""
    x = _random(2, 8)
    scaled = (x * np.float32(size)).astype(np.float32)
    exact = scaled / np.sqrt(np.mean(scaled.astype(float) ** 2, axis=1, keepdims=True) + 1e-42)
    np.testing.assert_allclose(layers.rms_norm(scaled, np.ones(8, np.float32), 1e-42), exact, rtol=1e-5)


def test_silu_and_mul_at_its_extremes() -> None:
    """silu(x) * up is x * up far right, 0 far left, without an overflow that matters."""
    with np.errstate(over="ignore"):  # as in the forward pass
        out = layers.silu_and_mul(np.array([[200.0, -200.0, 0.0, 1.0, 2, 2, 2, 2]], np.float32))
    np.testing.assert_allclose(out, [[400.0, 0.0, 0.0, 2 / (1 + np.exp(-1))]], rtol=1e-6)


def test_rotary_table_grows_and_keeps_its_values() -> None:
    """exp(i p f) with f = theta^(-2j/d), for positions asked in any order."""
    table = layers.RotaryTable(6, 100.0)
    far, near = table.at(np.array([1000, 3])), table.at(np.array([3]))
    expected = np.exp(1j * np.outer([1000, 3], 100.0 ** -(np.arange(3) / 3)))
    np.testing.assert_allclose(far, expected, atol=1e-6)
    np.testing.assert_array_equal(near, far[1:])


def test_rotation_of_paired_halves_is_the_rotation_of_halves() -> None:
    """Reordering rows with pair_halves, then turning neighbours, turns (i, i + d/2) as the formula says."""
    x = _random(2, 3 * 8)  # [tokens, 3 heads of 8]
    angles = np.array([[0.1, 0.2, 0.3, 0.4], [1.1, 1.2, 1.3, 1.4]])
    paired = layers.pair_halves(np.ascontiguousarray(x.T), 8).T.reshape(2, 3, 8)
    turned = layers.rotate(np.ascontiguousarray(paired), np.exp(1j * angles).astype(np.complex64))
    first, second = x.reshape(2, 3, 2, 4)[:, :, 0], x.reshape(2, 3, 2, 4)[:, :, 1]
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    np.testing.assert_allclose(turned[..., 0::2], first * cos - second * sin, atol=1e-6)
    np.testing.assert_allclose(turned[..., 1::2], second * cos + first * sin, atol=1e-6)


def test_attention_sees_what_it_may_and_shares_key_heads() -> None:
    """Each query's output is the softmax-weighted mean of the visible values of its own group's head."""
    queries, keys, values = _random(2, 3, 4, 6), _random(2, 2, 5, 6), _random(2, 2, 5, 6)
    visible = np.array([[1, 2, 3], [3, 4, 5]])
    out = layers.attention(queries, keys, values, visible)
    for batch, new, head in np.ndindex(2, 3, 4):
        k, v = keys[batch, head // 2], values[batch, head // 2]
        scores = (k @ queries[batch, new, head] / np.sqrt(6))[: visible[batch, new]]
        weights = np.exp(scores) / np.exp(scores).sum()
        np.testing.assert_allclose(out[batch, new, head], weights @ v[: len(weights)], atol=1e-6)


def test_softmax_does_not_overflow() -> None:
    """Scores of any size give weights that sum to one; banned ones give zero."""
    out = layers.softmax(np.array([[1e30, 1e30, -np.inf], [-3e4, -3e4, 0.0]], np.float32))
    np.testing.assert_allclose(out, [[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
