"""bfloat16 weights in 12 bits each: what a panel stores, the bits of logits, and weights that do not fit."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoding.errors import ParameterError
from decoding.models.native_matrix import PackedMatrix, UncodableError, packed_size
from decoding.sampling.kernel import active_isa, available_isas, forced_isa
from decoding.sampling.kernel.library import ffi, lib

NUM_UPPER_BYTES = 16
NO_EXCEPTION = 0xFFFFFFFF


def max_exceptions(inputs):
    """Return the number of exceptions that a panel has room for."""
    return 8 + inputs // 128


def decoded(panels, outputs, inputs):
    """Return the weights [outputs, inputs] of coded panels, as csrc/simd/coded_bfloat16.h describes them."""
    panel_bytes, weights = packed_size("bfloat16_coded", 16, inputs), []
    for panel in panels[: -(-outputs // 16) * panel_bytes].reshape(-1, panel_bytes):
        table, groups = panel[:16].astype(np.uint16), panel[panel_bytes - inputs * 24 :].reshape(-1, 96)
        lower = groups[:, :64].reshape(-1, 2, 2, 2, 4, 2)  # [group, pair, register, half, output, input]
        numbers = np.stack([groups[:, 64:] & 15, groups[:, 64:] >> 4], axis=1).reshape(lower.shape)
        both = table[numbers] << 8 | lower
        numbers_of_inputs = both.transpose(0, 1, 5, 3, 2, 4).reshape(inputs, 16).copy()
        for exception in panel[16 : panel_bytes - inputs * 24].view("<u4"):
            if exception != NO_EXCEPTION:
                weight = numbers_of_inputs.reshape(-1)[exception >> 8 :][:1]
                weight[:] = (weight & 0xFF) | (exception & 0xFF) << 8
        weights.append(numbers_of_inputs.T)
    return np.concatenate(weights)[:outputs]


def fit(weights):
    """Return True if no panel has more exceptions than room for them."""
    outputs, inputs = weights.shape
    padded = np.zeros((-(-outputs // 16) * 16, inputs), np.uint16)
    padded[:outputs] = weights
    counts = [
        np.sort(np.bincount(panel.reshape(-1) >> 8, minlength=256)) for panel in np.split(padded, len(padded) // 16)
    ]
    return all(count[:-NUM_UPPER_BYTES].sum() <= max_exceptions(inputs) for count in counts)


@st.composite
def panels_with_exceptions(draw):
    """Return bfloat16 weights with at most 16 upper bytes, but for about as many exceptions as fit in a panel."""
    outputs, inputs = draw(st.integers(1, 40)), 4 * draw(st.integers(1, 80))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    bytes_of = rng.permutation(256)[: draw(st.integers(1, NUM_UPPER_BYTES))].astype(np.uint16)
    weights = rng.choice(bytes_of, (outputs, inputs)) << 8 | rng.integers(0, 256, (outputs, inputs), np.uint16)
    for panel in range(0, outputs, 16):
        rows = weights[panel : panel + 16]
        where = rng.choice(rows.size, min(rows.size, draw(st.integers(0, max_exceptions(inputs) + 2))), replace=False)
        rows.reshape(-1)[where] = rng.integers(0, 2**16, len(where), np.uint16)
    return weights


@given(panels_with_exceptions())
def test_no_weight_is_lost(weights):
    """Coded panels hold all bits of all weights, or are refused if they have no room for the exceptions."""
    matrix = PackedMatrix("bfloat16_coded", *weights.shape)
    if fit(weights):
        matrix.put(0, weights)
        assert (decoded(matrix.panels, *weights.shape) == weights).all()
    else:
        with pytest.raises(UncodableError, match="12 bits"):
            matrix.put(0, weights)


def test_exceptions_up_to_the_room():
    """A panel holds as many exceptions as it has room for, the first and last weight among them, and not one more."""
    outputs, inputs = 16, 512
    weights = np.full((outputs, inputs), 0x3C12, np.uint16)
    weights += np.arange(inputs, dtype=np.uint16) % 16 << 8  # 16 upper bytes, each 512 times
    where = np.linspace(0, weights.size - 1, max_exceptions(inputs) + 1).astype(int)
    weights.reshape(-1)[where[:-2]] = 0x0001
    weights.reshape(-1)[where[-1]] = 0xBF80
    matrix = PackedMatrix("bfloat16_coded", outputs, inputs)
    matrix.put(0, weights)
    assert (decoded(matrix.panels, outputs, inputs) == weights).all()
    weights.reshape(-1)[where[-2]] = 0x0001
    with pytest.raises(UncodableError, match="12 bits"):
        matrix.put(0, weights)


def test_normal_weights_have_few_exceptions():
    """Of normally distributed weights, as of an untrained network, fewer than one in 10,000 is an exception."""
    values = np.random.default_rng(11).standard_normal((1024, 768), np.float32) * np.float32(0.02)
    matrix = PackedMatrix("bfloat16_coded", *values.shape)
    matrix.put(0, (values.view(np.uint32) >> 16).astype(np.uint16))
    panels = matrix.panels[: matrix.num_bytes].reshape(64, -1)
    exceptions = np.ascontiguousarray(panels[:, 16 : panels.shape[1] - 768 * 24]).view("<u4") != NO_EXCEPTION
    assert 0 < exceptions.sum() < values.size / 10_000


def exceptional(kit, num_exceptions):
    """Return two networks with the same weights, plain and coded; matrices have exceptions in all places.

    Each matrix has a multiple of 12 panels, so that one token is multiplied with 3 (AVX-512) or 4 (AVX2) at once.
    """
    sizes = {"hidden_size": 384, "intermediate_size": 576, "vocab_size": 192, "head_dim": 24}
    shape = replace(kit.BASE, **sizes, bias=True)
    plain = kit.Network(replace(shape, weight_type="bfloat16"))
    rng = np.random.default_rng(3)
    linears = [getattr(layer, name) for layer in plain.layers for name in ("qkv", "output", "up", "down")]
    for linear in (*linears, plain.head):
        upper = rng.choice([*range(0x36, 0x3E), *range(0xB6, 0xBE)], linear.weight.shape).astype(np.uint16)
        linear.weight[:] = upper << 8 | linear.weight & 0xFF  # fills the table, so that all others are exceptions
        for panel in range(0, len(linear.weight), 16):
            rows = linear.weight[panel : panel + 16]
            where = rng.choice(rows.size, num_exceptions, replace=False)
            rows.reshape(-1)[where] = rng.integers(0x1000, 0x3000, num_exceptions, np.uint16)
            if num_exceptions == 2:  # the first weights of neighbouring groups and chains, too
                rows[0, [i for i in (0, 4, 8, 252, 256, 260) if i < rows.shape[1]]] = 0x2345
    plain.plan = plain._plan()
    coded = copy.copy(plain)
    coded.shape = replace(plain.shape, weight_type="bfloat16_coded")
    coded.plan = coded._plan()
    return plain, coded


@pytest.mark.parametrize("num_exceptions", [0, 2, 5])
@pytest.mark.parametrize("isa", available_isas())
def test_the_same_bits_as_plain(kit, num_exceptions, isa):
    """Coded weights give the logits of plain ones, for one token, tiles of every height, and several tiles."""
    plain, coded = exceptional(kit, num_exceptions)
    tokens = [(7 * i + i * i) % 100 for i in range(60)]
    expected = kit.alone(plain, tokens)
    assert coded.plan.num_weight_bytes < 0.8 * plain.plan.num_weight_bytes
    with forced_isa(isa):
        assert active_isa() == isa
        runner = kit.Runner(coded, num_blocks=4)
        runner.add(0, range(4))
        ends = np.cumsum([1, 2, 3, 4, 5, 6, 7, 1, 9, 10, 11])
        parts = [runner.step({0: tokens[begin:end]}) for begin, end in itertools.pairwise([0, *ends])]
    assert (np.concatenate(parts).view(np.uint32) == expected[: ends[-1]].view(np.uint32)).all()


def test_rows_in_parts_and_in_another_order():
    """Whole panels may be coded in any order, from rows in any order."""
    rng = np.random.default_rng(5)
    weights = rng.standard_normal((40, 64), np.float32).view(np.uint32) >> 16
    weights = weights.astype(np.uint16)
    matrix, order = PackedMatrix("bfloat16_coded", 40, 64), rng.permutation(24)
    matrix.put(16, weights[16:][np.argsort(order)], order)
    matrix.put(0, weights[:16])
    assert (decoded(matrix.panels, 40, 64) == weights).all()


@pytest.mark.parametrize(("first", "count"), [(8, 8), (0, 8), (-16, 16), (0, 56), (48, 16), (16, 0)])
def test_parts_that_are_not_panels(first, count):
    """Rows that do not fill whole panels of the matrix raise a ParameterError."""
    with pytest.raises(ParameterError):
        PackedMatrix("bfloat16_coded", 40, 64).put(first, np.zeros((count, 64), np.uint16))


def test_sizes_that_cannot_be_coded():
    """The number of inputs is a multiple of 4 below 2^20."""
    for inputs in (1, 2, 3, 5, 66, 2**20):
        assert packed_size("bfloat16_coded", 16, inputs) == 0
        with pytest.raises(ParameterError, match="num_inputs"):
            PackedMatrix("bfloat16_coded", 16, inputs)
    assert packed_size("bfloat16_coded", 17, 2**20 - 4) > 0


def test_arguments_of_c():
    """decoding_code_bfloat16 refuses null pointers and sizes; decoding_pack and embeddings do not take the type."""
    memory = ffi.new("char[4096]")
    for inputs, panels, source, target in ((4, 0, memory, memory), (6, 1, memory, memory), (4, 1, ffi.NULL, memory),
                                           (4, 1, memory, ffi.NULL)):  # fmt: skip
        assert lib.decoding_code_bfloat16(inputs, panels, source, target) == lib.DECODING_BAD_ARGUMENT
    status = lib.decoding_pack(lib.DECODING_BFLOAT16_CODED, 16, 4, memory, 0, 16, memory, 8, ffi.NULL)
    assert status == lib.DECODING_BAD_ARGUMENT


def test_an_embedding_cannot_be_coded(kit):
    """A plan whose embedding has the coded type is refused."""
    network = kit.Network(kit.BASE)
    network.plan.struct.embedding_type = lib.DECODING_BFLOAT16_CODED
    assert lib.decoding_kv_block_size(network.plan.struct) == 0
