"""The operations, each against its formula."""

from __future__ import annotations

import numpy as np
import pytest

from decoding.models import layers
from decoding.models.crew import Crew
from decoding.models.scratch import Arena, Scratch, aligned

RNG = np.random.default_rng(7)


def _random(*shape: int) -> layers.Array:
    return RNG.normal(size=shape).astype(np.float32)


def _empty(*shape: int) -> layers.Array:
    return np.full(shape, np.nan, np.float32)


def test_linear_adds_its_bias_where_it_has_one() -> None:
    """The weight is [in, out] and applied as x W + b, into the array that is given."""
    x, weight, bias = _random(3, 4), _random(4, 5), _random(5)
    out = _empty(3, 5)
    assert layers.Linear(weight[None])(x, out, Crew()) is out
    np.testing.assert_allclose(out, np.einsum("ti,io->to", x, weight), atol=1e-6)
    biased = layers.Linear(weight[None], bias)(x, _empty(3, 5), Crew())
    np.testing.assert_allclose(biased, np.einsum("ti,io->to", x, weight) + bias, atol=1e-6)


def test_a_linear_in_blocks_uses_the_row_that_a_single_token_has_more() -> None:
    """The result is the first row, bias and all."""
    linear, x = layers.Linear(_random(3, 4, 16), _random(48)), _random(1, 4)
    expected = np.einsum("ti,nio->tno", x, linear.blocks).reshape(1, 48) + linear.bias
    out = _empty(linear.num_rows(1), linear.num_outputs)
    found = linear(x, out, Crew())
    assert found.shape == (1, 48)
    assert np.shares_memory(found, out[0])
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_part_of_a_linear_makes_some_of_its_outputs() -> None:
    """Columns of weight and bias, without a copy."""
    whole = layers.Linear(_random(1, 4, 6), _random(6))
    part, x = whole.part(2, 5), _random(3, 4)
    assert np.shares_memory(part.blocks, whole.blocks)
    assert part.num_outputs == 3
    all_outputs = whole(x, _empty(3, 6), Crew())
    np.testing.assert_allclose(part(x, _empty(3, 3), Crew()), all_outputs[:, 2:5], atol=1e-6)


def test_a_part_of_a_linear_in_blocks_is_some_of_the_blocks() -> None:
    """It is cut where blocks end, without a copy."""
    whole, x = layers.Linear(_random(3, 4, 16), _random(48)), _random(3, 4)
    part = whole.part(16, 48)
    assert np.shares_memory(part.blocks, whole.blocks)
    assert part.num_outputs == 32
    all_outputs = whole(x, _empty(3, 48), Crew())
    np.testing.assert_allclose(part(x, _empty(3, 32), Crew()), all_outputs[:, 16:], atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 8), (2, 3, 8)])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e15])
def test_rms_norm(shape: tuple[int, ...], size: float) -> None:
    """Rows of any number of dimensions are divided by their root mean square, whatever its size, and weighted."""
    x, weight = _random(*shape) * np.float32(size), _random(8)
    exact = x / np.sqrt(np.mean(x.astype(float) ** 2, axis=-1, keepdims=True) + 1e-12) * weight
    np.testing.assert_allclose(layers.RMSNorm(weight, 1e-12)(x, _empty(*shape)), exact, rtol=1e-5)
    np.testing.assert_allclose(layers.RMSNorm(weight, 1e-12)(x, x), exact, rtol=1e-5)


def test_layer_norm() -> None:
    """Rows get mean 0 and variance 1, then weight and bias; in place too."""
    x, weight, bias = _random(3, 8) + 5, _random(8), _random(8)
    exact = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5) * weight + bias
    norm = layers.LayerNorm(weight, bias, 1e-5)
    np.testing.assert_allclose(norm(x, _empty(3, 8)), exact, atol=1e-5)
    np.testing.assert_allclose(norm(x, x), exact, atol=1e-5)


def test_gated_at_the_extremes() -> None:
    """silu(gate) * up is gate * up far right, 0 far left, without an overflow that matters."""
    with np.errstate(over="ignore"):  # as in the forward pass
        gate_up = np.array([[200.0, -200.0, 0.0, 1.0, 2, 2, 2, 2]], np.float32)
        out = layers.gated("silu", gate_up, _empty(1, 4))
    np.testing.assert_allclose(out, [[400.0, 0.0, 0.0, 2 / (1 + np.exp(-1))]], rtol=1e-6)


def test_soft_cap() -> None:
    """Small numbers stay, large ones end at the cap."""
    capped = layers.soft_cap(np.array([0.01, -0.01, 3.0, 1e6, -1e6], np.float32), 3.0)
    np.testing.assert_allclose(capped, [0.01, -0.01, 3 * np.tanh(1), 3, -3], rtol=1e-5)


