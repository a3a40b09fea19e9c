"""Packed weights: layout, padding, orders, parts and errors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoding.errors import KernelError, ParameterError
from decoding.models.native_matrix import PackedMatrix
from decoding.sampling.kernel.library import ffi, lib

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}


def expected_panels(weights):
    """Return the layout [panel of 16 outputs][input][16], with zeros after the last output."""
    outputs, inputs = weights.shape
    padded = np.zeros((-(-outputs // 16) * 16, inputs), weights.dtype)
    padded[:outputs] = weights
    return padded.reshape(-1, 16, inputs).transpose(0, 2, 1)


def numbers(weight_type, outputs, inputs):
    """Return distinct weights, as far as the type allows."""
    return (np.arange(outputs * inputs).reshape(outputs, inputs) % 60000).astype(DTYPES[weight_type])


@given(st.sampled_from(list(DTYPES)), st.integers(1, 70), st.integers(1, 40), st.data())
def test_any_parts_in_any_order(weight_type, outputs, inputs, data):
    """Rows packed in parts, each in its own order, get the positions of the layout."""
    weights = numbers(weight_type, outputs, inputs)
    matrix = PackedMatrix(weight_type, outputs, inputs)
    matrix.panels[:] = 0xAB
    cuts = data.draw(st.lists(st.integers(0, outputs), max_size=3))
    borders = sorted({0, outputs, *cuts})
    for first, end in itertools.pairwise(borders):
        order = np.array(data.draw(st.permutations(range(end - first))), np.int32)
        rows = np.empty((end - first, inputs), weights.dtype)
        rows[order] = weights[first:end]
        matrix.put(first, rows, order)
    packed = matrix.panels.view(weights.dtype).reshape(-1, inputs, 16)
    assert (packed == expected_panels(weights)).all()


def test_rows_of_any_stride():
    """Rows may be part of a wider matrix, reversed, or columns of a transposed matrix."""
    wide = numbers("float32", 33, 50)
    for rows in (wide[:, 10:40], wide[::2, :30], wide[::-1, :30], wide[:30].T):
        matrix = PackedMatrix("float32", *rows.shape)
        matrix.put(0, rows)
        assert (matrix.panels.view(np.float32).reshape(-1, rows.shape[1], 16) == expected_panels(rows)).all()


@pytest.mark.parametrize("rows", [np.zeros((3, 5), np.float32), np.zeros(4, np.float32), np.zeros((3, 4), np.float16)])
def test_rows_of_another_shape(rows):
    """Rows that are not [n, num_inputs] of the type's size raise a ParameterError."""
    with pytest.raises(ParameterError, match="rows"):
        PackedMatrix("float32", 8, 4).put(0, rows)


def test_rows_that_do_not_fit():
    """Rows beyond the last output, or an order outside the rows, raise a KernelError."""
    matrix, rows = PackedMatrix("float32", 8, 4), np.zeros((3, 4), np.float32)
    for first, order in ((6, None), (-1, None), (0, [0, 1, 3]), (0, [0, -1, 2])):
        with pytest.raises(KernelError, match="outside its documented range"):
            matrix.put(first, rows, None if order is None else np.array(order))


def test_sizes():
    """A matrix needs at least one output and one input, and a bias as long as the outputs."""
    for outputs, inputs in ((0, 4), (4, 0), (-1, 4)):
        with pytest.raises(ParameterError, match="num_outputs"):
            PackedMatrix("float32", outputs, inputs)
    with pytest.raises(ParameterError, match="bias"):
        PackedMatrix("float32", 4, 4, np.zeros(3, np.float32))


def test_null_and_unknown():
    """decoding_packed_size and decoding_pack refuse unknown types, null pointers and zero rows."""
    assert lib.decoding_packed_size(99, 4, 4) == 0
    memory, rows = ffi.new("float[64]"), ffi.new("float[4]")
    for panels, source, count in ((ffi.NULL, rows, 1), (memory, ffi.NULL, 1), (memory, rows, 0)):
        status = lib.decoding_pack(0, 4, 4, panels, 0, count, source, 16, ffi.NULL)
        assert status == lib.DECODING_BAD_ARGUMENT
