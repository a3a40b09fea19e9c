"""LlamaModel: the forward pass of Llama-family networks (Touvron et al. 2023), all sequences at once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from decoding.models import layers
from decoding.models.batch import ForwardBatch, Indices, Span
from decoding.models.cache import KVCache
from decoding.models.checkpoint import Checkpoint, Shape, digest_files
from decoding.models.config import ModelConfig
from decoding.models.layers import Array, Linear


class _Layer(NamedTuple):
    """Weights of one transformer block. qkv: queries, keys and values of one product; gate_up likewise."""

    input_norm: Array
    qkv: Linear
    output: Linear
    mlp_norm: Array
    gate_up: Linear
    down: Linear


class LlamaModel:
    """A Llama-family network in float32.

    Weights may be stored as float32, float16 or bfloat16. A tied model (tie_word_embeddings) uses its
    embedding as its head; a `lm_head.weight` that is stored all the same must equal the embedding, so that
    nothing is ignored.

    One instance serves one thread at a time. numpy's matrix products may round differently for other batch
    shapes: the same sequence alone and among others has logits that agree to about 1e-5, not to the bit.
    """

    def __init__(self, config: ModelConfig, checkpoint: Checkpoint) -> None:
        """Load the weights; CheckpointError where the tensors are not those that the config describes."""
        self.config = config
        self.path = checkpoint.folder
        self._files = (checkpoint.folder / "config.json", *checkpoint.files)
        embedding_shape = (config.vocab_size, config.hidden_size)
        optional = {"lm_head.weight": embedding_shape} if config.tie_word_embeddings else {}
        checkpoint.check(tensor_shapes(config), optional)
        self._embedding = checkpoint.read("model.embed_tokens.weight")
        self._layers = [_read_layer(checkpoint, config, index) for index in range(config.num_hidden_layers)]
        self._norm = checkpoint.read("model.norm.weight")
        self._head = Linear(_read_head(checkpoint, config, self._embedding))
        self._rotary = layers.RotaryTable(config.head_dim, config.rope_theta)

    @cached_property
    def digest(self) -> str:
        """Hex digest of config.json and the weight files as they are on disk, read on first use."""
        return digest_files(self._files)

    def new_cache(self, num_slots: int) -> KVCache:
        """An empty cache for up to `num_slots` running sequences of this model."""
        return KVCache(self.config, num_slots)

    def forward(self, batch: ForwardBatch, cache: KVCache) -> NDArray[np.float32]:
        """Run the new tokens through the network, and leave their keys and values in `cache`.

        Returns logits: float32 [rows, vocab] of each row's last new token, or [total, vocab] with
        batch.all_logits. Weights that make a number overflow give NaN or infinite logits, for the sampler to
        report. Raises ParameterError or ContextLengthError for a batch that does not fit the model or the
        cache.
        """
        batch.check(self.config.vocab_size, cache.num_slots, self.config.max_position_embeddings)
        cache.reserve(int((batch.start + batch.num_new).max()))
        cache.clear(batch.slots[batch.start == 0].astype(np.intp))
        with np.errstate(over="ignore", invalid="ignore"):
            hidden = self._run_layers(batch, cache)  # [total, hidden]
            if not batch.all_logits:
                hidden = hidden[batch.last]  # [rows, hidden]
            return self._head(layers.rms_norm(hidden, self._norm, self.config.rms_norm_eps))

    def _run_layers(self, batch: ForwardBatch, cache: KVCache) -> Array:
        eps = self.config.rms_norm_eps
        step = _Step(batch, cache, self.config, self._rotary)
        hidden = self._embedding[batch.token_ids]  # [total, hidden]
        for index, layer in enumerate(self._layers):
            hidden += step.attend(index, layer, layers.rms_norm(hidden, layer.input_norm, eps))
            mlp = layers.silu_and_mul(layer.gate_up(layers.rms_norm(hidden, layer.mlp_norm, eps)))
            hidden += layer.down(mlp)
        return hidden


class _Step:
    """What all layers of one forward pass share: where each token stands, and who attends to what."""

    def __init__(self, batch: ForwardBatch, cache: KVCache, config: ModelConfig, rotary: layers.RotaryTable) -> None:
        self._cache = cache
        self._heads = config.num_attention_heads
        self._kv_heads = config.num_key_value_heads
        self._slots: Indices = batch.token_slots
        self._positions: Indices = batch.positions
        self._rotation = rotary.at(self._positions)
        self._spans: list[Span] = list(batch.spans(self._heads))

    def attend(self, index: int, layer: _Layer, x: Array) -> Array:
        """The attention half of layer number `index`: [total, hidden] -> [total, hidden]."""
        qkv = layer.qkv(x).reshape(len(x), self._heads + 2 * self._kv_heads, -1)  # [total, all heads, head_dim]
        rotated = layers.rotate(qkv[:, : -self._kv_heads], self._rotation)
        queries, keys = rotated[:, : self._heads], rotated[:, self._heads :]
        self._cache.write(index, self._slots, self._positions, keys, qkv[:, -self._kv_heads :])
        out = np.empty_like(queries)  # [total, heads, head_dim]
        for span in self._spans:
            shape = (*span.num_visible.shape, *queries.shape[1:])  # [batch, new, heads, head_dim]
            k, v = self._cache.read(index, span.slots, int(span.num_visible.max()))
            attended = layers.attention(queries[span.tokens].reshape(shape), k, v, span.num_visible)
            out[span.tokens] = attended.reshape(-1, *queries.shape[1:])
        return layer.output(out.reshape(len(x), -1))


def tensor_shapes(config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    """Name and shape of every tensor that a checkpoint of this config has, in Hugging Face's layout."""
    hidden = config.hidden_size
    yield "model.embed_tokens.weight", (config.vocab_size, hidden)
    yield "model.norm.weight", (hidden,)
    if not config.tie_word_embeddings:
        yield "lm_head.weight", (config.vocab_size, hidden)
    for index in range(config.num_hidden_layers):
        prefix = f"model.layers.{index}"
        yield f"{prefix}.input_layernorm.weight", (hidden,)
        yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
        for name, shape, has_bias in _projections(config):
            yield f"{prefix}.{name}.weight", shape
            if has_bias:
                yield f"{prefix}.{name}.bias", shape[:1]


