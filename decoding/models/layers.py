"""The operations of a decoder network on float32 arrays: no caches, no files, results in arrays that the caller gives.

These few are all that a backend has to have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, partial
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from decoding.models.activations import ACTIVATIONS, Array
from decoding.models.crew import Crew, Work
from decoding.models.products import multiply, num_rows
from decoding.models.scratch import Scratch

Rotation: TypeAlias = NDArray[np.complex64]
_CALLS = 16  # of numpy in attention, about
_COST = 8  # multiplications of a product with weights that take as long as one with a key and one with a value


class Linear(NamedTuple):
    """x -> x W + b; blocks [n, in, width] are W [in, out] in n parts of `width` outputs; bias [out] or None."""

    blocks: Array
    bias: Array | None = None

    def __call__(self, x: Array, out: Array, crew: Crew) -> Array:
        """[tokens, in] -> [tokens, out], the first rows of `out` [num_rows, out], contiguous."""
        multiply(x, self.blocks, out, crew)
        if len(x) < len(out):
            out = out[: len(x)]
        if self.bias is not None:
            out += self.bias
        return out

    def num_rows(self, tokens: int) -> int:
        """Rows of the array that the result for so many tokens wants (products.num_rows)."""
        return num_rows(tokens, self.blocks)

    @property
    def num_outputs(self) -> int:
        """Features that it makes of each token."""
        num_blocks, _, width = self.blocks.shape
        return int(num_blocks * width)

    def part(self, first: int, after: int) -> Linear:
        """The same for the outputs from `first` to `after`, which are multiples of `width` if n > 1; a view."""
        width = self.blocks.shape[2]
        alone = len(self.blocks) == 1
        blocks = self.blocks[:, :, first:after] if alone else self.blocks[first // width : after // width]
        return Linear(blocks, None if self.bias is None else self.bias[first:after])


class RMSNorm(NamedTuple):
    """RMSNorm (Zhang and Sennrich 2019): x / sqrt(mean(x^2) + eps) * weight."""

    weight: Array
    eps: float

    def __call__(self, x: Array, out: Array) -> Array:
        """[..., size] -> out, of the same shape; may be x itself."""
        root: Array | np.float32
        result = out
        if x.size == x.shape[-1]:  # one number for one token takes half as long as arrays of one
            x, out = x.reshape(-1), out.reshape(-1)
            root = np.float32(math.sqrt(x.dot(x) / x.size + self.eps))
        else:
            mean = np.matmul(x[..., None, :], x[..., None])[..., 0] / np.float32(x.shape[-1])  # [..., 1]
            root = np.sqrt(mean + np.float32(self.eps))
        np.divide(x, root, out=out)
        out *= self.weight
        return result


class LayerNorm(NamedTuple):
    """LayerNorm (Ba et al. 2016): (x - mean(x)) / sqrt(var(x) + eps) * weight + bias."""

    weight: Array
    bias: Array
    eps: float

    def __call__(self, x: Array, out: Array) -> Array:
        """[..., size] -> out, of the same shape; may be x itself."""
        np.subtract(x, x.mean(axis=-1, keepdims=True), out=out)
        RMSNorm(self.weight, self.eps)(out, out)
        out += self.bias
        return out


Norm: TypeAlias = RMSNorm | LayerNorm


def gated(name: str, gate_up: Array, out: Array) -> Array:
    """The nonlinearity of a gated MLP (Shazeer 2020): [gate, up] [tokens, 2 * size] -> out = act(gate) * up."""
    size = out.shape[-1]
    ACTIVATIONS[name](gate_up[:, :size], out)
    out *= gate_up[:, size:]
    return out


def soft_cap(x: Array, cap: float) -> Array:
    """Soft capping, in place: cap * tanh(x / cap), close to x where x is small, and never beyond the cap."""
    x /= np.float32(cap)
    np.tanh(x, out=x)
    x *= np.float32(cap)
    return x


def pair_order(head_dim: int, num_pairs: int) -> NDArray[np.intp]:
    """The order of a head's numbers in which rotated pairs are neighbours, int [head_dim].

    Hugging Face's checkpoints keep the two numbers of a pair `num_pairs` apart. With the rows of the query and key
    weights in this order, `rotate` is one complex product; scores, being dot products, do not change.
    """
    places = np.arange(head_dim)
    places[: 2 * num_pairs] = places[: 2 * num_pairs].reshape(2, num_pairs).T.ravel()
    return places


def rotate(x: Array, rotation: Rotation) -> None:
    """Turn the neighbouring pairs of x [tokens, heads, head_dim] by rotation [tokens, head_dim/2], in place."""
    pairs = x.view(np.complex64)  # [tokens, heads, head_dim/2]
    pairs *= rotation[:, None]


def attention(
    queries: Array,
    keys: Array,
    values: Array,
    scratch: Scratch,
    crew: Crew,
    *,
    mask: Array | None = None,
    cap: float | None = None,
    before: Sequence[tuple[Array, Array]] = (),
) -> Array:
    """Grouped-query attention (Ainslie et al. 2023) of a batch: softmax(cap(q k) + mask) v.

    queries [batch, new, heads, head_dim], with the scale of the scores in them; keys and values [batch, kv_heads,
    keys, head_dim]; mask [batch, new, keys]: 0 for keys that a query sees, -inf for others (None: it sees all); each
    query sees one at least.
    before: keys and values of tokens before those, [batch or 1, kv_heads, some, head_dim]; 1 is for all of the batch.
    Returns [batch, new, heads, head_dim], in the scratch.
    """
    batch, new, num_heads, head_dim = queries.shape
    parts = [*before, (keys, values)]
    kv_heads, num_keys = keys.shape[1], sum(some.shape[2] for some, _ in parts)
    group = num_heads // kv_heads
    q = queries
    if new > 1:
        q = scratch("q", batch, kv_heads, group, new, head_dim)
        np.copyto(q, queries.reshape(batch, new, kv_heads, group, head_dim).transpose(0, 2, 3, 1, 4))
    q = q.reshape(batch, kv_heads, group * new, head_dim)
    scores = scratch("scores", batch, kv_heads, group * new, num_keys)
    weighted = scratch("weighted", *q.shape)

    def attend(heads: slice) -> Work:
        if heads == slice(0, kv_heads):  # views take time
            return partial(_attend, q, parts, scores, weighted, mask, cap)
        of_heads = [(keys[:, heads], values[:, heads]) for keys, values in parts]
        return partial(_attend, q[:, heads], of_heads, scores[:, heads], weighted[:, heads], mask, cap)

    crew.share(kv_heads, _COST * q.size * num_keys, attend, calls=_CALLS)
    if new == 1:
        return weighted.reshape(queries.shape)
    out = scratch("heads", batch, new, kv_heads, group, head_dim)
    np.copyto(out, weighted.reshape(batch, kv_heads, group, new, head_dim).transpose(0, 3, 1, 2, 4))
    return out.reshape(queries.shape)


def _attend(
    q: Array, parts: Sequence[tuple[Array, Array]], scores: Array, out: Array, mask: Array | None, cap: float | None
) -> None:
    """softmax(cap(q k) + mask) v of q [batch, kv_heads, group * new, head_dim] -> out, of the same shape."""
    by_part = [scores]
    if len(parts) > 1:
        by_part = np.split(scores, np.cumsum([keys.shape[2] for keys, _ in parts[:-1]]), axis=-1)
    for (keys, _), place in zip(parts, by_part, strict=True):
        np.matmul(q, keys.swapaxes(2, 3), out=place)
    if cap is not None:
        soft_cap(scores, cap)
    if mask is not None:  # [batch, new, keys]
        by_query = scores.reshape(*scores.shape[:2], -1, *mask.shape[1:])
        by_query += mask[:, None, None]
    sums = _softmax_weights(scores)
    np.matmul(by_part[0], parts[0][1], out=out)
    for place, (_, values) in zip(by_part[1:], parts[1:], strict=True):
        out += np.matmul(place, values)
    out /= sums


def _softmax_weights(scores: Array) -> Array:
    """Scores to exp(scores - max), in place, without overflow; returns their sums [..., 1] over the last axis."""
    scores -= np.maximum.reduce(scores, axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    # Three times as fast as sum() on short rows.
    sums: Array = np.matmul(scores, _ones(scores.shape[-1].bit_length())[: scores.shape[-1]])
    return sums


@cache
def _ones(bits: int) -> Array:
    return np.ones((1 << bits, 1), np.float32)
