"""Write tiny networks as GGUF files with the `gguf` package, by the rules of llama.cpp's converter.

A network is a config.json and tensors in Hugging Face's layout (make_golden.py). The converter's changes are
implemented here independently, so that readers are tested against them: names (the package's own map), rotary halves,
norm offsets, transposed and fused matrices, factors of rotary embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

Tensors = Mapping[str, NDArray[np.float32]]
Encode = Callable[[str, NDArray[np.float32]], "tuple[NDArray[Any], gguf.GGMLQuantizationType]"]

ARCHITECTURES = {"mistral": "llama", "gemma3_text": "gemma3", "gpt_neox": "gptneox"}
PERMUTED = ("llama", "mistral", "granite", "smollm3")
LAYER_NORMS = ("gpt2", "gpt_neox", "starcoder2")
RMS_EPS = {"olmo2": 1e-5, "phi3": 1e-5}
GEMMA_LAST_CAP = {"gemma2": 30.0}


def write(
    path: Path,
    config: Mapping[str, Any],
    tensors: Tensors,
    encode: Encode | None = None,
    more: Callable[[gguf.GGUFWriter], None] | None = None,
) -> None:
    """Write the network as one file.

    encode: converts a matrix to the bytes of a type; float32 by default.
    more: adds metadata.
    """
    write_converted(path, config, dict(converted(config, tensors)), encode, more)


def write_converted(
    path: Path,
    config: Mapping[str, Any],
    tensors: Tensors,
    encode: Encode | None = None,
    more: Callable[[gguf.GGUFWriter], None] | None = None,
) -> None:
    """Write tensors that already have GGUF's names and layouts."""
    writer = gguf.GGUFWriter(path, ARCHITECTURES.get(config["model_type"], config["model_type"]))
    add_config(writer, config)
    add_vocabulary(writer, config["vocab_size"])
    if more is not None:
        more(writer)
    for name, values in tensors.items():
        if values.ndim == 2 and encode is not None:
            data, kind = encode(name, values)
            writer.add_tensor(name, data, raw_dtype=kind)
        else:
            writer.add_tensor(name, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# Metadata


def add_config(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    """Write the hyperparameters of a network under its architecture's keys."""
    kind = config["model_type"]
    hidden = config.get("hidden_size", config.get("n_embd"))
    heads = config.get("num_attention_heads", config.get("n_head"))
    writer.add_block_count(config.get("num_hidden_layers", config.get("n_layer")))
    writer.add_context_length(config.get("max_position_embeddings", config.get("n_positions")))
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(config.get("intermediate_size") or config.get("n_inner") or 4 * hidden)
    writer.add_head_count(heads)
    if "num_key_value_heads" in config:
        writer.add_head_count_kv(config["num_key_value_heads"])
    if kind in LAYER_NORMS:
        writer.add_layer_norm_eps(1e-5)
    else:
        writer.add_layer_norm_rms_eps(config.get("rms_norm_eps", RMS_EPS.get(kind, 1e-6)))
    head_dim = config.get("head_dim", 256 if kind.startswith("gemma") else None)
    if head_dim is not None:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if kind != "gpt2":
        add_rope(writer, config, head_dim or hidden // heads)
    add_special(writer, config)


def rope_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rotary settings of layers without a window, in the style of transformers 5."""
    settings = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    settings = dict(settings.get("full_attention", settings))
    settings.setdefault("rope_type", settings.get("type", "default"))
    settings.setdefault("rope_theta", config.get("rope_theta", config.get("rotary_emb_base", 10000.0)))
    settings.setdefault(
        "partial_rotary_factor", config.get("rotary_pct", 0.25 if config["model_type"] == "gpt_neox" else 1.0)
    )
    return settings


def add_rope(writer: gguf.GGUFWriter, config: Mapping[str, Any], head_dim: int) -> None:
    """Write the keys of rotary embeddings."""
    settings, kind = rope_settings(config), config["model_type"]
    writer.add_rope_dimension_count(int(settings["partial_rotary_factor"] * head_dim))
    writer.add_rope_freq_base(settings["rope_theta"])
    if settings["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(settings["factor"])
    if settings["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(settings["factor"])
        writer.add_rope_scaling_orig_ctx_len(settings["original_max_position_embeddings"])
    if kind == "gemma3_text":
        local = config.get("rope_parameters", {}).get("sliding_attention", {}).get("rope_theta")
        writer.add_rope_freq_base_swa(local or config.get("rope_local_base_freq", 10000.0))
    if kind == "phi3" and settings["rope_type"] != "default":
        longest, trained = config["max_position_embeddings"], config["original_max_position_embeddings"]
        writer.add_rope_scaling_orig_ctx_len(trained)
        stretched = math.sqrt(1 + math.log(longest / trained) / math.log(trained)) if longest > trained else 1.0
        writer.add_rope_scaling_attn_factors(stretched)


def add_special(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    """Write the keys that only one architecture has."""
    kind = config["model_type"]
    if kind in ("llama", "mistral", "granite", "smollm3"):
        writer.add_vocab_size(config["vocab_size"])
    if kind == "granite":
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])
    if kind == "phi3":
        writer.add_sliding_window(config.get("sliding_window") or 0)
    if kind in ("gemma2", "gemma3_text"):
        writer.add_sliding_window(config["sliding_window"])
        if (cap := config.get("final_logit_softcapping", GEMMA_LAST_CAP.get(kind))) is not None:
            writer.add_final_logit_softcapping(cap)
    if kind == "gemma2":
        writer.add_attn_logit_softcapping(config.get("attn_logit_softcapping", 50.0))
    if kind == "gpt_neox":
        writer.add_parallel_residual(config.get("use_parallel_residual", True))


def add_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    """Write a SentencePiece vocabulary of `size` tokens with end token 2."""
    texts = [
        "<unk>",
        "<s>",
        "</s>",
        "▁",
        *(chr(ord("a") + index % 26) * (1 + index // 26) for index in range(size - 4)),
    ]
    kinds = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 2, *[gguf.TokenType.NORMAL] * (size - 3)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(texts[:size])
    writer.add_token_scores([-float(index) for index in range(size)])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


# Tensors


def converted(config: Mapping[str, Any], tensors: Tensors) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield tensors with their names and layouts in a GGUF file."""
    kind = config["model_type"]
    number = config.get("num_hidden_layers", config.get("n_layer"))
    architecture = {name: code for code, name in gguf.MODEL_ARCH_NAMES.items()}[ARCHITECTURES.get(kind, kind)]
    names = gguf.get_tensor_name_map(architecture, number)
    for name, values in tensors.items():
        new_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert new_name is not None, name
        yield new_name, changed(config, name, values)
    yield from rope_factors(config)


def changed(config: Mapping[str, Any], name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a tensor as the converter stores it."""
    kind, heads = config["model_type"], config.get("num_attention_heads")
    if kind in PERMUTED and ".q_proj." in name:
        return permuted(values, heads)
    if kind in PERMUTED and ".k_proj." in name:
        return permuted(values, config["num_key_value_heads"])
    if kind.startswith("gemma") and name.endswith("norm.weight"):
        return values + np.float32(1)
    if kind == "gpt2" and values.ndim == 2 and ".c_" in name:
        return values.T
    if kind == "gpt_neox" and ".query_key_value." in name:
        parts = values.reshape(heads, 3, -1, *values.shape[1:])
        return np.concatenate([parts[:, part].reshape(-1, *values.shape[1:]) for part in range(3)])
    return values


def permuted(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Return rows of queries or keys with the halves of each rotated pair side by side."""
    return values.reshape(heads, 2, len(values) // heads // 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def rope_factors(config: Mapping[str, Any]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield the tensors with a factor per rotated pair."""
    settings = rope_settings(config)
    if settings["rope_type"] in ("longrope", "su"):
        yield "rope_factors_long.weight", np.array(settings["long_factor"], np.float32)
        yield "rope_factors_short.weight", np.array(settings["short_factor"], np.float32)
    if settings["rope_type"] == "llama3":
        dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        yield "rope_freqs.weight", np.array(list(llama3_factors(settings, dim)), np.float32)


def llama3_factors(settings: Mapping[str, Any], dim: int) -> Iterator[float]:
    """Yield the divisor of each frequency in Llama 3's rule."""
    low, high, trained = (
        settings[key] for key in ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    )
    for pair in range(dim // 2):
        wave = 2 * math.pi * settings["rope_theta"] ** (2 * pair / dim)
        smooth = min(max((trained / wave - low) / (high - low), 0.0), 1.0)
        yield 1 / ((1 - smooth) / settings["factor"] + smooth)
