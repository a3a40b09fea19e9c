"""Names and orders of the tensors in GGUF files, in the terms of `decoding.models.weights`.

Differences from Hugging Face's layout:

* Converters have put the rotated pairs of llama, smollm3 and granite side by side, as the paper has them; the network
  wants them half a head apart, as the other families are stored (`Part.order`).
* Gemma's norms have the 1 added already.
* GPT-2's matrices are [out, in] like all others, and GPT-NeoX's queries, keys and values are three blocks of rows.
* Queries, keys and values are one matrix or three, whatever the family: the file decides.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import partial

import numpy as np
from numpy.typing import NDArray

from decoding.models.config import ModelConfig
from decoding.models.weights import BlockSpec, Layout, LinearSpec, NormSpec, Part, RowOrder

EMBEDDING = "token_embd.weight"
HEAD = "output.weight"
POSITIONS = "position_embd.weight"
ROPE_FACTORS = "rope_freqs.weight"
LONG_FACTORS, SHORT_FACTORS = "rope_factors_long.weight", "rope_factors_short.weight"
ROPE_TENSORS = (ROPE_FACTORS, LONG_FACTORS, SHORT_FACTORS)

PAIRS_SIDE_BY_SIDE = frozenset({"llama", "smollm3", "granite"})
_NORMS_AFTER_ONLY = frozenset({"olmo2"})
_NORMS_AROUND = frozenset({"gemma2", "gemma3_text"})
_HEAD_NORMS = frozenset({"qwen3", "gemma3_text"})
_LAYER_NORMS = frozenset({"gpt2", "gpt_neox", "starcoder2"})
_FUSED_GATE = frozenset({"phi3"})
"""Families by model_type of ModelConfig."""


def layout(config: ModelConfig, names: Collection[str]) -> Layout:
    """Return the names of the tensors of a file that has tensors called `names`.

    The tensors with factors of rotary embeddings belong to the config; they are not part of the layout.
    """
    harmless = [re.escape(name) for name in ROPE_TENSORS if any(layer.rope for layer in config.layers)]
    if config.model_type == "gemma3_text":
        harmless.append(r"(v|mm)\..*")  # what sees images
    return Layout(
        prefixes=("",),
        embedding=EMBEDDING,
        block=partial(_block, config, names),
        norm=_norm(config, "output_norm"),
        heads=(HEAD,),
        positions=POSITIONS if config.model_type == "gpt2" else None,
        harmless=re.compile(f"^({'|'.join(harmless)})$"),
    )


def qkv_is_fused(names: Collection[str]) -> bool:
    """Return True if a file with tensors of these names has queries, keys and values in one matrix."""
    return "blk.0.attn_qkv.weight" in names


def _block(config: ModelConfig, names: Collection[str], index: int) -> BlockSpec:
    kind, prefix = config.model_type, f"blk.{index}"
    before, after = kind not in _NORMS_AFTER_ONLY, kind in _NORMS_AFTER_ONLY | _NORMS_AROUND
    query_norm, key_norm = _head_norms(config, prefix)
    hidden, inner = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    return BlockSpec(
        attention_norm=_norm(config, f"{prefix}.attn_norm") if before else None,
        qkv=LinearSpec(_qkv_parts(config, prefix, fused=qkv_is_fused(names)), hidden, config.qkv_bias),
        query_norm=query_norm,
        key_norm=key_norm,
        output=LinearSpec((Part(f"{prefix}.attn_output", hidden),), queries, config.output_bias),
        attention_out_norm=_norm(config, f"{prefix}.post_attention_norm") if after else None,
        mlp_norm=_norm(config, f"{prefix}.ffn_norm") if before else None,
        up=LinearSpec(_up_parts(config, prefix), hidden, config.mlp_bias),
        down=LinearSpec((Part(f"{prefix}.ffn_down", hidden),), inner, config.mlp_bias),
        mlp_out_norm=_norm(config, f"{prefix}.post_ffw_norm") if after else None,
    )


def _norm(config: ModelConfig, name: str) -> NormSpec:
    return NormSpec(name, config.hidden_size, has_bias=config.model_type in _LAYER_NORMS)


def _head_norms(config: ModelConfig, prefix: str) -> tuple[NormSpec | None, NormSpec | None]:
    """Return the norms of queries and of keys: of each head alone, or in OLMo 2 of all heads together."""
    if config.model_type in _HEAD_NORMS:
        counts = (1, 1)
    elif config.model_type in _NORMS_AFTER_ONLY:
        counts = (config.num_attention_heads, config.num_key_value_heads)
    else:
        return None, None
    query, key = (
        NormSpec(f"{prefix}.attn_{part}_norm", count * config.head_dim)
        for part, count in zip("qk", counts, strict=True)
    )
    return query, key


def _qkv_parts(config: ModelConfig, prefix: str, *, fused: bool) -> tuple[Part, ...]:
    heads, kv_heads, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    if fused:
        order = _order(config, heads + 2 * kv_heads, heads + kv_heads)
        return (Part(f"{prefix}.attn_qkv", (heads + 2 * kv_heads) * size, order),)
    return (
        Part(f"{prefix}.attn_q", heads * size, _order(config, heads, heads)),
        Part(f"{prefix}.attn_k", kv_heads * size, _order(config, kv_heads, kv_heads)),
        Part(f"{prefix}.attn_v", kv_heads * size),
    )


def _up_parts(config: ModelConfig, prefix: str) -> tuple[Part, ...]:
    inner = config.intermediate_size
    if config.model_type in _FUSED_GATE:
        return (Part(f"{prefix}.ffn_up", 2 * inner),)
    up = Part(f"{prefix}.ffn_up", inner)
    return (Part(f"{prefix}.ffn_gate", inner), up) if config.gated_mlp else (up,)


def _order(config: ModelConfig, num_heads: int, num_turned: int) -> RowOrder | None:
    """Return the order of rows that puts the pairs of the first `num_turned` heads half a head apart.

    None if they are stored in that order.
    """
    if config.model_type not in PAIRS_SIDE_BY_SIDE or not any(layer.rope for layer in config.layers):
        return None
    return partial(halves_apart, num_heads, num_turned, config.head_dim)


def halves_apart(num_heads: int, num_turned: int, head_dim: int) -> NDArray[np.intp]:
    """Return which row each output comes from, if a file has rows 2j and 2j + 1 of a head as the pair j."""
    rows = np.arange(num_heads * head_dim)
    turned = rows[: num_turned * head_dim].reshape(num_turned, -1, 2)  # [heads, pairs, 2]
    return np.concatenate([turned.swapaxes(1, 2).ravel(), rows[num_turned * head_dim :]])
