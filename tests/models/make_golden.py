"""Write golden logits: transformers' float64 logits for tiny networks of every architecture.

    pip install torch==2.13.0 && pip install transformers==5.24.0 && python tests/models/make_golden.py

writes golden.json and golden.npz beside this file. A recipe is a config.json in a published style and a number of
tokens. Weights, norms and biases follow from the tensor names and a seed by integer arithmetic alone, so only the
logits are stored.
"""

from __future__ import annotations

import json
import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
COMMAND = "python tests/models/make_golden.py"
VOCAB_SIZE = 32
SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""Sizes of every network, unless its recipe overrides them. A head has 8 numbers."""

KEPT = slice(2, None, 3)  # logits of every third token
GPT2_SIZES = {"vocab_size": VOCAB_SIZE, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Recipe:
    """A network: its config.json, the storage type of its weights, and the number of input tokens."""

    name: str
    config: dict[str, Any]
    dtype: str = "F32"
    num_tokens: int = 24

    @property
    def token_ids(self) -> list[int]:
        """Return the input tokens."""
        return [int(3 + word % (VOCAB_SIZE - 3)) for word in _words(self.name, self.num_tokens)]


def _new(**rope: Any) -> dict[str, Any]:
    """Return rotary settings in the style of transformers 5."""
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, **rope}}


def _old(**rope: Any) -> dict[str, Any]:
    """Return rotary settings in the style of transformers 4."""
    return {"rope_theta": rope.pop("rope_theta", 10000.0), "rope_scaling": rope or None, "torch_dtype": "float32"}


YARN = {"factor": 4.0, "original_max_position_embeddings": 8}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
LONG = {"short_factor": [1.0, 1.1, 1.3, 1.2], "long_factor": [2.0, 2.5, 5.0, 9.0]}
GRANITE = {
    "attention_multiplier": 0.3,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.4,
    "logits_scaling": 2.0,
}
GEMMA = {"head_dim": 8, "sliding_window": 5, "query_pre_attn_scalar": 11, "hidden_activation": "gelu_pytorch_tanh"}
TWO_ROPES = {
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    }
}
ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention"]


def recipes() -> list[Recipe]:
    """Return all recipes."""
    return [*_llama(), *_relatives(), *_phi3(), *_gemma(), *_gpt()]


def _recipe(name: str, *changes: Mapping[str, Any], dtype: str = "F32", **more: Any) -> Recipe:
    """Return a recipe. Its name is its model_type and its special feature."""
    config: dict[str, Any] = {"model_type": name.split()[0], **SIZES}
    for change in (*changes, more):
        config |= change
    return Recipe(name, config, dtype)


def _llama() -> Iterator[Recipe]:
    yield _recipe("llama", _new())
    yield _recipe("llama old", _old(rope_theta=500.0))
    yield _recipe("llama float16", _new(), dtype="F16")
    yield _recipe("llama bfloat16", _old(), dtype="BF16")
    yield _recipe("llama biases tied", attention_bias=True, mlp_bias=True, head_dim=12, tie_word_embeddings=True)
    yield _recipe("llama one key head", num_key_value_heads=1, hidden_act="gelu")
    yield _recipe("llama linear", _new(rope_type="linear", factor=3.0))
    yield _recipe("llama linear old", _old(type="linear", factor=3.0))
    yield _recipe("llama dynamic", _new(rope_type="dynamic", factor=4.0), max_position_embeddings=16)
    yield _recipe("llama dynamic old", _old(type="dynamic", factor=4.0), max_position_embeddings=16)
    yield _recipe("llama llama3", _new(rope_type="llama3", rope_theta=500000.0, **LLAMA3))
    yield _recipe("llama llama3 old", _old(rope_type="llama3", rope_theta=500000.0, **LLAMA3))
    yield _recipe("llama longrope", _new(rope_type="longrope", original_max_position_embeddings=16, **LONG))
    yield _recipe("llama yarn", _new(rope_type="yarn", **YARN))
    yield _recipe("llama yarn old", _old(type="yarn", **YARN), max_position_embeddings=32)
    mscales = {"mscale": 1.2, "mscale_all_dim": 0.7}
    yield _recipe(
        "llama yarn mscale", _new(rope_type="yarn", beta_fast=8, beta_slow=2, truncate=False, **YARN, **mscales)
    )


def _relatives() -> Iterator[Recipe]:
    windows = {"use_sliding_window": True, "sliding_window": 5}
    yield _recipe("mistral", _new(), sliding_window=5)
    yield _recipe("mistral old", _old(), sliding_window=None, head_dim=10)
    yield _recipe("qwen2", _new(), tie_word_embeddings=True)
    yield _recipe("qwen2 windows", _old(), windows, max_window_layers=1)
    yield _recipe("qwen2 layer types", _new(), windows, layer_types=ALTERNATING)
    yield _recipe("qwen3", _new(), head_dim=8)
    yield _recipe(
        "qwen3 windows", _old(type="yarn", **YARN), windows, head_dim=16, attention_bias=True, max_window_layers=2
    )
    yield _recipe("olmo2", _new())
    yield _recipe("olmo2 old", _old(), attention_bias=True, num_key_value_heads=4)
    yield _recipe("smollm3", _new(rope_theta=2000000.0), num_hidden_layers=5)
    yield _recipe("smollm3 old", _old(), no_rope_layers=[1, 0, 1], attention_bias=True, mlp_bias=True)
    yield _recipe("smollm3 windows", _new(), windows, no_rope_layer_interval=2, tie_word_embeddings=False)
    yield _recipe("granite", _new(), GRANITE, attention_bias=True, mlp_bias=True)
    yield _recipe("granite old", _old(), GRANITE, tie_word_embeddings=True)


def _phi3() -> Iterator[Recipe]:
    trained = {"original_max_position_embeddings": 16}
    yield _recipe("phi3", _new(), sliding_window=7)
    yield _recipe("phi3 partial", _new(partial_rotary_factor=0.5))
    yield _recipe("phi3 longrope", _new(rope_type="longrope", **LONG), trained, max_position_embeddings=64)
    yield _recipe("phi3 longrope old", _old(type="su", **LONG, **trained), trained, sliding_window=9)
    yield _recipe("phi3 longrope short", _new(rope_type="longrope", **LONG), original_max_position_embeddings=64)


def _gemma() -> Iterator[Recipe]:
    yield _recipe("gemma", _new(), head_dim=12, hidden_act="gelu_pytorch_tanh")
    yield _recipe("gemma old", _old(), head_dim=8, hidden_act="gelu", num_key_value_heads=1, attention_bias=True)
    yield _recipe("gemma2", _new(), GEMMA)
    yield _recipe("gemma2 caps", _old(), GEMMA, attn_logit_softcapping=1.5, final_logit_softcapping=2.0)
    free = {"attn_logit_softcapping": None, "final_logit_softcapping": None, "tie_word_embeddings": False}
    yield _recipe("gemma2 no caps", _new(), GEMMA, free, attention_bias=True, layer_types=ALTERNATING)
    yield _recipe("gemma3_text", GEMMA, TWO_ROPES, num_hidden_layers=7)
    yield _recipe("gemma3_text cap", GEMMA, TWO_ROPES, layer_types=ALTERNATING, final_logit_softcapping=2.0)
    linear = {
        "rope_theta": 300000.0,
        "rope_local_base_freq": 500.0,
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
    }
    yield _recipe("gemma3_text old", GEMMA, linear, sliding_window_pattern=2)


def _gpt() -> Iterator[Recipe]:
    gpt2 = {"model_type": "gpt2", **GPT2_SIZES}
    odd = {"scale_attn_by_inverse_layer_idx": True, "activation_function": "relu", "n_inner": 24}
    yield Recipe("gpt2", gpt2)
    yield Recipe("gpt2 scaled by layer", gpt2 | odd)
    yield Recipe("gpt2 not scaled", gpt2 | {"scale_attn_weights": False, "tie_word_embeddings": False})
    neox = {key: size for key, size in SIZES.items() if key != "num_key_value_heads"}
    one_after_the_other = {"use_parallel_residual": False, "attention_bias": False, "tie_word_embeddings": True}
    yield Recipe("gpt_neox", {"model_type": "gpt_neox", **neox, **_new(partial_rotary_factor=0.5)})
    yield Recipe("gpt_neox old", {"model_type": "gpt_neox", **neox, "rotary_pct": 0.75, "rotary_emb_base": 500})
    yield _recipe("starcoder2", _new(), tie_word_embeddings=True)
    yield _recipe("starcoder2 old", _old(), use_bias=False, sliding_window=7, tie_word_embeddings=False)
    yield Recipe("gpt_neox sequential", {"model_type": "gpt_neox", **neox, **one_after_the_other})


# Weights


def weights(recipe: Recipe, tensors: Iterable[tuple[str, Shape]]) -> dict[str, NDArray[np.float32]]:
    """Return values for tensors of these names and shapes, large enough that each part of the network matters."""
    from_one = not recipe.name.startswith("gemma")  # Gemma adds 1 in the network
    return {name: _values(name, tuple(shape), from_one) for name, shape in tensors}


def _values(name: str, shape: Shape, from_one: bool) -> NDArray[np.float32]:
    size = int(np.prod(shape))
    uniform = _words(name, size).astype(np.float64) / 2**32 - 1.0  # -1..1
    if len(shape) == 2:
        uniform *= 0.3
    elif name.endswith("weight"):
        uniform = uniform * 0.5 + from_one
    return uniform.reshape(shape).astype(np.float32)


def _words(name: str, count: int) -> NDArray[np.uint64]:
    """Return `count` integers from 0 to 2^33-1 that follow from the name."""
    return np.random.Philox(key=zlib.crc32(name.encode())).random_raw(count) >> np.uint64(31)


def write_checkpoint(
    folder: Path, recipe: Recipe, tensors: Mapping[str, NDArray[np.float32]], dtype: str | None = None
) -> None:
    """Write config.json and model.safetensors.

    dtype: storage type of the weights; the recipe's if None.
    """
    dtype = dtype or recipe.dtype
    (folder / "config.json").write_text(json.dumps(recipe.config))
    header, body = {}, b""
    for name, values in tensors.items():
        data = ENCODERS[dtype](values)
        place = [len(body), len(body) + len(data)]
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": place}
        body += data
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body)


ENCODERS = {
    "F32": lambda values: values.astype("<f4").tobytes(),
    "F16": lambda values: values.astype("<f2").tobytes(),
    "BF16": lambda values: (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes(),  # cut, not rounded
}


def digest(tensors: Iterable[tuple[str, Shape]]) -> str:
    """Return a digest of tensor names and shapes that does not depend on their order."""
    text = json.dumps(sorted((name, list(shape)) for name, shape in tensors))
    return f"{zlib.crc32(text.encode()):08x}"


# The truth


def transformers_model(recipe: Recipe, folder: Path) -> Any:
    """Return transformers' float64 model of the recipe. Write its checkpoint to the folder."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    write_checkpoint(folder, recipe, {})
    config = AutoConfig.from_pretrained(folder)
    empty = AutoModelForCausalLM.from_config(config)
    names = {name: tuple(values.shape) for name, values in empty.state_dict().items()}
    if config.tie_word_embeddings:
        del names["lm_head.weight"]
    write_checkpoint(folder, recipe, weights(recipe, names.items()))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    model.stored_tensors = names
    return model


def truth(model: Any, token_ids: list[int]) -> NDArray[np.float64]:
    """Return the logits of every token, [tokens, vocab]."""
    import torch

    with torch.no_grad():
        logits: NDArray[np.float64] = model(torch.tensor([token_ids]), use_cache=False).logits[0].numpy()
    return logits


def main() -> None:
    """Write golden.json and golden.npz."""
    import transformers

    logits, names = {}, {}
    for recipe in recipes():
        with tempfile.TemporaryDirectory() as folder:
            model = transformers_model(recipe, Path(folder))
            logits[recipe.name] = truth(model, recipe.token_ids)[KEPT].astype(np.float32)
            names[recipe.name] = digest(model.stored_tensors.items())
    np.savez_compressed(HERE / "golden.npz", **logits)
    found = {"command": COMMAND, "transformers": transformers.__version__, "tensors": names}
    (HERE / "golden.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
