"""Quantised matmuls and networks against the reference of the same arithmetic; extreme values; packing."""

from __future__ import annotations

import numpy as np
import pytest

from decoding.errors import KernelError, ParameterError
from decoding.models import native_call
from decoding.models.native_matrix import PackedMatrix
from decoding.models.native_names import BLOCKS
from decoding.models.native_plan import PlanLayer
from decoding.reference.quantised import matmul, quantise_inputs

SIZES = [(1, 1), (15, 2), (16, 3), (17, 1), (49, 5)]
"""Outputs, and inputs in blocks."""


def random_inputs(num_rows, num_inputs, seed=0):
    """Return rows of normal numbers, with some small groups."""
    generator = np.random.default_rng(seed)
    scales = np.repeat(generator.choice([1e-6, 0.1, 1, 30], (num_rows, num_inputs // 32)), 32, axis=1)
    return (generator.standard_normal((num_rows, num_inputs)) * scales).astype(np.float32)


@pytest.mark.parametrize(("num_outputs", "num_blocks"), SIZES)
def test_against_the_reference(blocks, weight_type, num_outputs, num_blocks):
    """Each output is within 1e-6 of the sum of its terms' magnitudes, at sizes around panels and blocks."""
    num_inputs = num_blocks * BLOCKS[weight_type][0]
    rows = blocks.random_blocks(weight_type, num_outputs, num_inputs)
    weights, inputs = blocks.dequantised(weight_type, rows), random_inputs(7, num_inputs)
    bias = random_inputs(1, 64)[0, :num_outputs].copy()
    actual = blocks.native_matmul(inputs, blocks.packed(weight_type, rows, bias))
    magnitude = np.abs(quantise_inputs(inputs).values()) @ np.abs(weights.astype(np.float64)).T + np.abs(bias)
    assert (np.abs(actual - matmul(inputs, weights, bias)) <= 1e-6 * magnitude).all()


@pytest.mark.parametrize("scale", [0.0, 2.0**-24, 2.0**-14, 1.0, 65504.0])
@pytest.mark.parametrize("byte", [0x00, 0xFF, 0x7F, 0x80])
def test_extreme_weights(blocks, weight_type, byte, scale):
    """Extreme weights, inputs and float16 scales overflow no intermediate sum.

    The result is exact if float32 holds the sums, as with a power of two as scale.
    """
    num_inputs = BLOCKS[weight_type][0]
    rows = blocks.with_scales(
        weight_type, np.full((17, BLOCKS[weight_type][1]), byte, np.uint8), np.float16([scale] * 2)
    )
    inputs = np.full((4, num_inputs), 127, np.float32)
    inputs[1], inputs[2, ::2], inputs[3, : num_inputs // 2] = -127, -127, -127
    actual = blocks.native_matmul(inputs, blocks.packed(weight_type, rows))
    weights = blocks.dequantised(weight_type, rows)
    tolerance = 1e-6 * 127 * np.abs(weights).sum(axis=1).max() if scale == 65504 else 0
    np.testing.assert_allclose(actual, matmul(inputs, weights), rtol=0, atol=tolerance)


def test_nan_and_infinite_inputs(blocks, weight_type):
    """A NaN or an infinity makes all outputs of its row NaN, and changes no other row."""
    num_inputs = 2 * BLOCKS[weight_type][0]
    rows, inputs = blocks.random_blocks(weight_type, 20, num_inputs), random_inputs(6, num_inputs)
    matrix = blocks.packed(weight_type, rows)
    expected = blocks.native_matmul(inputs, matrix)
    inputs[1, 0], inputs[3, -1], inputs[4, 33] = np.nan, np.inf, -np.inf
    actual = blocks.native_matmul(inputs, matrix)
    assert np.isnan(actual[[1, 3, 4]]).all()
    assert (actual[[0, 2, 5]] == expected[[0, 2, 5]]).all()


def test_huge_and_tiny_inputs(blocks, weight_type):
    """Tiny inputs count as zero, and huge ones give infinities or NaN."""
    num_inputs = BLOCKS[weight_type][0]
    rows = blocks.random_blocks(weight_type, 16, num_inputs)
    inputs = np.zeros((4, num_inputs), np.float32)
    inputs[0, 0], inputs[1, :] = np.float32(2.0**-101), np.float32(1e-45)
    inputs[2, :], inputs[3, 5] = np.float32(3.4e38), np.float32(2.0**-100)
    actual = blocks.native_matmul(inputs, blocks.packed(weight_type, rows))
    assert (actual[:2] == 0).all()
    assert (np.abs(actual[3]) < 1e-25).all()
    assert not np.isfinite(
        blocks.native_matmul(inputs[2:3], blocks.packed(weight_type, largest(blocks, weight_type)))
    ).any()


def largest(blocks, weight_type):
    """Return a row of the largest weights of a type."""
    rows = np.full((1, BLOCKS[weight_type][1]), 0x7F if weight_type in ("q8_0", "q6_k") else 0xFF, np.uint8)
    return blocks.with_scales(weight_type, rows, np.float16([65504.0, -65504.0 if "k" in weight_type else 65504.0]))


def test_rows_in_any_order(blocks, weight_type):
    """Rows packed in permuted and strided pieces give the same panels as the whole."""
    num_inputs, num_bytes = BLOCKS[weight_type]
    rows = blocks.random_blocks(weight_type, 45, num_inputs)
    order = np.random.default_rng(1).permutation(20)
    whole = blocks.packed(weight_type, np.concatenate([rows[:25], rows[25:][order]]))
    pieces = PackedMatrix(weight_type, 45, num_inputs)
    pieces.panels[:] = 0xAA
    pieces.put(25, rows[25:], order)
    pieces.put(0, rows[:3])
    spread = np.zeros((22, num_bytes + 5), np.uint8)
    spread[:, :num_bytes] = rows[3:25]
    pieces.put(3, spread[:, :num_bytes])
    assert (pieces.panels == whole.panels).all()


def test_refused_shapes(weight_type):
    """Inputs that are no whole blocks, and rows of another length, raise a ParameterError."""
    size, num_bytes = BLOCKS[weight_type]
    with pytest.raises(ParameterError, match=f"num_inputs a multiple of {size} for {weight_type}"):
        PackedMatrix(weight_type, 16, size + 16)
    with pytest.raises(ParameterError, match=rf"rows=.*must be \[num_rows, {2 * num_bytes}\] of 1 bytes"):
        PackedMatrix(weight_type, 16, 2 * size).put(0, np.zeros((1, num_bytes), np.uint8))


def assert_close_rows(actual, expected):
    """Most rows are within 1e-5 of the largest logit, and all within 1e-2.

    The inputs of a matmul differ a little in float32 and in float64. One that lies half-way between two integers may
    round to the other one, which changes the rows that depend on it.
    """
    errors = np.abs(actual - expected).max(axis=1) / np.abs(expected).max()
    assert np.median(errors) < 1e-5
    assert errors.max() < 1e-2


def test_networks(kit, blocks, weight_type):
    """The logits of a fully quantised network agree with the reference."""
    network = blocks.quantised_network(kit, weight_type)
    tokens = [(7 * i + i * i) % network.shape.vocab_size for i in range(40)]
    assert_close_rows(kit.alone(network, tokens), blocks.reference_logits(kit, network, tokens))


def test_embedding(kit, blocks, weight_type):
    """A quantised embedding gives the same logits as the gguf package's float32 numbers."""
    network = blocks.quantised_network(kit, weight_type, embedding_scale=3.0)
    logits = kit.alone(network, [1, 5, 30])
    floats = np.ascontiguousarray(network.embedding)
    network.plan.struct.embedding_type = 0
    network.plan.struct.embedding = native_call.pointer(floats, "float")
    network.plan.struct.embedding_stride = floats.strides[0]
    assert (kit.alone(network, [1, 5, 30]) == logits).all()


def mixed(network, blocks, *, at=(256,), kinds=("q4_k", "q4_k"), name="qkv"):
    """Return a matrix of the network's first layer, in parts that end at the outputs `at`."""
    matrix = getattr(network.layers[0], name)
    rows, bias = matrix.blocks, matrix.bias
    bounds, rest = [0, *at, len(rows)], None
    for begin, end, kind in reversed(list(zip(bounds, bounds[1:], kinds, strict=False))):
        part = rows[begin:end] if kind == "q4_k" else blocks.random_blocks(kind, end - begin, 256)
        rest = blocks.packed(kind, part, None if bias is None else bias[begin:end].copy(), rest)
    return rest


def replan(network, kit, **matrices):
    """Return the network's plan with other matrices in the first layer."""
    packed_layers = list(network.plan._kept[-1])
    packed_layers[0] = packed_layers[0]._replace(**matrices)
    assert isinstance(packed_layers[0], PlanLayer)
    shape = network.shape
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_heads", "num_kv_heads", "head_dim")
    return kit.Plan(
        **{name: getattr(shape, name) for name in (*names, "activation", "gated", "rope_pairs")},
        embedding=network.blocks,
        embedding_type=shape.weight_type,
        layers=packed_layers,
        norm=network.norm,
        head=network.plan._kept[3],
    )


@pytest.mark.parametrize(
    ("name", "at"),
    [("qkv", (256,)), ("qkv", (16,)), ("qkv", (256, 320)), ("qkv", (304,)), ("up", (512,)), ("up", (48, 512))],
)
def test_a_matrix_of_several_parts(kit, blocks, name, at):
    """Queries, keys and values in parts, or gate and up, have the same bits as one matrix."""
    network = blocks.quantised_network(kit, "q4_k")
    tokens = list(range(20))
    expected = kit.alone(network, tokens)
    network.plan = replan(network, kit, **{name: mixed(network, blocks, at=at, kinds=("q4_k",) * 3, name=name)})
    for wanted in (None, [19]):
        runner = kit.Runner(network, num_blocks=2)
        runner.add(0, [1, 0])
        assert (runner.step({0: tokens}, wanted) == (expected if wanted is None else expected[wanted])).all()


def test_a_matrix_of_several_types(kit, blocks):
    """Values may have another type than queries and keys, with the logits of the reference."""
    network = blocks.quantised_network(kit, "q4_k")
    values = blocks.random_blocks("q6_k", 64, 256)
    qkv = network.layers[0].qkv
    network.plan = replan(network, kit, qkv=mixed(network, blocks, at=(320,), kinds=("q4_k", "q6_k")))
    qkv.weight = np.concatenate([qkv.weight[:320], blocks.dequantised("q6_k", values)])
    tokens = list(range(20))
    assert_close_rows(kit.alone(network, tokens), blocks.reference_logits(kit, network, tokens))


def test_refused_parts(kit, blocks):
    """Parts must end at multiples of 16 outputs, be all quantised or none, and belong to qkv or up."""
    network = blocks.quantised_network(kit, "q4_k")
    down = network.layers[0].down.blocks
    wrong = [
        {"qkv": mixed(network, blocks, at=(250,))},
        {"qkv": blocks.packed("q4_k", network.layers[0].qkv.blocks[:320], rest=blocks.zeros(64, 256))},
        {"down": blocks.packed("q4_k", down[:128], rest=blocks.packed("q4_k", down[128:]))},
        {"qkv": mixed(network, blocks, at=(256, 304), kinds=("q4_k", "q4_k"))},
    ]
    for matrices in wrong:
        with pytest.raises(KernelError, match="refused a plan"):
            replan(network, kit, **matrices)
