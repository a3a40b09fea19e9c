"""The pure operations of a Llama-family network, on float32 arrays, without caches and files."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float32]


class Linear(NamedTuple):
    """x -> x W^T + b; weight is [out, in] as Hugging Face stores it, bias [out] or None."""

    weight: Array
    bias: Array | None = None

    def __call__(self, x: Array) -> Array:
        """[..., in] -> [..., out]."""
        y: Array = x @ self.weight.T
        if self.bias is not None:
            y += self.bias
        return y


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """RMSNorm (Zhang and Sennrich 2019) of [tokens, hidden]: x / sqrt(mean(x^2) + eps) * weight."""
    sum_squares = np.einsum("td,td->t", x, x, dtype=np.float64)  # [tokens]; squares of 1e20 overflow float32
    scale = (1.0 / np.sqrt(sum_squares / x.shape[1] + eps)).astype(np.float32)
    normed: Array = x * scale[:, None] * weight
    return normed


def silu_and_mul(gate_up: Array) -> Array:
    """SwiGLU's nonlinearity (Shazeer 2020): [gate, up] [tokens, 2 * size] -> silu(gate) * up."""
    size = gate_up.shape[1] // 2
    gate, up = gate_up[:, :size], gate_up[:, size:]
    gated: Array = np.divide(gate, np.exp(-gate) + np.float32(1.0)) * up
    return gated


class RotaryTable:
    """Rotary embeddings (Su et al. 2021): exp(i * position * frequency), for the positions seen so far."""

    def __init__(self, head_dim: int, theta: float) -> None:
        self._frequencies = theta ** -(np.arange(0, head_dim, 2) / head_dim)  # float64 [head_dim/2]
        self._table = np.empty((0, head_dim // 2), np.complex64)

    def at(self, positions: NDArray[np.intp]) -> NDArray[np.complex64]:
        """[tokens] -> [tokens, head_dim/2]. In float32 the angles would be off by 0.004 at 100,000."""
        end = int(positions.max()) + 1
        if end > len(self._table):
            angles = np.outer(np.arange(max(end, 2 * len(self._table))), self._frequencies)
            self._table = np.exp(1j * angles).astype(np.complex64)
        return self._table[positions]


def pair_halves(rows: Array, head_dim: int) -> Array:
    """Reorder the first axis so that the rows i and i + head_dim/2 of each head become neighbours.

    Hugging Face's checkpoints keep the two numbers of a rotated pair half a head apart. With the query and
    key weights reordered once, `rotate` is one complex product; scores, being dot products, do not change.
    """
    heads = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])  # [heads, 2, head_dim/2, ...]
    return heads.swapaxes(1, 2).reshape(rows.shape)


def rotate(x: Array, rotation: NDArray[np.complex64]) -> Array:
    """Turn the neighbouring pairs of [tokens, heads, head_dim] by rotation [tokens, head_dim/2]."""
    pairs = x.view(np.complex64)  # [tokens, heads, head_dim/2]
    return (pairs * rotation[:, None]).view(np.float32)


def attention(queries: Array, keys: Array, values: Array, num_visible: NDArray[np.intp]) -> Array:
    """Grouped-query attention (Ainslie et al. 2023) of a batch: softmax(q k / sqrt(head_dim)) v.

    queries [batch, new, heads, head_dim]; keys and values [batch, kv_heads, keys, head_dim]; num_visible
    [batch, new]: the query sees that many keys, from the first. Returns [batch, new, heads, head_dim].
    """
    batch, new, num_heads, head_dim = queries.shape
    kv_heads = keys.shape[1]
    group = num_heads // kv_heads
    q = queries.reshape(batch, new, kv_heads, group, head_dim).transpose(0, 2, 3, 1, 4)
    q = q.reshape(batch, kv_heads, group * new, head_dim) * np.float32(head_dim**-0.5)
    scores = q @ keys.swapaxes(2, 3)  # [batch, kv_heads, group * new, keys]
    by_query = scores.reshape(batch, kv_heads, group, new, -1)
    _mask(by_query, num_visible)
    out = softmax(scores) @ values  # [batch, kv_heads, group * new, head_dim]
    out = out.reshape(batch, kv_heads, group, new, head_dim).transpose(0, 3, 1, 2, 4)
    return out.reshape(batch, new, num_heads, head_dim)


def _mask(scores: Array, num_visible: NDArray[np.intp]) -> None:
    """Set scores [batch, kv_heads, group, new, keys] of keys that a query must not see to -inf, in place."""
    num_keys = scores.shape[-1]
    if num_visible.min() < num_keys:
        hidden = np.arange(num_keys) >= num_visible[..., None]  # [batch, new, keys]
        np.copyto(scores, -np.inf, where=hidden[:, None, None])


def softmax(scores: Array) -> Array:
    """exp(x) / sum(exp(x)) over the last axis, in place, without overflow; each row has a finite maximum."""
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores
