"""Llama (Touvron et al. 2023) and the networks that differ from it by settings and norms only.

Mistral, Qwen2, Qwen3, Phi-3, SmolLM3, Granite, OLMo 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from decoding.models.config import (
    LayerConfig,
    ModelConfig,
    layer_types,
    num_layers,
    read_sizes,
    refuse_unknown,
    special_token_ids,
)
from decoding.models.config_reader import ConfigFile
from decoding.models.rope import Rope
from decoding.models.rope_config import read_rope
from decoding.models.weights import BlockSpec, Layout, LinearSpec, NormSpec, Part
from decoding.reference.activations import ACTIVATIONS

_LLAMA = {"max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "tie_word_embeddings": False}
_QWEN = {"max_position_embeddings": 32768, "num_key_value_heads": 32, "sliding_window": 4096}
_PHI3 = {"max_position_embeddings": 4096, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5}
DEFAULTS: dict[str, dict[str, Any]] = {
    "granite": _LLAMA | {"attention_multiplier": 1.0},
    "llama": _LLAMA,
    "mistral": _LLAMA | {"max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096},
    "olmo2": _LLAMA | {"rms_norm_eps": 1e-5},
    "phi3": _LLAMA | _PHI3,
    "qwen2": _LLAMA | _QWEN,
    "qwen3": _LLAMA | _QWEN | {"head_dim": 128},
    "smollm3": _LLAMA | {"max_position_embeddings": 32768, "num_key_value_heads": 4, "tie_word_embeddings": True},
}
"""The values that transformers takes for keys that a config.json lacks, by model_type."""

_UNASKED_IDS = {"olmo2": (50279,), "phi3": (32000,), "smollm3": (128000, 128001)}
"""Default start and end tokens that transformers writes (see `special_token_ids`)."""

_ATTENTION_BIAS = ("granite", "llama", "olmo2", "qwen3", "smollm3")
_MLP_BIAS = ("granite", "llama", "smollm3")
_PHI3_ROPE = {"default": "default", "longrope": "longrope", "su": "longrope", "yarn": "longrope"}


def read_config(files: Sequence[ConfigFile]) -> ModelConfig:
    """Return the config of a network of this family; `files` end with config.json, others before it know eos ids."""
    file = files[-1]
    kind = file.string("model_type")
    file = file.with_defaults(**DEFAULTS[kind])
    sizes = read_sizes(file)
    bias = kind in _ATTENTION_BIAS and file.boolean("attention_bias", False)
    rope = _read_rope(kind, file, sizes.head_dim)
    scale = file.real("attention_multiplier") if kind == "granite" else 1 / math.sqrt(sizes.head_dim)
    turned = _turned_layers(kind, file, num_layers(file))
    config = ModelConfig(
        model_type=kind,
        **sizes._asdict(),
        max_position_embeddings=rope.context(file.integer("max_position_embeddings")),
        layers=tuple(
            LayerConfig(rope if turn else None, window, scale)
            for turn, window in zip(turned, _windows(kind, file, turned), strict=True)
        ),
        norm_eps=file.positive_real("rms_norm_eps"),
        hidden_act=file.choice("hidden_act", ACTIVATIONS, "silu"),
        qkv_bias=bias or kind == "qwen2",
        output_bias=bias,
        mlp_bias=kind in _MLP_BIAS and file.boolean("mlp_bias", False),
        tie_word_embeddings=file.boolean("tie_word_embeddings"),
        **(_multipliers(file) if kind == "granite" else {}),
        **special_token_ids(files, sizes.vocab_size, _UNASKED_IDS.get(kind, ())),
    )
    refuse_unknown(file, config)
    return config


def _multipliers(file: ConfigFile) -> dict[str, Any]:
    """Return Granite's multipliers."""
    return {
        "embedding_scale": file.real("embedding_multiplier", 1.0),
        "residual_scale": file.real("residual_multiplier", 1.0),
        "logits_scale": 1.0 / file.positive_real("logits_scaling", 1.0),
    }


def _read_rope(kind: str, file: ConfigFile, head_dim: int) -> Rope:
    if kind == "phi3":
        return read_rope(file, head_dim, partial=True, names=_PHI3_ROPE)
    return read_rope(file, head_dim, default_theta=2000000.0 if kind == "smollm3" else 10000.0)


def _turned_layers(kind: str, file: ConfigFile, count: int) -> list[bool]:
    """Return for each layer if it has rotary embeddings: True, except in SmolLM3."""
    if kind != "smollm3":
        return [True] * count
    interval, flags = file.integer("no_rope_layer_interval", 4), file.get("no_rope_layers")
    if flags is None:
        return [(index + 1) % interval != 0 for index in range(count)]
    if not isinstance(flags, list) or len(flags) < count or not all(flag in (0, 1) for flag in flags):
        raise file.error("no_rope_layers", f"must be a list of {count} or more numbers, 0 or 1")
    return [bool(flag) for flag in flags[:count]]