def _projections(config: ModelConfig) -> Iterator[tuple[str, Shape, bool]]:
    """Name, weight shape [out, in] and presence of a bias of each matrix of one layer."""
    hidden, inner = config.hidden_size, config.intermediate_size
    q, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    for name, shape in (("q", (q, hidden)), ("k", (kv, hidden)), ("v", (kv, hidden)), ("o", (hidden, q))):
        yield f"self_attn.{name}_proj", shape, config.attention_bias
    for name, shape in (("gate", (inner, hidden)), ("up", (inner, hidden)), ("down", (hidden, inner))):
        yield f"mlp.{name}_proj", shape, config.mlp_bias


def _read_layer(checkpoint: Checkpoint, config: ModelConfig, index: int) -> _Layer:
    prefix = f"model.layers.{index}"

    def linear(has_bias: bool, *names: str) -> Linear:
        weight = checkpoint.read(*(f"{prefix}.{name}_proj.weight" for name in names))
        bias = checkpoint.read(*(f"{prefix}.{name}_proj.bias" for name in names)) if has_bias else None
        return Linear(weight, bias)

    return _Layer(
        input_norm=checkpoint.read(f"{prefix}.input_layernorm.weight"),
        qkv=_paired(
            linear(config.attention_bias, "self_attn.q", "self_attn.k", "self_attn.v"),
            (config.num_attention_heads + config.num_key_value_heads) * config.head_dim,
            config.head_dim,
        ),
        output=linear(config.attention_bias, "self_attn.o"),
        mlp_norm=checkpoint.read(f"{prefix}.post_attention_layernorm.weight"),
        gate_up=linear(config.mlp_bias, "mlp.gate", "mlp.up"),
        down=linear(config.mlp_bias, "mlp.down"),
    )


def _paired(qkv: Linear, num_rotated: int, head_dim: int) -> Linear:
    """`qkv` with its first `num_rotated` rows (queries, keys) in the order that `layers.rotate` wants."""
    for rows in qkv:
        if rows is not None:
            rows[:num_rotated] = layers.pair_halves(rows[:num_rotated], head_dim)
    return qkv


def _read_head(checkpoint: Checkpoint, config: ModelConfig, embedding: Array) -> Array:
    name = "lm_head.weight"
    if not config.tie_word_embeddings:
        return checkpoint.read(name)
    if name in checkpoint and not np.array_equal(checkpoint.read(name), embedding):
        raise checkpoint.error(name, "differs from the embedding, though the config says tie_word_embeddings")
    return embedding
