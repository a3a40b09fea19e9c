"""GPT-NeoX (Black et al. 2022): attention and MLP in parallel, rotary embeddings on a part of each head."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import partial

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
from decoding.models.rope import Rope
from decoding.models.rope_config import parse_rope, rope_section
from decoding.models.weights import BlockSpec, Layout, LinearSpec, NormSpec, Part, split_heads
from decoding.reference.activations import ACTIVATIONS


def read_config(files: Sequence[ConfigFile]) -> ModelConfig:
    """Return the config of a GPT-NeoX network; `files` end with config.json, others before it know eos ids."""
    file = files[-1]
    sizes = read_plain_sizes(file, "hidden_size", "num_attention_heads", None)
    rope = _read_rope(file, sizes.head_dim)
    bias = file.boolean("attention_bias", True)
    config = ModelConfig(
        model_type="gpt_neox",
        **sizes._asdict(),
        max_position_embeddings=rope.context(file.integer("max_position_embeddings", 2048)),
        layers=(LayerConfig(rope, None, 1 / math.sqrt(sizes.head_dim)),) * num_layers(file),
        norm_eps=file.positive_real("layer_norm_eps", 1e-5),
        hidden_act=file.choice("hidden_act", ACTIVATIONS, "gelu"),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=True,
        gated_mlp=False,
        tie_word_embeddings=file.boolean("tie_word_embeddings", False),
        parallel_residual=file.boolean("use_parallel_residual", True),
        **special_token_ids(files, sizes.vocab_size),
    )
    refuse_unknown(file, config)
    return config


def _read_rope(file: ConfigFile, head_dim: int) -> Rope:
    """Read as `rope_config.read_rope` does, under GPT-NeoX's names for the base and the rotated part of a head."""
    settings = rope_section(file)
    theta = file.positive_real(alias(file, "rotary_emb_base", "rope_theta"), 10000.0)
    part = file.positive_real(alias(file, "rotary_pct", "partial_rotary_factor"), 0.25)
    theta = settings.positive_real("rope_theta", theta)
    return parse_rope(file, settings, head_dim, theta, settings.positive_real("partial_rotary_factor", part))


def layout(config: ModelConfig) -> Layout:
    """Return the names of GPT-NeoX's tensors; the masks that old files have are not needed."""
    return Layout(
        prefixes=("gpt_neox.", ""),
        embedding="embed_in.weight",
        block=lambda index: _block(config, f"layers.{index}"),
        norm=NormSpec("final_layer_norm", config.hidden_size, has_bias=True),
        heads=("lm_head.weight", "embed_out.weight"),
        harmless=re.compile(r"\.attention\.((masked_)?bias|rotary_emb\.inv_freq)$"),
    )


def _block(config: ModelConfig, prefix: str) -> BlockSpec:
    hidden, inner, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    order = partial(split_heads, heads, config.head_dim)
    return BlockSpec(
        attention_norm=NormSpec(f"{prefix}.input_layernorm", hidden, has_bias=True),
        qkv=LinearSpec((Part(f"{prefix}.attention.query_key_value", 3 * hidden, order),), hidden, config.qkv_bias),
        output=LinearSpec((Part(f"{prefix}.attention.dense", hidden),), hidden, config.output_bias),
        mlp_norm=NormSpec(f"{prefix}.post_attention_layernorm", hidden, has_bias=True),
        up=LinearSpec((Part(f"{prefix}.mlp.dense_h_to_4h", inner),), hidden, config.mlp_bias),
        down=LinearSpec((Part(f"{prefix}.mlp.dense_4h_to_h", hidden),), inner, config.mlp_bias),
    )