def _windows(kind: str, file: ConfigFile, turned: Sequence[bool]) -> list[int | None]:
    """Return the sliding window of each layer, or None."""
    window, slides = None, [False] * len(turned)
    if kind in ("mistral", "phi3"):
        window = file.optional_integer("sliding_window")
        slides = [window is not None] * len(turned)
    elif kind in ("qwen2", "qwen3", "smollm3"):
        window = file.optional_integer("sliding_window")
        window = window if file.boolean("use_sliding_window", False) else None
        first = 0 if kind == "smollm3" else file.integer("max_window_layers", 28, least=0)
        slides = [
            window is not None and index >= first and not (kind == "smollm3" and turn)
            for index, turn in enumerate(turned)
        ]
    usual = ["sliding_attention" if slide else "full_attention" for slide in slides]
    types = layer_types(file, usual)
    if types != usual and (window is None or kind in ("mistral", "phi3")):
        raise file.unsupported("layer_types", "asks for windows that this model_type or config has not")
    return [window if name == "sliding_attention" else None for name in types]


# Tensors


def layout(config: ModelConfig) -> Layout:
    """Return the names of the family's tensors."""
    return Layout(
        prefixes=("model.", ""),
        embedding="embed_tokens.weight",
        block=lambda index: _block(config, f"layers.{index}"),
        norm=NormSpec("norm", config.hidden_size),
    )


def _block(config: ModelConfig, prefix: str) -> BlockSpec:
    after_attention = NormSpec(f"{prefix}.post_attention_layernorm", config.hidden_size)
    if config.model_type == "olmo2":  # norms stand after each half, and inside attention over all heads together
        return projections(config, prefix)._replace(
            query_norm=head_norm(config, f"{prefix}.self_attn.q_norm", config.num_attention_heads),
            key_norm=head_norm(config, f"{prefix}.self_attn.k_norm", config.num_key_value_heads),
            attention_out_norm=after_attention,
            mlp_out_norm=NormSpec(f"{prefix}.post_feedforward_layernorm", config.hidden_size),
        )
    has_head_norms = config.model_type == "qwen3"
    return projections(config, prefix)._replace(
        attention_norm=NormSpec(f"{prefix}.input_layernorm", config.hidden_size),
        query_norm=head_norm(config, f"{prefix}.self_attn.q_norm", 1) if has_head_norms else None,
        key_norm=head_norm(config, f"{prefix}.self_attn.k_norm", 1) if has_head_norms else None,
        mlp_norm=after_attention,
    )


def head_norm(config: ModelConfig, name: str, num_heads: int, offset: float = 0.0) -> NormSpec:
    """Return a norm of queries or keys: of each head alone (num_heads=1), or of num_heads heads together."""
    return NormSpec(name, num_heads * config.head_dim, offset=offset)


def projections(config: ModelConfig, prefix: str) -> BlockSpec:
    """Return the matrices of one layer, without norms."""
    hidden, inner = config.hidden_size, config.intermediate_size
    heads = config.num_attention_heads * config.head_dim
    return BlockSpec(
        qkv=LinearSpec(_qkv_parts(config, f"{prefix}.self_attn"), hidden, config.qkv_bias),
        output=LinearSpec((Part(f"{prefix}.self_attn.o_proj", hidden),), heads, config.output_bias),
        up=LinearSpec(_up_parts(config, f"{prefix}.mlp"), hidden, config.mlp_bias),
        down=LinearSpec((Part(f"{prefix}.mlp.down_proj", hidden),), inner, config.mlp_bias),
    )


def _qkv_parts(config: ModelConfig, prefix: str) -> tuple[Part, ...]:
    queries, keys = (count * config.head_dim for count in (config.num_attention_heads, config.num_key_value_heads))
    if config.model_type == "phi3":
        return (Part(f"{prefix}.qkv_proj", queries + 2 * keys),)
    return Part(f"{prefix}.q_proj", queries), Part(f"{prefix}.k_proj", keys), Part(f"{prefix}.v_proj", keys)


def _up_parts(config: ModelConfig, prefix: str) -> tuple[Part, ...]:
    inner = config.intermediate_size
    if config.model_type == "phi3":
        return (Part(f"{prefix}.gate_up_proj", 2 * inner),)
    return Part(f"{prefix}.gate_proj", inner), Part(f"{prefix}.up_proj", inner)
