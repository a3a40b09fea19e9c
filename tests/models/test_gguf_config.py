"""Keys of GGUF metadata: the config of each architecture, keys without effect, and errors with a key's name."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from decoding.errors import CheckpointError, UnsupportedModelError
from decoding.models.config import ModelConfig
from decoding.models.gguf import open_model
from decoding.models.gguf_config import read_config
from decoding.models.gguf_layout import layout
from decoding.models.gguf_reader import Metadata
from decoding.models.gguf_rope import FactorRope
from decoding.models.rope import LinearRope, Llama3Rope, LongRope, Rope, YarnRope

GGUF = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "gguf_container.py")))
TINY = GGUF.tiny_llama()
KEYS = {key: value for key, value in TINY.metadata.items() if not key.startswith("tokenizer.")}
SHAPES = {entry.name: entry.dims[::-1] for entry in TINY.entries}


def config_of(architecture: str = "llama", factors: dict[str, Any] | None = None, **changes: Any) -> ModelConfig:
    """Return the config of the tiny network as another architecture, with changed keys; None removes a key."""
    given = {key.replace("llama.", f"{architecture}."): value for key, value in KEYS.items()}
    given |= {f"{architecture}.{key.replace('__', '.')}": value for key, value in changes.items()}
    given["general.architecture"] = architecture
    if architecture in ("gpt2", "gptneox"):
        given[f"{architecture}.attention.layer_norm_epsilon"] = 1e-5
        del given[f"{architecture}.attention.layer_norm_rms_epsilon"]
    metadata = Metadata(Path("model.gguf"), {key: value for key, value in given.items() if value is not None})
    tensors = factors or {}
    return read_config(metadata, SHAPES, lambda name, count: tensors.get(name))


def test_sizes() -> None:
    """Sizes come from keys, the vocabulary size from the embedding, ties and biases from the tensors' names."""
    config = config_of()
    assert (config.vocab_size, config.hidden_size, config.intermediate_size) == (12, 32, 32)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (4, 2, 8)
    assert (config.tie_word_embeddings, config.qkv_bias, config.output_bias, config.mlp_bias) == (True, *[False] * 3)
    assert (config.bos_token_id, config.eos_token_ids) == (None, ())  # no vocabulary


def test_default_kv_heads_and_a_given_head_size() -> None:
    """By default head_count_kv is head_count; key_length sets a head size that does not follow from the hidden size."""
    config = config_of(attention__head_count_kv=None, attention__key_length=6, attention__value_length=6,
                       rope__dimension_count=None)  # fmt: skip
    assert (config.num_key_value_heads, config.head_dim) == (4, 6)


def test_one_number_for_each_layer() -> None:
    """Sizes may be arrays with a number per layer if all numbers are equal."""
    both = np.array([4, 4], "<u4")
    assert config_of(block_count=2, attention__head_count=both).num_attention_heads == 4
    with pytest.raises(UnsupportedModelError, match="only the same number in all layers"):
        config_of(block_count=2, feed_forward_length=np.array([32, 64], "<u4"))


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"attention__head_count_kv": 3}, "must divide head_count=4"),
        ({"attention__head_count": 5}, "must be a multiple of head_count=5"),
        ({"attention__value_length": 4}, "only key_length=8 is implemented"),
        ({"attention__key_length": 1 << 17}, "key_length"),
        ({"vocab_size": 13}, "must be the number of rows of token_embd.weight, 12"),
        ({"context_length": None}, "llama.context_length: is missing"),
        ({"attention__layer_norm_rms_epsilon": 0.0}, "above 0"),
        ({"rope__dimension_count": 4}, "only head_dim=8 is implemented"),
        ({"attention__sliding_window": 32}, "llama.attention.sliding_window=32"),
        ({"attention__scale": 0.5}, "attention.scale=0.5"),
        ({"logit_scale": 2.0}, "logit_scale=2.0"),
        ({"rope__scaling__type": "dynamic"}, "must be one of 'linear', 'longrope', 'none', 'yarn'"),
        ({"rope__scaling__yarn_log_multiplier": 0.1}, "only 0 is implemented"),
        ({"rope__scaling__type": "longrope"}, "needs the tensors rope_factors_long.weight"),
        ({"rope__dimension_sections": np.ones(4, "<u4")}, "rope.dimension_sections"),
    ],
)
def test_refused_by_name(changes: dict[str, Any], rule: str) -> None:
    """Values out of range and unsupported settings are errors with the key's name."""
    with pytest.raises((CheckpointError, UnsupportedModelError), match=rule):
        config_of(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"expert_count": 0, "expert_used_count": 0},
        {"attention__sliding_window": 0},
        {"attention__sliding_window": 64},  # as long as the context
        {"attention__causal": True},
        {"attention__max_alibi_bias": 0.0},
        {"tensor_data_layout": "Meta AI original pth"},
        {"pooling_type": 3},
        {"rope__scaling__finetuned": True},
        {"rope__scaling__original_context_length": 32},
        {"rope__scaling__factor": 0.0},
        {"logit_scale": 0.0, "residual_scale": 1.0},
    ],
)
def test_keys_that_change_nothing(changes: dict[str, Any]) -> None:
    """Values without effect are accepted and do not change the config."""
    found = config_of(**changes)
    assert found == config_of()


