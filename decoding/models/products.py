"""Products of tokens with weights, in blocks that OpenBLAS multiplies as they lie.

A BLAS first copies both factors of a matrix product into an order of its own. That pays where each weight is used for
hundreds of tokens, and is most of the time where a step has one for each of a few sequences. OpenBLAS's kernels for
AVX-512 leave the copy out if a product has at most a million multiplications. So weights are kept in blocks of a few
outputs, a product with a block is that small, and numpy goes through the blocks in one call: for a few tokens that is
up to twice as fast (`python -m benchmarks.products`). Elsewhere a matrix is one block, and the product is what it
always was.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from decoding.models.activations import Array
from decoding.models.blas import multiplies_in_place
from decoding.models.crew import Crew, Work

_MOST = 1_000_000  # multiplications of a product that OpenBLAS does in place: rows x inputs x outputs
_WIDTH, _LEAST_WIDTH = 32, 16  # outputs of a block: two or one of the widest vectors
_LEAST_ROWS = 4  # tokens that should share in reading a block
_READING = 5  # multiplications of a weight that take as long as reading it from memory
# Weights of a matrix worth dividing: smaller ones are near enough, and calls cost more than copies.
_LEAST_SIZE = 1 << 16
_KEPT = 500  # numbers of a result up to which numpy keeps the interpreter's lock, and no thread helps another


def block_width(num_inputs: int, *sizes: int) -> int:
    """Outputs of a block, for a matrix that has sizes[0] of them and is cut at multiples of the others."""
    width = math.gcd(_WIDTH, *sizes) if num_inputs * sizes[0] >= _LEAST_SIZE else 1
    while width * num_inputs * _LEAST_ROWS > _MOST:
        width //= 2
    return width if width >= _LEAST_WIDTH and multiplies_in_place() else sizes[0]


def padded(num_outputs: int) -> int:
    """The least number of outputs, `num_outputs` at least, that makes whole blocks."""
    return -(-num_outputs // _WIDTH) * _WIDTH if multiplies_in_place() else num_outputs


def put_outputs(blocks: Array, first: int, rows: Array) -> None:
    """Write the weights of some outputs, rows [some, in], to blocks [n, in, width], from output `first` on."""
    outputs, width = np.arange(first, first + len(rows)), blocks.shape[2]
    blocks.swapaxes(1, 2)[outputs // width, outputs % width] = rows


def num_rows(tokens: int, blocks: Array) -> int:
    """Rows of a result: one for each token; two where a single token is better given twice.

    Of one vector OpenBLAS makes another kind of product, slower on small blocks.
    """
    return 2 if tokens == 1 and len(blocks) > 1 else tokens


def multiply(x: Array, blocks: Array, out: Array, crew: Crew) -> None:
    """Blocks [n, in, width] applied to x [tokens, in] -> out [num_rows, n * width]; or [tokens, n * width], slower."""
    if len(x) < len(out):
        twice = np.empty((2, x.shape[1]), np.float32)  # takes less time than concatenate
        twice[:] = x
        x = twice
    count, num_inputs, width = blocks.shape
    cost = max(len(x), _READING) * blocks.size
    if count == 1:
        _multiply_whole(x, blocks[0], out, crew)
        return
    by_block = out.reshape(len(x), count, width).swapaxes(0, 1)  # [n, tokens, width], a view
    multiply_some = np.matmul if len(x) * num_inputs * width <= _MOST else _multiply_many
    least = _KEPT // (len(x) * width) + 1
    crew.share(count, cost, lambda part: partial(multiply_some, x, blocks[part], by_block[part]), least=least)


def _multiply_whole(x: Array, weights: Array, out: Array, crew: Crew) -> None:
    """Weights [in, out], shared out by columns; no share is so small that it would be multiplied in place.

    For that is another kernel, which rounds some columns in another way: the bits would depend on the threads.
    """
    num_outputs, cost = out.shape[1], len(x) * weights.size
    num_parts = min(num_outputs, cost // (2 * _MOST))

    def columns(part: slice) -> Work:
        place = slice(num_outputs * part.start // num_parts, num_outputs * part.stop // num_parts)
        return partial(np.matmul, x, weights[:, place], out[:, place])

    if len(x) == 1 or num_parts <= 1:  # a vector's product has kernels of its own
        np.matmul(x, weights, out=out)
    else:
        crew.share(num_parts, cost, columns)


def _multiply_many(x: Array, blocks: Array, out: Array) -> None:
    """More tokens than a product in place may have, by parts, as even as can be."""
    most = max(1, _MOST // (blocks.shape[1] * blocks.shape[2]))
    rows = -(-len(x) // -(-len(x) // most))
    whole = len(x) // rows * rows
    by_rows = out[:, :whole].reshape(len(out), -1, rows, out.shape[2])
    # All tokens by a block, then the next block, which so is read from memory once.
    np.matmul(x[:whole].reshape(1, -1, rows, x.shape[1]), blocks[:, None], out=by_rows)
    if whole < len(x):
        np.matmul(x[whole:], blocks, out=out[:, whole:])
