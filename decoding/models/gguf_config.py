"""ModelConfig from the metadata of a GGUF file, and from the sizes, biases and factors of its tensors.

Keys stand under the name of the architecture: `llama.block_count`. Each is read by the architecture that has it, or
known to change nothing; any other is refused by name, so that no setting of the file is ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from decoding.errors import CheckpointError, UnsupportedModelError, shown
from decoding.models.config import LayerConfig, ModelConfig
from decoding.models.config_reader import ConfigFile
from decoding.models.gguf_layout import EMBEDDING, HEAD, qkv_is_fused
from decoding.models.gguf_reader import Metadata
from decoding.models.gguf_rope import Factors, read_rope, read_theta
from decoding.models.rope import Rope
from decoding.text.gguf_vocab import GGUFVocabulary

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]

_MAX_LAYERS = 4096
_MAX_HEAD_DIM = 1 << 16
_MAX_LIST = 4096  # of values per layer
_RMS_EPS, _LAYER_EPS = "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"
_WINDOW, _PATTERN = "attention.sliding_window", "attention.sliding_window_pattern"

_HARMLESS: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attention.scale": (0.0,),
    "attn_logit_softcapping": (0.0,),
    "embedding_scale": (0.0, 1.0),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "final_logit_softcapping": (0.0,),
    "logit_scale": (0.0, 1.0),
    "nextn_predict_layers": (0,),
    "residual_scale": (0.0, 1.0),
    "use_parallel_residual": (False,),
    _WINDOW: (0,),
}
"""Keys that would matter to some network, with the values that change nothing."""

_OF_IMAGES = ("vision.", "mm.")  # how keys begin that are about images, which are not read

_IDLE = ("tensor_data_layout", "pooling_type")
"""Keys that change nothing, whatever their values are, such as remarks of the converter."""


class _File(NamedTuple):
    """Input of an architecture's reader: keys, shapes of tensors, and tensors with rotary factors."""

    keys: ConfigFile
    shapes: Shapes
    factors: Factors


def read_config(metadata: Metadata, shapes: Shapes, factors: Factors) -> ModelConfig:
    """Return the config of a network.

    shapes: of all tensors in the file, rows first. factors: reads a tensor with rotary factors.
    Raises CheckpointError naming file, key, value and rule, UnsupportedModelError for an architecture or a setting that
    is not implemented, TokenizerError for a broken vocabulary.
    """
    name = metadata.get("general.architecture")
    if not isinstance(name, str):
        found = "is missing" if name is None else f"is {shown(name)}"
        raise CheckpointError(metadata.path, "general.architecture", f"{found}; must be a string")
    if name not in _READERS:
        known = ", ".join(map(repr, sorted(_READERS)))
        raise UnsupportedModelError(f"{metadata.path}: general.architecture={shown(name)}: must be one of {known}")
    if EMBEDDING not in shapes:
        raise CheckpointError(metadata.path, EMBEDDING, "is missing; every network has it")
    keys = _keys(metadata, name)
    file = _File(keys, shapes, factors)
    sizes = _sizes(file)
    config = ModelConfig(
        **sizes, **_biases(shapes), **_READERS[name](file, sizes), **_token_ids(metadata, sizes["vocab_size"])
    )
    for key in _IDLE:
        keys.get(key)
    keys.refuse_others(_HARMLESS | _large_window(config), "is not implemented for this architecture")
    return config


def _keys(metadata: Metadata, architecture: str) -> ConfigFile:
    """Return the keys under the architecture's prefix; arrays are lists."""
    prefix = f"{architecture}."
    values: dict[str, Any] = {}
    for key in metadata:
        if key.startswith(prefix) and not key.removeprefix(prefix).startswith(_OF_IMAGES):
            value = metadata[key]
            if isinstance(value, (np.ndarray, list)) and len(value) > _MAX_LIST:
                rule = f"has {len(value):,} values; must have at most {_MAX_LIST:,}"
                raise CheckpointError(metadata.path, key, rule)
            values[key[len(prefix) :]] = value.tolist() if isinstance(value, np.ndarray) else value
    return ConfigFile(metadata.path, values, prefix)