def test_keys_and_tensors_about_images(tmp_path: Path) -> None:
    """A file of Gemma 3 may have keys and tensors for images, also under Ollama's names; the text part is read."""
    config = config_of("gemma3", block_count=6, attention__sliding_window=5, vision__block_count=27,
                       mm__tokens_per_image=256, rope__local__freq_base=500.0, rope__global__freq_base=2e6)  # fmt: skip
    assert [config.layers[index].rope.theta for index in (0, 5)] == [500.0, 2e6]
    harmless = layout(config, SHAPES).harmless
    assert harmless.search("v.blk.0.attn_q.weight")
    assert not harmless.search("blk.v.0")


def test_general_keys_are_ignored(tmp_path: Path) -> None:
    """Keys without the architecture's prefix have no effect."""
    path = tmp_path / "model.gguf"
    path.write_bytes((TINY | {"general.name": "x", "quantize.imatrix.file": "y", "qwen2.block_count": 7}).bytes())
    assert open_model(path).config.model_type == "llama"


# Rotary embeddings


def rope_of(**arguments: Any) -> Any:
    """Return the rotary embeddings of the first layer."""
    return config_of(**arguments).layers[0].rope


def test_plain_rope() -> None:
    """The base of rotary embeddings is 10,000 by default."""
    assert rope_of() == Rope(theta=10000.0, dim=8)
    assert rope_of(rope__freq_base=500000.0, rope__scaling__type="none", rope__scaling__factor=8.0) == Rope(
        theta=500000.0, dim=8
    )


@pytest.mark.parametrize("keys", [{"rope__scaling__factor": 4.0}, {"rope__scale_linear": 4.0}])
def test_linear_rope(keys: dict[str, Any]) -> None:
    """A factor without a type means linear scaling, also under its old name."""
    assert rope_of(**keys) == LinearRope(theta=10000.0, dim=8, factor=4.0)


def test_yarn() -> None:
    """YaRN's parameters have the paper's defaults; keys override them."""
    yarn = {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0, "rope__scaling__original_context_length": 16}
    plain = rope_of(**yarn)
    assert plain == YarnRope(
        theta=10000.0, dim=8, factor=4.0, trained=16, beta_fast=32.0, beta_slow=1.0, truncate=True,
        attention_factor=plain.attention_factor,
    )  # fmt: skip
    assert plain.attention_factor == pytest.approx(1.138629, rel=1e-6)
    given = rope_of(**yarn, rope__scaling__yarn_attn_factor=1.0, rope__scaling__yarn_beta_fast=8.0)
    assert (given.attention_factor, given.beta_fast) == (1.0, 8.0)
    assert config_of(**yarn, context_length=32).max_position_embeddings == 64


def test_factors_for_all_lengths() -> None:
    """The tensor rope_freqs.weight divides the frequencies: with Llama 3's factors it equals Llama3Rope."""
    rule = Llama3Rope(theta=10000.0, dim=8, factor=8.0, trained=32, low_freq_factor=1.0, high_freq_factor=4.0)
    factors = tuple((Rope(theta=10000.0, dim=8).frequencies(0) / rule.frequencies(0)).tolist())
    rope = rope_of(factors={"rope_freqs.weight": factors})
    assert isinstance(rope, FactorRope)
    np.testing.assert_allclose(rope.frequencies(0), rule.frequencies(0), rtol=3e-7)


def test_factors_for_short_and_long() -> None:
    """Phi-3's two tensors of factors give a LongRope; one alone, or both with a scaling factor, is an error."""
    short, long = (1.0, 1.0, 1.5, 2.0), (2.0, 3.0, 4.0, 5.0)
    tensors = {"rope_factors_short.weight": short, "rope_factors_long.weight": long}
    keys = {"rope__scaling__original_context_length": 16, "rope__scaling__attn_factor": 1.25}
    rope = rope_of(architecture="phi3", factors=tensors, **keys)
    assert rope == LongRope(
        theta=10000.0, dim=8, attention_factor=1.25, trained=16, short_factor=short, long_factor=long
    )
    with pytest.raises(UnsupportedModelError, match=r"needs both rope_factors_long"):
        rope_of(factors={"rope_factors_long.weight": long})
    with pytest.raises(UnsupportedModelError, match="together with a factor for each pair"):
        rope_of(factors=tensors, rope__scaling__factor=2.0)


