"""Gemma 1, 2 and 3 (Gemma Team 2024 to 2025): norms around each half of a layer, alternating windows, soft caps."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from decoding.models.config import (
    NEUTRAL,
    LayerConfig,
    ModelConfig,
    layer_types,
    num_layers,
    read_sizes,
    refuse_unknown,
    special_token_ids,
)
from decoding.models.config_reader import ConfigFile
from decoding.models.families.llama import head_norm, projections
from decoding.models.rope import Rope
from decoding.models.rope_config import parse_rope, read_rope
from decoding.models.weights import BlockSpec, Layout, NormSpec
from decoding.reference.activations import ACTIVATIONS

_BOTH = {
    "num_key_value_heads": 4,
    "head_dim": 256,
    "rms_norm_eps": 1e-6,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
}
_GEMMA = {
    "num_key_value_heads": 16,
    "head_dim": 256,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 8192,
    "hidden_act": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
}
_GEMMA2 = _BOTH | {"max_position_embeddings": 8192, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
_GEMMA3 = _BOTH | {  # the text part of a published config names only what differs from these
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "max_position_embeddings": 131072,
}


def read_config(files: Sequence[ConfigFile]) -> ModelConfig:
    """Return the config of a Gemma network; `files` end with config.json, others before it know eos ids.

    Of model_type gemma3, which is for text and images, the text part is read and the rest left out.
    """
    file = files[-1]
    kind = file.string("model_type")
    if kind == "gemma":
        return _read(files, file.with_defaults(**_GEMMA), kind)
    if kind == "gemma2":
        return _read(files, file.with_defaults(**_GEMMA2), kind)
    if kind == "gemma3_text":
        return _read(files, file.with_defaults(**_GEMMA3), kind)
    text, tied = file.section("text_config"), file.boolean("tie_word_embeddings", True)
    file.refuse_unread(NEUTRAL)
    return _read((*files, text), text.with_defaults(**_GEMMA3 | {"tie_word_embeddings": tied}), kind)


def _read(files: Sequence[ConfigFile], file: ConfigFile, kind: str) -> ModelConfig:
    sizes = read_sizes(file)
    global_rope, local_rope = _ropes(file, sizes.head_dim, kind)
    scale = 1 / math.sqrt(sizes.head_dim if kind == "gemma" else file.positive_real("query_pre_attn_scalar"))
    bias = file.boolean("attention_bias", False)
    config = ModelConfig(
        model_type=kind,
        **sizes._asdict(),
        max_position_embeddings=global_rope.context(file.integer("max_position_embeddings")),
        layers=tuple(
            LayerConfig(local_rope if window else global_rope, window, scale) for window in _windows(file, kind)
        ),
        norm_eps=file.positive_real("rms_norm_eps"),
        hidden_act=_first_activation(file) if kind == "gemma" else _activation(file),
        qkv_bias=bias,
        output_bias=bias,
        tie_word_embeddings=file.boolean("tie_word_embeddings"),
        attn_logit_softcapping=file.optional_positive_real("attn_logit_softcapping") if kind == "gemma2" else None,
        final_logit_softcapping=None if kind == "gemma" else file.optional_positive_real("final_logit_softcapping"),
        embedding_scale=math.sqrt(sizes.hidden_size),
        **special_token_ids(files, sizes.vocab_size),
    )
    refuse_unknown(file, config)
    return config


def _activation(file: ConfigFile) -> str:
    """Return `hidden_activation`; the first configs have `hidden_act` too."""
    activation = file.choice("hidden_activation", ACTIVATIONS)
    if file.string("hidden_act", activation) != activation:
        raise file.error("hidden_act", f"contradicts hidden_activation={activation!r}")
    return activation


def _first_activation(file: ConfigFile) -> str:
    """Return Gemma 1's `hidden_act`, where "gelu" means its approximation; some have `hidden_activation`, too."""
    approximated = {"gelu": "gelu_pytorch_tanh"}
    activation = file.choice("hidden_act", ACTIVATIONS)
    activation = approximated.get(activation, activation)
    newer = file.get("hidden_activation")
    if newer is not None and approximated.get(newer, newer) != activation:
        raise file.error("hidden_activation", f"contradicts hidden_act, which means {activation!r}")
    return activation


def _windows(file: ConfigFile, kind: str) -> list[int | None]:
    """Return the sliding window of each layer, or None."""
    if kind == "gemma":
        return [None] * num_layers(file)
    every = 2 if kind == "gemma2" else file.integer("sliding_window_pattern", 6)
    numbers = range(1, num_layers(file) + 1)
    types = layer_types(file, ["sliding_attention" if number % every else "full_attention" for number in numbers])
    window = file.optional_integer("sliding_window")
    if window is None and "sliding_attention" in types:
        raise file.error("sliding_window", "must be an integer, as layer_types has sliding_attention")
    return [window if name == "sliding_attention" else None for name in types]


def _ropes(file: ConfigFile, head_dim: int, kind: str) -> tuple[Rope, Rope]:
    """Return the rotary embeddings of the layers without a window, and of those with one."""
    if kind in ("gemma", "gemma2"):
        rope = read_rope(file, head_dim)
        return rope, rope
    by_type, scaling = file.section("rope_parameters"), file.section("rope_scaling")
    far, near = by_type.section("full_attention"), by_type.section("sliding_attention")
    by_type.refuse_others({}, "must be full_attention or sliding_attention, the two kinds of layers")
    if file.get("rope_scaling"):
        if by_type.says("full_attention"):
            raise file.error("rope_scaling", "contradicts rope_parameters, its newer name")
        far = scaling
    far_theta = far.positive_real("rope_theta", file.positive_real("rope_theta", 1000000.0))
    near_theta = near.positive_real("rope_theta", file.positive_real("rope_local_base_freq", 10000.0))
    return parse_rope(file, far, head_dim, far_theta), parse_rope(file, near, head_dim, near_theta)


# Tensors


def layout(config: ModelConfig) -> Layout:
    """Return the names of the family's tensors; those of the vision tower are not needed."""
    return Layout(
        prefixes=("model.", "", "model.language_model.", "language_model.model."),
        embedding="embed_tokens.weight",
        block=lambda index: _block(config, f"layers.{index}"),
        norm=_norm(config, "norm"),
        heads=("lm_head.weight", "language_model.lm_head.weight"),
        harmless=re.compile(r"\brotary_emb\.inv_freq$|^(model\.)?(vision_tower|multi_modal_projector)\."),
    )


def _norm(config: ModelConfig, name: str) -> NormSpec:
    return NormSpec(name, config.hidden_size, offset=1.0)


def _block(config: ModelConfig, prefix: str) -> BlockSpec:
    if config.model_type == "gemma":  # norms stand before each half alone
        return projections(config, prefix)._replace(
            attention_norm=_norm(config, f"{prefix}.input_layernorm"),
            mlp_norm=_norm(config, f"{prefix}.post_attention_layernorm"),
        )
    has_head_norms = config.model_type != "gemma2"
    return projections(config, prefix)._replace(
        attention_norm=_norm(config, f"{prefix}.input_layernorm"),
        query_norm=head_norm(config, f"{prefix}.self_attn.q_norm", 1, 1.0) if has_head_norms else None,
        key_norm=head_norm(config, f"{prefix}.self_attn.k_norm", 1, 1.0) if has_head_norms else None,
        attention_out_norm=_norm(config, f"{prefix}.post_attention_layernorm"),
        mlp_norm=_norm(config, f"{prefix}.pre_feedforward_layernorm"),
        mlp_out_norm=_norm(config, f"{prefix}.post_feedforward_layernorm"),
    )
