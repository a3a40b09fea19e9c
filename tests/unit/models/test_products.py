"""Products in blocks, against the product of the whole matrices."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest

from decoding.models import blas, crew, products
from decoding.models.blas import BlasThreads
from decoding.models.crew import Crew

RNG = np.random.default_rng(11)


@pytest.fixture(autouse=True)
def _in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "multiplies_in_place", lambda: True)
    monkeypatch.setattr(products, "_LEAST_SIZE", 0)


def _matrix(num_inputs: int, num_outputs: int) -> tuple[products.Array, products.Array]:
    """Weights [out, in], and the same in blocks."""
    weights = RNG.normal(size=(num_outputs, num_inputs)).astype(np.float32)
    width = products.block_width(num_inputs, num_outputs)
    blocks = np.full((num_outputs // width, num_inputs, width), np.nan, np.float32)
    for first in range(0, num_outputs, 60):  # by parts that do not end where blocks end
        products.put_outputs(blocks, first, weights[first : first + 60])
    return weights, blocks


@pytest.mark.parametrize(
    ("sizes", "width"),
    [
        ((288, 864, 288), 32),
        ((288, 848, 288), 16),  # 53 blocks of two vectors would not do
        ((288, 864, 48), 16),
        ((288, 856), 856),  # blocks of half a vector are no gain
        ((7812, 64), 32),
        ((7813, 64), 16),  # so that four tokens share in reading a block
        ((15626, 64), 64),
    ],
)
def test_the_width_divides_all_sizes(sizes: tuple[int, ...], width: int) -> None:
    """32 or 16 where that is possible, else the whole matrix is one block."""
    assert products.block_width(*sizes) == width


def test_a_small_matrix_is_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its product takes no longer than the calls for its blocks."""
    monkeypatch.setattr(products, "_LEAST_SIZE", 4096)
    assert products.block_width(64, 64) == 32
    assert products.block_width(32, 96) == 96


def test_elsewhere_a_matrix_is_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is filled up."""
    assert products.padded(50257) == 50272
    monkeypatch.setattr(products, "multiplies_in_place", lambda: False)
    assert products.block_width(288, 864, 288) == 864
    assert products.padded(50257) == 50257


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("tokens", [1, 2, 31, 32, 97, 300])
@pytest.mark.parametrize(("num_inputs", "num_outputs"), [(64, 160), (3000, 96), (9000, 48), (64, 40), (16000, 96)])
def test_blocks_make_the_product_of_the_matrix(
    num_inputs: int, num_outputs: int, tokens: int, num_threads: int
) -> None:
    """For one token, a few, and more than one product may have, by one thread or several, in whatever parts."""
    weights, blocks = _matrix(num_inputs, num_outputs)
    x = RNG.normal(size=(tokens, num_inputs)).astype(np.float32)
    expected = x.astype(float) @ weights.T.astype(float)
    for num_rows in {tokens, products.num_rows(tokens, blocks)}:
        out = np.full((num_rows, num_outputs), np.nan, np.float32)
        with patch.multiple(crew, WORTHWHILE=1, WORTH_WAKING=1):
            products.multiply(x, blocks, out, Crew(num_threads))
        np.testing.assert_allclose(out[:tokens], expected, atol=1e-5 * num_inputs**0.5 * 4)


def test_a_single_token_is_given_twice_to_blocks_alone() -> None:
    """A matrix that stays whole is multiplied with the vector that it is."""
    assert products.num_rows(1, np.empty((3, 64, 32), np.float32)) == 2
    assert products.num_rows(1, np.empty((1, 64, 96), np.float32)) == 1
    assert products.num_rows(5, np.empty((3, 64, 32), np.float32)) == 5


@pytest.mark.parametrize(
    ("num_inputs", "num_outputs", "tokens"), [(64, 320, 9), (2000, 1000, 33), (2000, 1000, 1), (300, 1000, 5)]
)
def test_the_number_of_threads_changes_nothing(num_inputs: int, num_outputs: int, tokens: int) -> None:
    """Each number is computed by one thread, in the same way: in blocks, and of matrices that stay whole."""
    if not blas.multiplies_in_place():
        pytest.skip("here no crew has more than one thread")
    _, blocks = _matrix(num_inputs, num_outputs)
    x = RNG.normal(size=(tokens, num_inputs)).astype(np.float32)
    outs = []
    for size in (1, 2, 7):
        outs.append(np.empty((products.num_rows(tokens, blocks), num_outputs), np.float32))
        with patch.multiple(crew, WORTHWHILE=1, WORTH_WAKING=1), BlasThreads().adjusted(0):
            products.multiply(x, blocks, outs[-1], Crew(size))
    assert (outs[0] == outs[1]).all()
    assert (outs[0] == outs[2]).all()
