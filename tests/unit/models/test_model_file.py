"""Tests of ModelFile: rows and columns of a table equal the bytes in the file."""

from __future__ import annotations

import os

import numpy as np
import pytest

from decoding.errors import CheckpointError
from decoding.models.model_file import ModelFile

ROWS, ROW_BYTES, BEGIN = 50, 6, 7


@pytest.fixture
def table(tmp_path):
    """Return a file with a table behind a few other bytes, and the table as an array."""
    data = np.random.default_rng(1).integers(0, 256, BEGIN + ROWS * ROW_BYTES + 3, np.uint8)
    path = tmp_path / "file"
    path.write_bytes(data.tobytes())
    return ModelFile(path), data[BEGIN : BEGIN + ROWS * ROW_BYTES].reshape(ROWS, ROW_BYTES)


@pytest.mark.parametrize(
    "index",
    [
        *(slice(*one) for one in ((None,), (0, 0), (3, 9), (40, 99), (5, 2), (1, 30, 7), (30, 1, -3), (-4, None))),
        *(np.array(one, np.intp) for one in ([], [0], [49], [49, 0], [7, 7, 8], [-1, 3], list(range(49, -1, -1)))),
    ],
    ids=str,
)
def test_rows(table, index):
    """Slices and index arrays, also unordered and negative ones, select the same rows as in numpy."""
    file, expected = table
    np.testing.assert_array_equal(file.rows(BEGIN, ROW_BYTES, ROWS, index), expected[index])


@pytest.mark.parametrize("number", [ROWS, -ROWS - 1])
def test_rows_beyond_the_table(table, number):
    """An index beyond the table raises an IndexError."""
    with pytest.raises(IndexError, match="table"):
        table[0].rows(BEGIN, ROW_BYTES, ROWS, np.array([0, number]))


def test_columns(table):
    """A slice of columns selects the same bytes of each row as in numpy."""
    file, expected = table
    np.testing.assert_array_equal(file.columns(BEGIN, ROW_BYTES, ROWS, slice(2, 5)), expected[:, 2:5])


def test_a_truncated_file(table):
    """A read from a file that was truncated raises a CheckpointError."""
    file, _ = table
    os.truncate(file.path, BEGIN + 100)
    assert len(file.read(0, BEGIN + 100)) == BEGIN + 100
    for read in (
        lambda: file.read(0, BEGIN + 101),
        lambda: file.rows(BEGIN, ROW_BYTES, ROWS, np.array([0, 49])),
        lambda: file.columns(BEGIN, ROW_BYTES, ROWS, slice(0, 1)),
    ):
        with pytest.raises(CheckpointError, match="cut off"):
            read()
