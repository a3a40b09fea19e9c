"""backend="numpy": the readable definition of the forward pass (decoding.reference.forward) behind a model's interface.

Slow and simple: all weights in memory as float32, one sequence after another, its keys and values gathered from the
blocks of the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from decoding.errors import ParameterError
from decoding.models.batch import BLOCK_SIZE, ForwardBatch, KVCache, blocks_for, check_num_blocks
from decoding.models.config import LayerConfig, ModelConfig
from decoding.models.model_base import ModelBase
from decoding.models.rope import Frequencies
from decoding.models.rotary import RotaryTables
from decoding.models.weights import Block, NormWeights, StoredMatrix, Weights
from decoding.reference.activations import Array
from decoding.reference.forward import KeysValues, Layer, Network, Norm, Norms, forward
from decoding.reference.layers import LayerNorm, Linear, RMSNorm, rotary_table

DType: TypeAlias = type[np.float32] | type[np.float64]


def network(config: ModelConfig, weights: Weights[StoredMatrix], dtype: DType = np.float32) -> Network:
    """Return the network of the reference, with all weights in memory in the given type."""
    ropes = RotaryTables(config, compute_table)
    return Network(
        embedding=weights.embedding.read().astype(dtype),
        layers=tuple(
            _layer(config, block, layer, ropes.index(layer.rope), dtype)
            for block, layer in zip(weights.blocks, config.layers, strict=True)
        ),
        norm=_norm(config, weights.norm, dtype),
        head=_linear(weights.head, dtype),
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        activation=config.hidden_act,
        gated=config.gated_mlp,
        positions=None if weights.positions is None else weights.positions.astype(dtype),
        parallel_residual=config.parallel_residual,
        attention_cap=config.attn_logit_softcapping,
        logits_cap=config.final_logit_softcapping,
        embedding_scale=config.embedding_scale,
        residual_scale=config.residual_scale,
        logits_scale=config.logits_scale,
    )


def _layer(
    config: ModelConfig, block: Block[StoredMatrix], layer: LayerConfig, rope: int | None, dtype: DType
) -> Layer:
    norms = Norms(*(norm and _norm(config, norm, dtype) for norm in block.norms))
    return Layer(
        qkv=_linear(block.qkv, dtype),
        output=_linear(block.output, dtype),
        up=_linear(block.up, dtype),
        down=_linear(block.down, dtype),
        norms=norms,
        scale=layer.scale,
        rope=rope,
        window=layer.window,
    )


def _linear(matrix: StoredMatrix, dtype: DType) -> Linear:
    parts = []
    for tensor, _, order in matrix.parts:
        stored = tensor.read().T if matrix.transposed else tensor.read()
        parts.append((stored if order is None else stored[order()]).astype(dtype))
    weight = np.concatenate(parts) if len(parts) > 1 else np.ascontiguousarray(parts[0])
    return Linear(weight, None if matrix.bias is None else matrix.bias.astype(dtype))


def _norm(config: ModelConfig, norm: NormWeights, dtype: DType) -> Norm:
    weight: Array = norm.weight.astype(dtype)
    if norm.bias is None:
        return RMSNorm(weight, config.norm_eps)
    return LayerNorm(weight, norm.bias.astype(dtype), config.norm_eps)


def compute_table(
    frequencies: Frequencies, attention_factor: float, first_position: int, num_positions: int
) -> NDArray[np.float32]:
    """Return rows of a rotary table for consecutive positions, by the reference."""
    with np.errstate(all="ignore"):  # what comes of absurd frequencies shows in the logits
        return rotary_table(frequencies, attention_factor, np.arange(first_position, first_position + num_positions))


def rotary_rows(tables: RotaryTables, batch: ForwardBatch) -> list[NDArray[np.float32]]:
    """Return for each rotary embedding the row of each new token, [total, 2 * pairs]."""
    found = []
    for pieces in tables.rows(batch):
        rows = np.empty((len(batch.token_ids), pieces[0].table.shape[1]), np.float32)
        for tokens, table, offsets in pieces:
            rows[tokens] = table[offsets]
        found.append(rows)
    return found


class NumpyKVCache:
    """Keys and values in blocks: [num_blocks, layers, 2, BLOCK_SIZE, kv_heads, head_dim]."""

    def __init__(self, config: ModelConfig, num_blocks: int) -> None:
        """Allocate address space; memory is taken block by block, as blocks are written."""
        shape = (config.num_hidden_layers, 2, BLOCK_SIZE, config.num_key_value_heads, config.head_dim)
        self.num_blocks = check_num_blocks(num_blocks)
        self._data = np.empty((num_blocks, *shape), np.float32)
        self.block_bytes = self._data[0].nbytes

    def copy_block(self, source: int, target: int) -> None:
        """Make block `target` equal to block `source`."""
        self._data[target] = self._data[source]

    def read(self, table: NDArray[np.int32], num_tokens: int) -> list[KeysValues]:
        """Return keys and values of the first tokens of a sequence, for each layer [tokens, kv_heads, head_dim]."""
        blocks = self._data[table[: blocks_for(num_tokens)]]  # [blocks, layers, 2, BLOCK_SIZE, kv_heads, head_dim]
        by_layer = blocks.transpose(1, 2, 0, 3, 4, 5).reshape(*blocks.shape[1:3], -1, *blocks.shape[4:])
        return [(keys[:num_tokens], values[:num_tokens]) for keys, values in by_layer]

    def write(self, table: NDArray[np.int32], start: int, past: Sequence[KeysValues]) -> None:
        """Store keys and values of the tokens from `start` on."""
        positions = np.arange(start, len(past[0][0]))
        blocks, rows = table[positions // BLOCK_SIZE], positions % BLOCK_SIZE
        for layer, keys_values in enumerate(past):
            for part, values in enumerate(keys_values):
                self._data[blocks, layer, part, rows] = values[start:]


class NumpyModel(ModelBase):
    """A model computed by the reference; one thread uses it at a time."""

    def __init__(self, config: ModelConfig, weights: Weights[StoredMatrix], files: Sequence[Path] = ()) -> None:
        """Read all weights into memory."""
        super().__init__(config, compute_table, files)
        self._network = network(config, weights)

    def new_cache(self, num_blocks: int) -> NumpyKVCache:
        """Return an empty cache."""
        return NumpyKVCache(self.config, num_blocks)

    def forward(self, batch: ForwardBatch, cache: KVCache) -> NDArray[np.float32]:
        """Compute the new tokens and leave their keys and values in the cache.

        Returns logits [num_logits, vocab]. Weights that make a number overflow give NaN or infinite logits. Raises
        ParameterError or ContextLengthError for a batch that does not fit the model or the cache.
        """
        if not isinstance(cache, NumpyKVCache):
            raise ParameterError.single("cache", cache, "must be a cache of this model")
        batch.check(self.config, cache.num_blocks)
        rotary = rotary_rows(self._rotary, batch)
        logits, first = np.empty((len(batch.token_ids), self.config.vocab_size), np.float32), 0
        for table, start, new in zip(batch.block_tables, batch.start.tolist(), batch.num_new.tolist(), strict=True):
            tokens = slice(first, first + new)
            past = cache.read(table, start) if start else None
            output = forward(self._network, batch.token_ids[tokens], [rows[tokens] for rows in rotary], past)
            cache.write(table, start, output.past)
            logits[tokens] = output.logits
            first += new
        return logits[batch.logits_tokens]
