"""Define Llama networks with random weights, in the sizes that benchmarks/decode.py measures."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decoding.model_loading import bundled_model_folder


@dataclass(frozen=True, slots=True)
class Network:
    """The sizes of a network; embedding and head are one matrix."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    inner: int
    vocab: int

    @property
    def num_weights(self) -> int:
        """Return the number of weights."""
        return sum(int(np.prod(shape)) for _, shape in self.tensors())

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Return names and shapes, as Hugging Face stores them."""
        hidden, inner, kv = self.hidden, self.inner, self.kv_heads * (self.hidden // self.heads)
        yield "model.embed_tokens.weight", (self.vocab, hidden)
        yield "model.norm.weight", (hidden,)
        for index in range(self.layers):
            prefix = f"model.layers.{index}"
            yield f"{prefix}.input_layernorm.weight", (hidden,)
            yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
            for name, shape in (
                ("q", (hidden, hidden)),
                ("k", (kv, hidden)),
                ("v", (kv, hidden)),
                ("o", (hidden, hidden)),
            ):
                yield f"{prefix}.self_attn.{name}_proj.weight", shape
            for name, shape in (("gate", (inner, hidden)), ("up", (inner, hidden)), ("down", (hidden, inner))):
                yield f"{prefix}.mlp.{name}_proj.weight", shape

    def config(self) -> dict[str, Any]:
        """Return the content of config.json."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "torch_dtype": "float32",
        }


NETWORKS = {
    "15M": Network(288, 6, 6, 6, 768, 32_000),
    "110M": Network(768, 12, 12, 12, 2_048, 32_000),
    "500M": Network(896, 24, 14, 2, 4_864, 151_936),
}


FILE_TYPES = {
    "float32": "LLAMA_FTYPE_ALL_F32",
    "bfloat16": "LLAMA_FTYPE_MOSTLY_BF16",
    "q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0",
    "q4_0": "LLAMA_FTYPE_MOSTLY_Q4_0",
    "q4_1": "LLAMA_FTYPE_MOSTLY_Q4_1",
    "q4_k": "LLAMA_FTYPE_MOSTLY_Q4_K_M",
}
"""Types of weights, and llama.cpp's names for files of them."""

CHECKPOINT_TYPES = {"float32": "F32", "bfloat16": "BF16"}
"""Types that a checkpoint can have, and their names in safetensors."""


def write_checkpoint(folder: Path, network: Network, weight_type: str = "float32") -> None:
    """Write config.json, the bundled model's tokenizer.json and model.safetensors, unless they are there.

    weight_type: a key of CHECKPOINT_TYPES. Tokens beyond that tokenizer's vocabulary have no text.
    """
    if (folder / "model.safetensors").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(network.config() | {"torch_dtype": weight_type}, indent=1))
    shutil.copy(bundled_model_folder() / "tokenizer.json", folder)
    header, end, itemsize = {}, 0, 4 if weight_type == "float32" else 2
    for name, shape in network.tensors():
        size = itemsize * int(np.prod(shape))
        header[name] = {"dtype": CHECKPOINT_TYPES[weight_type], "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    with (folder / "part").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in network.tensors():
            values = _values(name, shape)
            file.write(values.tobytes() if itemsize == 4 else (values.view(np.uint32) >> 16).astype("<u2").tobytes())
    os.replace(folder / "part", folder / "model.safetensors")


def _values(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    return np.random.default_rng(len(name)).standard_normal(shape, np.float32) * np.float32(0.02)


_GGUF_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(folder: Path, weight_type: str = "float32") -> Path:
    """Write the float32 checkpoint of `folder` in llama.cpp's format, beside it, unless it is there; needs `gguf`.

    weight_type: a key of FILE_TYPES; for all but float32 llama.cpp itself converts the file (needs `llama_cpp`).
    Queries and keys are not reordered, as a real conversion would: with random weights it is all the same.
    """
    path = folder / f"{weight_type}.gguf"
    if not path.exists():
        part = folder / "part.gguf"
        if weight_type == "float32":
            _write_float32(folder, part)
        else:
            _convert(write_gguf(folder), part, weight_type)
        os.replace(part, path)
    return path


def _write_float32(folder: Path, path: Path) -> None:
    from gguf import GGUFWriter
    from safetensors import safe_open

    config = json.loads((folder / "config.json").read_text())
    writer = GGUFWriter(str(path), "llama")
    _write_gguf_header(writer, config)
    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        for name in list(file.keys()):
            writer.add_tensor(_gguf_name(name), file.get_tensor(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _convert(source: Path, target: Path, weight_type: str) -> None:
    import llama_cpp

    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, None)
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = getattr(llama_cpp, FILE_TYPES[weight_type])
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), options):
        raise RuntimeError(f"llama.cpp could not convert {source} to {weight_type}")


def _gguf_name(name: str) -> str:
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    _, _, layer, *rest, _ = name.split(".")
    return f"blk.{layer}.{_GGUF_NAMES['.'.join(rest)]}.weight"


def _write_gguf_header(writer: Any, config: dict[str, Any]) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(0)  # all float32
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"token{index}" for index in range(config["vocab_size"])])
    writer.add_token_scores([0.0] * config["vocab_size"])
    writer.add_token_types([1] * config["vocab_size"])
