"""Keys of GGUF metadata: what each architecture takes, what changes nothing, and what is refused by name."""

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
    """The config of the tiny network as another architecture, with other keys; None takes one out."""
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
    """Sizes come from keys, the vocabulary from the embedding, ties and biases from which tensors there are."""
    config = config_of()
    assert (config.vocab_size, config.hidden_size, config.intermediate_size) == (12, 32, 32)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (4, 2, 8)
    assert (config.tie_word_embeddings, config.qkv_bias, config.output_bias, config.mlp_bias) == (True, *[False] * 3)
    assert (config.bos_token_id, config.eos_token_ids) == (None, ())  # no vocabulary


def test_heads_without_groups_and_of_a_size_of_their_own() -> None:
    """head_count_kv is head_count by default, and key_length frees the heads from the hidden size."""
    config = config_of(attention__head_count_kv=None, attention__key_length=6, attention__value_length=6,
                       rope__dimension_count=None)  # fmt: skip
    assert (config.num_key_value_heads, config.head_dim) == (4, 6)


def test_one_number_for_each_layer() -> None:
    """Sizes may be written once for each layer, if they are all the same."""
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
    """Values out of range, and settings that would change the result, are errors with the key's name."""
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
    """Keys whose values change nothing are accepted, and the config is that without them."""
    found = config_of(**changes)
    assert found == config_of()


def test_keys_and_tensors_about_images(tmp_path: Path) -> None:
    """A file of Gemma 3 may have what sees images with it; the text part is read, under Ollama's names, too."""
    config = config_of("gemma3", block_count=6, attention__sliding_window=5, vision__block_count=27,
                       mm__tokens_per_image=256, rope__local__freq_base=500.0, rope__global__freq_base=2e6)  # fmt: skip
    assert [config.layers[index].rope.theta for index in (0, 5)] == [500.0, 2e6]
    harmless = layout(config, SHAPES).harmless
    assert harmless.search("v.blk.0.attn_q.weight")
    assert not harmless.search("blk.v.0")


def test_general_keys_are_not_looked_at(tmp_path: Path) -> None:
    """A key outside the architecture's prefix changes nothing."""
    path = tmp_path / "model.gguf"
    path.write_bytes((TINY | {"general.name": "x", "quantize.imatrix.file": "y", "qwen2.block_count": 7}).bytes())
    assert open_model(path).config.model_type == "llama"


# Rotary embeddings


def rope_of(**arguments: Any) -> Any:
    """The rotary embeddings of the first layer."""
    return config_of(**arguments).layers[0].rope


def test_plain_rope() -> None:
    """The base is 10,000 if no key says otherwise."""
    assert rope_of() == Rope(theta=10000.0, dim=8)
    assert rope_of(rope__freq_base=500000.0, rope__scaling__type="none", rope__scaling__factor=8.0) == Rope(
        theta=500000.0, dim=8
    )


@pytest.mark.parametrize("keys", [{"rope__scaling__factor": 4.0}, {"rope__scale_linear": 4.0}])
def test_linear_rope(keys: dict[str, Any]) -> None:
    """A factor without a type is linear, under its old name, too."""
    assert rope_of(**keys) == LinearRope(theta=10000.0, dim=8, factor=4.0)


def test_yarn() -> None:
    """Yarn's numbers have the paper's defaults, and what is given wins."""
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
    """rope_freqs.weight divides the frequencies: with Llama 3's rule worked out, they are those of Llama3Rope."""
    rule = Llama3Rope(theta=10000.0, dim=8, factor=8.0, trained=32, low_freq_factor=1.0, high_freq_factor=4.0)
    factors = tuple((Rope(theta=10000.0, dim=8).frequencies(0) / rule.frequencies(0)).tolist())
    rope = rope_of(factors={"rope_freqs.weight": factors})
    assert isinstance(rope, FactorRope)
    np.testing.assert_allclose(rope.frequencies(0), rule.frequencies(0), rtol=3e-7)


def test_factors_for_short_and_long() -> None:
    """Phi-3's two tensors are a LongRope; one alone, or with a yarn, is nothing."""
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
    """A tensor of factors has one number above 0 for each pair."""
    path = tmp_path / "model.gguf"
    for values, rule in ((np.ones(3), r"has shape \[3\]; the metadata ask for \[4\]"), (np.zeros(4), "not above 0")):
        path.write_bytes(replace(TINY, entries=(*TINY.entries, GGUF.tensor("rope_freqs.weight", values))).bytes())
        with pytest.raises(CheckpointError, match=rule):
            open_model(path)


