"""The operations of a decoder network in plain numpy, each with its formula and source.

Letters of shapes: T tokens of one sequence; S keys, those of past tokens included; D elements of a head.
Results have the type of the activations, float32 or float64.
"""

# numpy gives most operations on arrays of either float type the type Any.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from decoding.reference.activations import Array


class Linear(NamedTuple):
    """y = x W^T + b: weight [out, in], as checkpoints store it; bias [out] or None."""

    weight: Array
    bias: Array | None = None

    def __call__(self, x: Array) -> Array:
        """Multiply x [T, in]; returns [T, out]."""
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias


class RMSNorm(NamedTuple):
    """RMSNorm (Zhang and Sennrich 2019): x / sqrt(mean(x^2) + eps) * weight."""

    weight: Array
    eps: float

    def __call__(self, x: Array) -> Array:
        """Normalise the last axis of x [..., size]."""
        return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self.eps) * self.weight


class LayerNorm(NamedTuple):
    """LayerNorm (Ba et al. 2016): (x - mean(x)) / sqrt(var(x) + eps) * weight + bias."""

    weight: Array
    bias: Array
    eps: float

    def __call__(self, x: Array) -> Array:
        """Normalise the last axis of x [..., size]."""
        centred = x - np.mean(x, axis=-1, keepdims=True)
        return RMSNorm(self.weight, self.eps)(centred) + self.bias


def rotary_table(
    frequencies: NDArray[np.float32], attention_factor: float, positions: NDArray[np.intp]
) -> NDArray[np.float32]:
    """Return cosines and sines of the angles position * frequency, float32 [positions, 2 * pairs].

    A row is [cos of each pair | sin of each pair], times attention_factor (yarn, longrope). Angles are rounded to
    float32, as in transformers, because models were trained so.
    """
    angles = np.outer(positions.astype(np.float32), frequencies).astype(np.float64)  # [positions, pairs]
    turns = np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    return turns * np.float32(attention_factor)


def rotate(x: Array, table: Array) -> Array:
    """Rotate pair j of every head, elements (j, j + pairs), by its token's angle (rotary embedding, Su et al. 2021).

    x [T, heads, D]; table [T, 2 * pairs], rows of a rotary table. Elements from 2 * pairs on are unchanged. The two
    elements of a pair are half a head apart in Hugging Face's layout, adjacent in the paper.
    """
    pairs = table.shape[1] // 2
    cos, sin = table[:, None, :pairs], table[:, None, pairs:]  # [T, 1, pairs]
    first, second, rest = x[..., :pairs], x[..., pairs : 2 * pairs], x[..., 2 * pairs :]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)


def soft_cap(x: Array, cap: float | None) -> Array:
    """Apply soft capping (Gemma 2): cap * tanh(x / cap); x itself if there is no cap."""
    return x if cap is None else cap * np.tanh(x / cap)


def softmax(scores: Array) -> Array:
    """Return exp(s_i) / sum_j exp(s_j) over the last axis; the maximum is subtracted first to avoid overflow."""
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def attention(
    queries: Array, keys: Array, values: Array, *, scale: float, cap: float | None = None, window: int | None = None
) -> Array:
    """Compute grouped-query attention (Ainslie et al. 2023) of the last T of S tokens.

    The formula is softmax(cap(scale q k) + mask) v.
    queries [T, heads, D]; keys and values [S, kv_heads, D]. Query head h reads kv head h // (heads / kv_heads).
    A token attends to itself and the tokens before it; with a window, itself and the window - 1 tokens before it.
    Returns [T, heads, D].
    """
    num_queries, num_heads, _ = queries.shape
    num_keys, kv_heads, _ = keys.shape
    query_positions = np.arange(num_keys - num_queries, num_keys)[:, None]  # [T, 1]
    key_positions = np.arange(num_keys)  # [S]
    visible = key_positions <= query_positions  # [T, S]
    if window is not None:
        visible &= key_positions > query_positions - window
    out = np.empty_like(queries)
    for head in range(num_heads):
        kv_head = head // (num_heads // kv_heads)
        scores = soft_cap(queries[:, head] @ keys[:, kv_head].T * scale, cap)  # [T, S]
        out[:, head] = softmax(np.where(visible, scores, -np.inf)) @ values[:, kv_head]
    return out
