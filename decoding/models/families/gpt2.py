"""GPT-2 (Radford et al. 2019): learned positions, LayerNorm, a plain MLP, matrices stored as [in, out]."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from decoding.models.config import (
    LayerConfig,
    ModelConfig,
    alias,
    num_layers,
    read_plain_sizes,
    refuse_unknown,
    special_token_ids,
)
from decoding.models.config_reader import ConfigFile
from decoding.models.weights import BlockSpec, Layout, LinearSpec, NormSpec, Part
from decoding.reference.activations import ACTIVATIONS


def read_config(files: Sequence[ConfigFile]) -> ModelConfig:
    """Return the config of a GPT-2 network; `files` end with config.json, others before it know eos ids."""
    file = files[-1]
    hidden, heads = alias(file, "n_embd", "hidden_size"), alias(file, "n_head", "num_attention_heads")
    inner = file.optional_integer("n_inner") or 4 * file.integer(hidden)
    sizes = read_plain_sizes(file, hidden, heads, inner)
    config = ModelConfig(
        model_type="gpt2",
        **sizes._asdict(),
        max_position_embeddings=file.integer(alias(file, "n_positions", "max_position_embeddings"), 1024),
        layers=_layers(file, sizes.head_dim),
        norm_eps=file.positive_real("layer_norm_epsilon", 1e-5),
        hidden_act=file.choice("activation_function", ACTIVATIONS, "gelu_new"),
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        gated_mlp=False,
        tie_word_embeddings=file.boolean("tie_word_embeddings", True),
        **special_token_ids(files, sizes.vocab_size, unasked=(50256,)),
    )
    refuse_unknown(file, config)
    return config


def _layers(file: ConfigFile, head_dim: int) -> tuple[LayerConfig, ...]:
    scale = 1 / math.sqrt(head_dim) if file.boolean("scale_attn_weights", True) else 1.0
    by_layer = file.boolean("scale_attn_by_inverse_layer_idx", False)
    numbers = range(1, num_layers(file, alias(file, "n_layer", "num_hidden_layers")) + 1)
    return tuple(LayerConfig(None, None, scale / number if by_layer else scale) for number in numbers)


def layout(config: ModelConfig) -> Layout:
    """Return the names of GPT-2's tensors; the masks that old files have are not needed."""
    return Layout(
        prefixes=("transformer.", ""),
        embedding="wte.weight",
        positions="wpe.weight",
        block=lambda index: _block(config, f"h.{index}"),
        norm=NormSpec("ln_f", config.hidden_size, has_bias=True),
        harmless=re.compile(r"\.attn\.(masked_)?bias$"),
    )


def _block(config: ModelConfig, prefix: str) -> BlockSpec:
    hidden, inner = config.hidden_size, config.intermediate_size
    return BlockSpec(
        attention_norm=NormSpec(f"{prefix}.ln_1", hidden, has_bias=True),
        qkv=_conv1d(f"{prefix}.attn.c_attn", hidden, 3 * hidden),
        output=_conv1d(f"{prefix}.attn.c_proj", hidden, hidden),
        mlp_norm=NormSpec(f"{prefix}.ln_2", hidden, has_bias=True),
        up=_conv1d(f"{prefix}.mlp.c_fc", hidden, inner),
        down=_conv1d(f"{prefix}.mlp.c_proj", inner, hidden),
    )


def _conv1d(name: str, in_features: int, out_features: int) -> LinearSpec:
    return LinearSpec((Part(name, out_features),), in_features, has_bias=True, transposed=True)