def test_factors_are_checked(tmp_path: Path) -> None:
    """A tensor of factors must have one number above 0 per pair."""
    path = tmp_path / "model.gguf"
    for values, rule in ((np.ones(3), r"has shape \[3\]; the metadata ask for \[4\]"), (np.zeros(4), "not above 0")):
        path.write_bytes(replace(TINY, entries=(*TINY.entries, GGUF.tensor("rope_freqs.weight", values))).bytes())
        with pytest.raises(CheckpointError, match=rule):
            open_model(path)


# Architectures


def windows_of(architecture: str, **keys: Any) -> list[int | None]:
    """Return the attention windows of six layers."""
    return [layer.window for layer in config_of(architecture, block_count=6, **keys).layers]


def test_windows() -> None:
    """Sliding windows are in every second layer of Gemma 2, 5 of 6 of Gemma 3, 3 of 4 of OLMo 3, and all of Phi-3."""
    assert windows_of("gemma") == [None] * 6
    assert windows_of("gemma2") == [4096, None] * 3
    assert windows_of("gemma2", attention__sliding_window=5) == [5, None] * 3
    assert windows_of("gemma3", attention__sliding_window=5) == [5, 5, 5, 5, 5, None]
    assert windows_of("gemma3") == [None] * 6
    assert windows_of("olmo2", attention__sliding_window=5) == [5, 5, 5, None, 5, 5]
    assert windows_of("phi3", attention__sliding_window=5) == [5] * 6
    assert windows_of("phi3", attention__sliding_window=0) == [None] * 6


def test_patterns_of_windows() -> None:
    """A pattern of windows is a number or a boolean per layer."""
    window = {"attention__sliding_window": 5}
    assert windows_of("gemma3", attention__sliding_window_pattern=3, **window) == [5, 5, None] * 2
    flags = np.array([1, 0, 0, 1, 1, 0], "?")
    assert windows_of("gemma3", attention__sliding_window_pattern=flags, **window) == [5, None, None, 5, 5, None]
    with pytest.raises(CheckpointError, match="a boolean for each of block_count=6"):
        windows_of("gemma3", attention__sliding_window_pattern=flags[:5], **window)


def test_gemma() -> None:
    """Gemma's embeddings are scaled, and Gemma 2 has soft caps even if the file has no keys for them."""
    config = config_of("gemma2")
    assert config.embedding_scale == 32**0.5
    assert (config.attn_logit_softcapping, config.final_logit_softcapping) == (50.0, 30.0)
    assert config_of("gemma3").final_logit_softcapping is None
    assert config_of("gemma2", attn_logit_softcapping=0.0).attn_logit_softcapping is None


def test_scale_of_the_largest_gemmas() -> None:
    """The models of 27 billion weights, recognised by their number of layers, have an attention scale of their own."""
    sizes = {"attention__key_length": 4, "attention__value_length": 4, "rope__dimension_count": 4}
    for architecture, layers in (("gemma2", 46), ("gemma3", 62)):
        assert config_of(architecture, block_count=layers, **sizes).layers[0].scale == 8**-0.5
        assert config_of(architecture, block_count=layers - 1, **sizes).layers[0].scale == 4**-0.5


def test_local_rope_of_gemma_3() -> None:
    """Layers with a window have their own rotary base and no scaling."""
    config = config_of("gemma3", block_count=6, attention__sliding_window=5, rope__freq_base=1e6,
                       rope__scaling__factor=8.0)  # fmt: skip
    assert config.layers[0].rope == Rope(theta=10000.0, dim=8)
    assert config.layers[5].rope == LinearRope(theta=1e6, dim=8, factor=8.0)


def test_smollm3_rotates_three_of_four_layers() -> None:
    """In SmolLM3 every fourth layer has no rotary embeddings."""
    turned = [layer.rope is not None for layer in config_of("smollm3", block_count=6).layers]
    assert turned == [True, True, True, False, True, True]


def test_granite() -> None:
    """Granite's scales multiply, except for logit_scale, which divides."""
    config = config_of("granite", attention__scale=0.25, embedding_scale=12.0, residual_scale=0.2, logit_scale=8.0)
    assert (config.embedding_scale, config.residual_scale, config.logits_scale) == (12.0, 0.2, 0.125)
    assert config.layers[0].scale == 0.25
    assert config_of("granite").layers[0].scale == 8**-0.5
    assert config_of("granite", rope__scaling__finetuned=False).layers[0].rope is None


def test_gpt() -> None:
    """GPT-2 has no rotary embeddings; GPT-NeoX rotates a part of each head and may have a sequential residual."""
    assert config_of("gpt2", rope__dimension_count=None).layers[0].rope is None
    neox = config_of("gptneox", rope__dimension_count=4, use_parallel_residual=False)
    assert (neox.layers[0].rope, neox.parallel_residual) == (Rope(theta=10000.0, dim=4), False)
    with pytest.raises(UnsupportedModelError, match=r"gpt2.rope.dimension_count=8"):
        config_of("gpt2")
