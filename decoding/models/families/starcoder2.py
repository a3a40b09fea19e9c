"""StarCoder 2 (Lozhkov et al. 2024): rotary embeddings and shared key heads, with LayerNorm and a plain MLP."""

from __future__ import annotations

import math
from collections.abc import Sequence

from decoding.models.config import LayerConfig, ModelConfig, num_layers, read_sizes, refuse_unknown, special_token_ids
from decoding.models.config_reader import ConfigFile
from decoding.models.rope_config import read_rope
from decoding.models.weights import BlockSpec, Layout, LinearSpec, NormSpec, Part
from decoding.reference.activations import ACTIVATIONS


def read_config(files: Sequence[ConfigFile]) -> ModelConfig:
    """Return the config of a StarCoder 2 network; `files` end with config.json, others before it know eos ids."""
    file = files[-1].with_defaults(num_key_value_heads=2)
    sizes = read_sizes(file)
    rope = read_rope(file, sizes.head_dim)
    bias = file.boolean("use_bias", True)
    layer = LayerConfig(rope, file.optional_integer("sliding_window"), 1 / math.sqrt(sizes.head_dim))
    config = ModelConfig(
        model_type="starcoder2",
        **sizes._asdict(),
        max_position_embeddings=rope.context(file.integer("max_position_embeddings", 4096)),
        layers=(layer,) * num_layers(file),
        norm_eps=file.positive_real("norm_epsilon", 1e-5),
        hidden_act=file.choice("hidden_act", ACTIVATIONS, "gelu_pytorch_tanh"),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=bias,
        gated_mlp=False,
        tie_word_embeddings=file.boolean("tie_word_embeddings", True),
        **special_token_ids(files, sizes.vocab_size, unasked=(50256,)),
    )
    refuse_unknown(file, config)
    return config


def layout(config: ModelConfig) -> Layout:
    """Return the names of StarCoder 2's tensors."""
    return Layout(
        prefixes=("model.", ""),
        embedding="embed_tokens.weight",
        block=lambda index: _block(config, f"layers.{index}"),
        norm=NormSpec("norm", config.hidden_size, has_bias=True),
    )


def _block(config: ModelConfig, prefix: str) -> BlockSpec:
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = (count * config.head_dim for count in (config.num_attention_heads, config.num_key_value_heads))
    parts = tuple(
        Part(f"{prefix}.self_attn.{name}_proj", size) for name, size in zip("qkv", (queries, keys, keys), strict=True)
    )
    return BlockSpec(
        attention_norm=NormSpec(f"{prefix}.input_layernorm", hidden, has_bias=True),
        qkv=LinearSpec(parts, hidden, config.qkv_bias),
        output=LinearSpec((Part(f"{prefix}.self_attn.o_proj", hidden),), queries, config.output_bias),
        mlp_norm=NormSpec(f"{prefix}.post_attention_layernorm", hidden, has_bias=True),
        up=LinearSpec((Part(f"{prefix}.mlp.c_fc", inner),), hidden, config.mlp_bias),
        down=LinearSpec((Part(f"{prefix}.mlp.c_proj", hidden),), inner, config.mlp_bias),
    )