@pytest.mark.parametrize("num_pairs", [4, 2, 1])
def test_rotation_of_reordered_heads_is_the_rotation_of_halves(num_pairs: int) -> None:
    """Reordered with pair_order, then neighbours turned: what the formula does to (i, i + pairs); the rest stays."""
    x, angles = _random(2, 3, 8), RNG.uniform(size=(2, num_pairs))
    order = layers.pair_order(8, num_pairs)
    rotation = np.ones((2, 4), np.complex64)
    rotation[:, :num_pairs] = np.exp(1j * angles)
    turned = np.ascontiguousarray(x[..., order])
    layers.rotate(turned, rotation)
    first, second = x[..., :num_pairs], x[..., num_pairs : 2 * num_pairs]
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    expected = x.copy()
    expected[..., :num_pairs] = first * cos - second * sin
    expected[..., num_pairs : 2 * num_pairs] = second * cos + first * sin
    np.testing.assert_allclose(turned, expected[..., order], atol=1e-6)


def _visible(mask: layers.Array, batch: int, new: int) -> layers.Array:
    return np.flatnonzero(mask[batch, new] == 0)


@pytest.mark.parametrize("cap", [None, 0.7])
def test_attention_sees_what_it_may_and_shares_key_heads(cap: float | None) -> None:
    """Each query's output is the softmax-weighted mean of the visible values of its own group's head."""
    queries, keys, values = _random(2, 3, 4, 6), _random(2, 2, 5, 6), _random(2, 2, 5, 6)
    mask = np.where(RNG.random((2, 3, 5)) < 0.4, -np.inf, 0).astype(np.float32)
    mask[:, :, 2] = 0
    out = layers.attention(queries * np.float32(0.3), keys, values, Scratch(), Crew(), mask=mask, cap=cap)
    for batch, new, head in np.ndindex(2, 3, 4):
        seen = _visible(mask, batch, new)
        scores = keys[batch, head // 2, seen] @ queries[batch, new, head] * 0.3
        scores = scores if cap is None else cap * np.tanh(scores / cap)
        weights = np.exp(scores) / np.exp(scores).sum()
        np.testing.assert_allclose(out[batch, new, head], weights @ values[batch, head // 2, seen], atol=1e-6)


def test_attention_without_a_mask_sees_everything() -> None:
    """As with a mask of zeros."""
    arrays = _random(2, 1, 4, 6), _random(2, 4, 9, 6), _random(2, 4, 9, 6)
    masked = layers.attention(*arrays, Scratch(), Crew(), mask=np.zeros((2, 1, 9), np.float32))
    np.testing.assert_allclose(layers.attention(*arrays, Scratch(), Crew()), masked, atol=1e-6)


def test_attention_does_not_overflow() -> None:
    """Scores of thousands give weights that sum to one."""
    queries, keys, values = _random(1, 2, 2, 4) * 1000, _random(1, 2, 5, 4) * 1000, np.ones((1, 2, 5, 4), np.float32)
    np.testing.assert_allclose(layers.attention(queries, keys, values, Scratch(), Crew()), 1.0)


def test_scratch_that_grows_a_little_each_time_is_seldom_new() -> None:
    """Fresh memory costs more than most of what is computed in it: attention's scores grow at every step."""
    scratch = Scratch()
    places = {scratch("scores", size).ctypes.data for size in range(100, 1000)}
    assert len(places) <= 5


def test_scratch_gives_the_same_memory_again() -> None:
    """One array for each name, aligned, as large as the largest that was asked for, in the shape asked for."""
    scratch = Scratch()
    first = scratch("a", 3, 4)
    assert first.shape == (3, 4)
    assert first.ctypes.data % 64 == 0
    assert np.shares_memory(first, scratch("a", 5))
    assert not np.shares_memory(first, scratch("b", 3, 4))
    assert scratch("a", 100).shape == (100,)
    assert aligned(3, 5).flags.c_contiguous


def test_arrays_of_an_arena_lie_side_by_side() -> None:
    """Each begins on a line of the cache, none overlaps another, and one too large for the block has its own."""
    arena, shapes = Arena(), [(3, 5), (1,), (7, 11), (1 << 23, 2), (4, 4)]
    arrays = [arena(*shape) for shape in shapes]
    for number, array in enumerate(arrays):
        array[...] = number
    for number, (array, shape) in enumerate(zip(arrays, shapes, strict=True)):
        assert array.shape == shape
        assert array.ctypes.data % 64 == 0
        assert (array == number).all()
    assert arrays[1].ctypes.data - arrays[0].ctypes.data == 64
