"""The forward pass of a decoder-only language model in plain numpy: its definition, written to be read.

    output = forward(network, token_ids, rotary)
    output.logits                                                # [T, vocab]
    forward(network, more_ids, more_rotary, past=output.past)    # continue the sequence

One sequence at a time, every token of it at once; no batches, blocks or threads. A `Network` of float32 arrays is
computed in float32, one of float64 arrays in float64: that is what the native forward pass is compared with.

Thirteen families of models are settings of this one network:

* Llama, Mistral, SmolLM 3, Qwen 2, Phi-3, Granite: RMSNorm before each half of a layer, gated MLP.
* Qwen 3: the same, and norms of each head's queries and keys.
* OLMo 2: norms after each half, and of the queries and keys of all heads together.
* Gemma 1; Gemma 2 and 3, which have norms before and after each half, soft caps, and norms of heads.
* GPT-2: learned positions, LayerNorm, an MLP without a gate.
* GPT-NeoX: LayerNorm, attention and MLP in parallel (`parallel_residual`). StarCoder 2: LayerNorm alone.

Letters of shapes: T new tokens, S tokens with the past, H hidden size, I size inside the MLP, D elements of a head.
"""

# numpy gives most operations on arrays of either float type the type Any.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from decoding.reference.activations import ACTIVATIONS, Array
from decoding.reference.layers import LayerNorm, Linear, RMSNorm, attention, rotate, soft_cap

Norm: TypeAlias = RMSNorm | LayerNorm
KeysValues: TypeAlias = tuple[Array, Array]
"""Keys and values of one layer, [S, kv_heads, D] each; keys are normed and rotated."""


class Norms(NamedTuple):
    """The norms of one layer; None where a family has none.

    attention, mlp: of the input of attention and of the MLP. attention_out, mlp_out: of their outputs.
    query, key: of each head's queries and keys, or of those of all heads together.
    """

    attention: Norm | None = None
    query: Norm | None = None
    key: Norm | None = None
    attention_out: Norm | None = None
    mlp: Norm | None = None
    mlp_out: Norm | None = None


class Layer(NamedTuple):
    """One layer: attention, then MLP.

    qkv: outputs are the queries of all heads, then keys, then values.
    up: outputs are [gate | up] if the MLP is gated.
    scale: multiplies the scores of attention.
    rope: the number of the rotary table for queries and keys; None without rotary embeddings.
    window: number of tokens that a query attends to, including its own; None for all.
    """

    qkv: Linear
    output: Linear
    up: Linear
    down: Linear
    norms: Norms
    scale: float
    rope: int | None = None
    window: int | None = None


class Network(NamedTuple):
    """Weights and settings of a whole network.

    embedding: [vocab, H]. positions: learned embeddings of positions [max_position, H], or None.
    activation: a name in `activations.ACTIVATIONS`.
    residual_scale: multiplies the outputs of attention and MLP. logits_scale: multiplies the logits, before the cap.
    """

    embedding: Array
    layers: tuple[Layer, ...]
    norm: Norm
    head: Linear
    num_heads: int
    num_kv_heads: int
    head_dim: int
    activation: str
    gated: bool = True
    positions: Array | None = None
    parallel_residual: bool = False
    attention_cap: float | None = None
    logits_cap: float | None = None
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logits_scale: float = 1.0


class Output(NamedTuple):
    """Logits of the new tokens, [T, vocab]; keys and values of all S tokens for each layer."""

    logits: Array
    past: list[KeysValues]


def forward(
    network: Network,
    token_ids: NDArray[np.integer],
    rotary: Sequence[NDArray[np.float32]],
    past: Sequence[KeysValues] | None = None,
) -> Output:
    """Run the new tokens of one sequence through the network.

    token_ids: [T]. rotary: for each rotary embedding of the network the rows of the new tokens, [T, 2 * pairs]
    (`layers.rotary_table`). past: the keys and values of an earlier call for the sequence; None at its beginning.
    Numbers may overflow to infinity and NaN, without a warning.
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        x = _embed(network, token_ids, start=0 if past is None else len(past[0][0]))  # [T, H]
        grown = []
        for index, layer in enumerate(network.layers):
            table = None if layer.rope is None else rotary[layer.rope]
            x, keys_values = _run_layer(network, layer, x, table, None if past is None else past[index])
            grown.append(keys_values)
        logits = network.head(network.norm(x)) * network.logits_scale  # [T, vocab]
        return Output(soft_cap(logits, network.logits_cap), grown)


def _embed(network: Network, token_ids: NDArray[np.integer], start: int) -> Array:
    """Return the embeddings of tokens, and of their positions if those are learned: [T, H]."""
    x = network.embedding[token_ids] * network.embedding_scale
    if network.positions is not None:
        x = x + network.positions[start : start + len(token_ids)]
    return x


def _run_layer(
    network: Network, layer: Layer, x: Array, table: Array | None, past: KeysValues | None
) -> tuple[Array, KeysValues]:
    """Add attention and MLP to x [T, H]; one after the other, or in parallel if `parallel_residual`."""
    attended, keys_values = _attend(network, layer, _normed(layer.norms.attention, x), table, past)
    after = x + _normed(layer.norms.attention_out, attended) * network.residual_scale  # [T, H]
    added = _mlp(network, layer, _normed(layer.norms.mlp, x if network.parallel_residual else after))
    return after + _normed(layer.norms.mlp_out, added) * network.residual_scale, keys_values


def _attend(
    network: Network, layer: Layer, x: Array, table: Array | None, past: KeysValues | None
) -> tuple[Array, KeysValues]:
    """Compute the attention half: [T, H] -> [T, H], and the keys and values of all tokens so far."""
    heads, kv_heads, dim = network.num_heads, network.num_kv_heads, network.head_dim
    q, k, v = np.split(layer.qkv(x), [heads * dim, (heads + kv_heads) * dim], axis=1)
    q = _normed_heads(layer.norms.query, q).reshape(-1, heads, dim)  # [T, heads, D]
    k = _normed_heads(layer.norms.key, k).reshape(-1, kv_heads, dim)  # [T, kv_heads, D]
    v = v.reshape(-1, kv_heads, dim)
    if table is not None:
        q, k = rotate(q, table), rotate(k, table)
    if past is not None:
        k, v = np.concatenate([past[0], k]), np.concatenate([past[1], v])  # [S, kv_heads, D]
    attended = attention(q, k, v, scale=layer.scale, cap=network.attention_cap, window=layer.window)
    return layer.output(attended.reshape(-1, heads * dim)), (k, v)


def _mlp(network: Network, layer: Layer, x: Array) -> Array:
    """Compute the MLP half, [T, H] -> [T, H]: down(act(up x)), or gated (Shazeer 2020) down(act(gate x) * up x)."""
    activation = ACTIVATIONS[network.activation]
    if not network.gated:
        return layer.down(activation(layer.up(x)))
    gate, up = np.split(layer.up(x), 2, axis=1)  # [T, I] each
    return layer.down(activation(gate) * up)


def _normed(norm: Norm | None, x: Array) -> Array:
    """Apply a norm, if there is one."""
    return x if norm is None else norm(x)


def _normed_heads(norm: Norm | None, x: Array) -> Array:
    """Apply a norm, if there is one, to groups of its size: single heads, or all of them together."""
    return x if norm is None else norm(x.reshape(len(x), -1, norm.weight.size)).reshape(x.shape)