def _sizes(file: _File) -> dict[str, Any]:
    """Return what all architectures have: the sizes of ModelConfig."""
    keys, shapes = file.keys, file.shapes
    hidden, heads = keys.integer("embedding_length"), _uniform(keys, "attention.head_count")
    kv_heads = _uniform(keys, "attention.head_count_kv", heads)
    if hidden % heads and not keys.says("attention.key_length"):
        raise keys.error("embedding_length", f"must be a multiple of head_count={heads}")
    if heads % kv_heads:
        raise keys.error("attention.head_count_kv", f"must divide head_count={heads}")
    head_dim = keys.integer("attention.key_length", max(1, hidden // heads), most=_MAX_HEAD_DIM)
    if keys.integer("attention.value_length", head_dim) != head_dim:
        raise keys.unsupported("attention.value_length", f"only key_length={head_dim} is implemented")
    vocab_size = shapes[EMBEDDING][0]
    if keys.integer("vocab_size", vocab_size) != vocab_size:
        raise keys.error("vocab_size", f"must be the number of rows of {EMBEDDING}, {vocab_size:,}")
    return {
        "vocab_size": vocab_size,
        "hidden_size": hidden,
        "intermediate_size": _uniform(keys, "feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
    }


def _uniform(keys: ConfigFile, key: str, default: int | None = None) -> int:
    """Return an integer of at least 1; it may be written once for each layer."""
    values = keys.get(key)
    if not isinstance(values, list):
        return keys.integer(key, default)
    count = keys.integer("block_count")
    if len(values) != count or type(values[0]) is not int or values[0] < 1:
        raise keys.error(key, f"must be a positive integer, or one for each of block_count={count} layers")
    if len(set(values)) > 1:
        raise keys.unsupported(key, "only the same number in all layers is implemented")
    first: int = values[0]
    return first


def _biases(shapes: Shapes) -> dict[str, Any]:
    """Return which matrices have biases, and if the head is the embedding; there are no keys for these."""
    qkv = "blk.0.attn_qkv.bias" if qkv_is_fused(shapes) else "blk.0.attn_q.bias"
    return {
        "qkv_bias": qkv in shapes,
        "output_bias": "blk.0.attn_output.bias" in shapes,
        "mlp_bias": "blk.0.ffn_down.bias" in shapes,
        "tie_word_embeddings": HEAD not in shapes,
    }


def _token_ids(metadata: Metadata, vocab_size: int) -> dict[str, Any]:
    vocabulary = GGUFVocabulary.read(metadata, vocab_size)
    if vocabulary is None:
        return {"bos_token_id": None, "eos_token_ids": ()}
    return {"bos_token_id": vocabulary.special_ids.get("bos"), "eos_token_ids": vocabulary.end_token_ids}


def _large_window(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return windows that no sequence outgrows, for architectures that have none."""
    longest = config.max_position_embeddings
    return {_WINDOW: (0, longest)} if all(layer.window is None for layer in config.layers) else {}


# Architectures


def _layers(
    file: _File, rope: Rope | None, scale: float, windows: list[int | None] | None = None
) -> tuple[LayerConfig, ...]:
    count = _num_layers(file.keys)
    return tuple(LayerConfig(rope, window, scale) for window in windows or [None] * count)


def _num_layers(keys: ConfigFile) -> int:
    return keys.integer("block_count", most=_MAX_LAYERS)


def _llama_like(model_type: str) -> Callable[[_File, Mapping[str, Any]], dict[str, Any]]:
    """Return the reader of an architecture that differs from llama only in norms and orders of tensors."""

    def read(file: _File, sizes: Mapping[str, Any]) -> dict[str, Any]:
        keys, head_dim = file.keys, sizes["head_dim"]
        rope = read_rope(keys, file.factors, head_dim, partial=model_type == "phi3")
        window = keys.integer(_WINDOW, 0, least=0) if model_type == "phi3" else 0
        return {
            "model_type": model_type,
            "max_position_embeddings": rope.context(keys.integer("context_length")),
            "layers": _layers(file, rope, head_dim**-0.5, [window or None] * _num_layers(keys)),
            "norm_eps": keys.positive_real(_RMS_EPS),
            "hidden_act": "silu",
        }

    return read


def _smollm3(file: _File, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Return SmolLM3's fields: every fourth layer has no rotary embeddings, for which there is no key."""
    config = _llama_like("smollm3")(file, sizes)
    layers = enumerate(config["layers"], 1)
    return config | {"layers": tuple(layer if number % 4 else layer._replace(rope=None) for number, layer in layers)}


def _granite(file: _File, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Return Granite's scales; 0 means that there is none."""
    keys = file.keys
    config = _llama_like("granite")(file, sizes)
    scale = keys.real("attention.scale", 0.0) or sizes["head_dim"] ** -0.5
    layers = tuple(layer._replace(scale=scale) for layer in config["layers"])
    if not keys.boolean("rope.scaling.finetuned", True):  # llama.cpp's sign for a network without positions
        layers = tuple(layer._replace(rope=None) for layer in layers)
    return config | {
        "layers": layers,
        "embedding_scale": keys.real("embedding_scale", 0.0) or 1.0,
        "residual_scale": keys.real("residual_scale", 0.0) or 1.0,
        "logits_scale": 1.0 / keys.positive_real("logit_scale", 1.0),
    }


def _olmo2(file: _File, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of OLMo 2, and of OLMo 3, most of whose layers have a window and unscaled rotary embeddings."""
    keys = file.keys
    config = _llama_like("olmo2")(file, sizes)
    windows = _windows(keys, 0, every=4)
    near = Rope(theta=read_theta(keys, "rope.freq_base_swa", config["layers"][0].rope.theta), dim=sizes["head_dim"])
    layers = zip(config["layers"], windows, strict=True)
    return config | {
        "layers": tuple(layer._replace(window=window, rope=near) if window else layer for layer, window in layers)
    }


def _gemma(model_type: str) -> Callable[[_File, Mapping[str, Any]], dict[str, Any]]:
    """Return the reader of a generation of Gemma."""

    def read(file: _File, sizes: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of ModelConfig that are not sizes."""
        keys, head_dim = file.keys, sizes["head_dim"]
        far = near = read_rope(keys, file.factors, head_dim)
        windows: list[int | None] = [None] * _num_layers(keys)
        scale = head_dim**-0.5
        if model_type != "gemma":
            scale = _gemma_scale(_num_layers(keys), sizes, 46 if model_type == "gemma2" else 62)
            windows = _windows(keys, 4096 if model_type == "gemma2" else 0, every=2 if model_type == "gemma2" else 6)
        if model_type == "gemma3_text":
            key = "rope.local.freq_base" if keys.says("rope.local.freq_base") else "rope.freq_base_swa"
            near = Rope(theta=read_theta(keys, key, 10000.0), dim=head_dim)
        return {
            "model_type": model_type,
            "max_position_embeddings": far.context(keys.integer("context_length")),
            "layers": tuple(LayerConfig(near if window else far, window, scale) for window in windows),
            "norm_eps": keys.positive_real(_RMS_EPS),
            "hidden_act": "gelu_pytorch_tanh",
            "embedding_scale": sizes["hidden_size"] ** 0.5,
            **_caps(keys, model_type),
        }

    return read


def _gemma_scale(num_layers: int, sizes: Mapping[str, Any], num_layers_of_27b: int) -> float:
    """Return the scale of scores, for which there is no key: the model of 27 billion weights has its own."""
    size: int = sizes["head_dim"]
    if num_layers == num_layers_of_27b:
        size = sizes["hidden_size"] // sizes["num_attention_heads"]
    scale: float = size**-0.5
    return scale


def _caps(keys: ConfigFile, model_type: str) -> dict[str, float | None]:
    """Return the soft caps; 0 means that there is none. The first files of Gemma 2 have no keys for them."""
    if model_type == "gemma":
        return {}
    last = keys.real("final_logit_softcapping", 30.0 if model_type == "gemma2" else 0.0)
    scores = keys.real("attn_logit_softcapping", 50.0) if model_type == "gemma2" else 0.0
    return {"attn_logit_softcapping": scores or None, "final_logit_softcapping": last or None}


def _windows(keys: ConfigFile, default: int, every: int) -> list[int | None]:
    """Return the window of each layer, or None.

    The pattern is a boolean for each layer (True if it has the window), or a number n: each n-th layer has none.
    """
    count, window = _num_layers(keys), keys.integer(_WINDOW, default, least=0)
    pattern = keys.get(_PATTERN)
    if isinstance(pattern, list):
        if len(pattern) != count or not all(value in (0, 1) for value in pattern):
            raise keys.error(_PATTERN, f"must be a number, or have a boolean for each of block_count={count} layers")
        slides = [bool(value) for value in pattern]
    else:
        every = keys.integer(_PATTERN, every, least=0)
        slides = [every == 0 or number % every != 0 for number in range(1, count + 1)]
    return [window if slide and window else None for slide in slides]


def _gpt2(file: _File, sizes: Mapping[str, Any]) -> dict[str, Any]:
    keys = file.keys
    return {
        "model_type": "gpt2",
        "max_position_embeddings": keys.integer("context_length"),
        "layers": _layers(file, None, sizes["head_dim"] ** -0.5),
        "norm_eps": keys.positive_real(_LAYER_EPS),
        "hidden_act": "gelu_new",
        "gated_mlp": False,
    }


def _gpt_neox(file: _File, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Return GPT-NeoX's fields, with the exact GELU of its training (llama.cpp uses the tanh approximation for all)."""
    keys = file.keys
    rope = read_rope(keys, file.factors, sizes["head_dim"], partial=True)
    return {
        "model_type": "gpt_neox",
        "max_position_embeddings": rope.context(keys.integer("context_length")),
        "layers": _layers(file, rope, sizes["head_dim"] ** -0.5),
        "norm_eps": keys.positive_real(_LAYER_EPS),
        "hidden_act": "gelu",
        "gated_mlp": False,
        "parallel_residual": keys.boolean("use_parallel_residual", True),
    }


def _starcoder2(file: _File, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Return StarCoder 2's fields; converters do not write its window, which some of its networks have."""
    keys = file.keys
    rope = read_rope(keys, file.factors, sizes["head_dim"])
    window = keys.integer(_WINDOW, 0, least=0) or None
    return {
        "model_type": "starcoder2",
        "max_position_embeddings": rope.context(keys.integer("context_length")),
        "layers": _layers(file, rope, sizes["head_dim"] ** -0.5, [window] * _num_layers(keys)),
        "norm_eps": keys.positive_real(_LAYER_EPS),
        "hidden_act": "gelu_pytorch_tanh",
        "gated_mlp": False,
    }


_READERS: dict[str, Callable[[_File, Mapping[str, Any]], dict[str, Any]]] = {
    "llama": _llama_like("llama"),
    "qwen2": _llama_like("qwen2"),
    "qwen3": _llama_like("qwen3"),
    "phi3": _llama_like("phi3"),
    "smollm3": _smollm3,
    "granite": _granite,
    "olmo2": _olmo2,
    "gemma": _gemma("gemma"),
    "gemma2": _gemma("gemma2"),
    "gemma3": _gemma("gemma3_text"),
    "gpt2": _gpt2,
    "gptneox": _gpt_neox,
    "starcoder2": _starcoder2,
}
"""Readers of architectures, by `general.architecture`."""