# Architectures


def windows_of(architecture: str, **keys: Any) -> list[int | None]:
    """The windows of six layers."""
    return [layer.window for layer in config_of(architecture, block_count=6, **keys).layers]


def test_windows() -> None:
    """Gemma 2 has one in every other layer, Gemma 3 in five of six, OLMo 3 in three of four, Phi-3 in all."""
    assert windows_of("gemma") == [None] * 6
    assert windows_of("gemma2") == [4096, None] * 3
    assert windows_of("gemma2", attention__sliding_window=5) == [5, None] * 3
    assert windows_of("gemma3", attention__sliding_window=5) == [5, 5, 5, 5, 5, None]
    assert windows_of("gemma3") == [None] * 6
    assert windows_of("olmo2", attention__sliding_window=5) == [5, 5, 5, None, 5, 5]
    assert windows_of("phi3", attention__sliding_window=5) == [5] * 6
    assert windows_of("phi3", attention__sliding_window=0) == [None] * 6


def test_patterns_of_windows() -> None:
    """A pattern is a number, or a boolean for each layer."""
    window = {"attention__sliding_window": 5}
    assert windows_of("gemma3", attention__sliding_window_pattern=3, **window) == [5, 5, None] * 2
    flags = np.array([1, 0, 0, 1, 1, 0], "?")
    assert windows_of("gemma3", attention__sliding_window_pattern=flags, **window) == [5, None, None, 5, 5, None]
    with pytest.raises(CheckpointError, match="a boolean for each of block_count=6"):
        windows_of("gemma3", attention__sliding_window_pattern=flags[:5], **window)


def test_gemma() -> None:
    """Embeddings are scaled, norms keep their sums, and Gemma 2 has soft caps even in files that do not say so."""
    config = config_of("gemma2")
    assert config.embedding_scale == 32**0.5
    assert (config.attn_logit_softcapping, config.final_logit_softcapping) == (50.0, 30.0)
    assert config_of("gemma3").final_logit_softcapping is None
    assert config_of("gemma2", attn_logit_softcapping=0.0).attn_logit_softcapping is None


def test_scale_of_the_largest_gemmas() -> None:
    """The scores of the models of 27 billion weights, known by their layers, have a scale of their own."""
    sizes = {"attention__key_length": 4, "attention__value_length": 4, "rope__dimension_count": 4}
    for architecture, layers in (("gemma2", 46), ("gemma3", 62)):
        assert config_of(architecture, block_count=layers, **sizes).layers[0].scale == 8**-0.5
        assert config_of(architecture, block_count=layers - 1, **sizes).layers[0].scale == 4**-0.5


def test_near_rope_of_gemma_3() -> None:
    """Layers with a window have a base of their own, and no stretching."""
    config = config_of("gemma3", block_count=6, attention__sliding_window=5, rope__freq_base=1e6,
                       rope__scaling__factor=8.0)  # fmt: skip
    assert config.layers[0].rope == Rope(theta=10000.0, dim=8)
    assert config.layers[5].rope == LinearRope(theta=1e6, dim=8, factor=8.0)


def test_smollm3_turns_three_of_four() -> None:
    """Every fourth layer has no rotary embeddings."""
    turned = [layer.rope is not None for layer in config_of("smollm3", block_count=6).layers]
    assert turned == [True, True, True, False, True, True]


def test_granite() -> None:
    """Granite's scales are multipliers, but for that of the logits, by which they are divided."""
    config = config_of("granite", attention__scale=0.25, embedding_scale=12.0, residual_scale=0.2, logit_scale=8.0)
    assert (config.embedding_scale, config.residual_scale, config.logits_scale) == (12.0, 0.2, 0.125)
    assert config.layers[0].scale == 0.25
    assert config_of("granite").layers[0].scale == 8**-0.5
    assert config_of("granite", rope__scaling__finetuned=False).layers[0].rope is None


def test_gpt() -> None:
    """GPT-2 has no rotary embeddings; GPT-NeoX turns a part of each head, and may have its halves side by side."""
    assert config_of("gpt2", rope__dimension_count=None).layers[0].rope is None
    neox = config_of("gptneox", rope__dimension_count=4, use_parallel_residual=False)
    assert (neox.layers[0].rope, neox.parallel_residual) == (Rope(theta=10000.0, dim=4), False)
    with pytest.raises(UnsupportedModelError, match=r"gpt2.rope.dimension_count=8"):
        config_of("gpt2")
