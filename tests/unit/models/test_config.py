"""Tests of config.json: both spellings that transformers writes, and every value that must be refused."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from decoding.errors import CheckpointError, ModelNotFoundError, UnsupportedModelError
from decoding.models import load_config
from decoding.models.rope import LinearRope, LongRope, Rope, YarnRope


def test_defaults_are_those_of_transformers(workshop: Any) -> None:
    """Keys that are absent or null take LlamaConfig's defaults; sizes follow from other sizes."""
    folder = workshop.config(num_key_value_heads=None, max_position_embeddings=None, rms_norm_eps=None)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"head_dim": None, "rope_scaling": None}))
    config = load_config(folder)
    assert (config.num_key_value_heads, config.head_dim) == (4, 4)
    assert (config.max_position_embeddings, config.norm_eps) == (2048, 1e-6)
    assert [config.tie_word_embeddings, config.qkv_bias, config.output_bias, config.mlp_bias] == [False] * 4


@pytest.mark.parametrize(
    ("changes", "theta"),
    [
        ({"rope_theta": 500000}, 500000.0),
        ({"rope_theta": None}, 10000.0),
        ({"rope_theta": None, "rope_parameters": {"rope_theta": 77.0, "rope_type": "default"}}, 77.0),
        ({"rope_theta": 5.0, "rope_parameters": {"rope_type": "default"}}, 5.0),
        ({"rope_theta": 5.0, "rope_scaling": {"type": "default"}}, 5.0),
        ({"torch_dtype": "bfloat16"}, 10000.0),
        ({"dtype": "bfloat16", "hidden_act": "silu"}, 10000.0),
    ],
)
def test_both_styles_of_rotary_settings(workshop: Any, changes: dict[str, Any], theta: float) -> None:
    """rope_theta is read at the top level (transformers 4) or under rope_parameters (5)."""
    assert load_config(workshop.config(**changes)).layers[1].rope == Rope(theta=theta, dim=4)


@pytest.mark.parametrize(
    ("changes", "generation", "bos", "eos"),
    [
        ({}, None, 1, (2,)),
        ({"eos_token_id": [2, 3, 2]}, None, 1, (2, 3)),
        ({"bos_token_id": None, "eos_token_id": None}, None, None, ()),
        ({}, {"eos_token_id": [5, 2]}, 1, (5, 2)),
        ({}, {"eos_token_id": 5}, 1, (5, 2)),
        ({"eos_token_id": [2, 7]}, {"eos_token_id": [7, 4]}, 1, (7, 4, 2)),
        ({}, {"bos_token_id": 0, "eos_token_id": None}, 0, (2,)),
    ],
)
def test_start_and_end_tokens_of_both_files(
    workshop: Any, changes: dict[str, Any], generation: Any, bos: int | None, eos: tuple[int, ...]
) -> None:
    """End tokens of both files count; the start token of generation_config.json has precedence."""
    folder = workshop.config(**changes)
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    config = load_config(folder)
    assert (config.bos_token_id, config.eos_token_ids) == (bos, eos)


def test_a_disagreement_about_the_end_is_logged_once(workshop: Any, caplog: Any) -> None:
    """Different end tokens in the two files are logged once; another order of the same ids is not."""
    folder = workshop.config(eos_token_id=[2, 3])
    for ids in ([3, 2], [4], [4]):
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
        load_config(folder)
    (record,) = caplog.records
    assert record.name == "decoding.models"
    assert "generation_config.json at ids [4] and config.json at ids [2, 3]; all of them end it" in record.message


@pytest.mark.parametrize(
    ("kind", "bos", "eos"),
    [("gpt2", 50256, 50256), ("olmo2", None, 50279), ("phi3", 1, 32000), ("smollm3", 128000, 128001)],
)
def test_default_ids_beyond_the_vocabulary_are_ignored(workshop: Any, kind: str, bos: int | None, eos: int) -> None:
    """Default token ids beyond a tiny vocabulary are ignored; other ids beyond it are refused."""
    unread = {"num_key_value_heads": None, "rope_theta": None} if kind == "gpt2" else {}
    folder = workshop.config(model_type=kind, bos_token_id=bos, eos_token_id=eos, **unread)
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": bos, "eos_token_id": eos}))
    config = load_config(folder)
    assert (config.bos_token_id, config.eos_token_ids) == (1 if bos == 1 else None, ())
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": eos + 1}))
    with pytest.raises(CheckpointError, match=rf"generation_config.json: eos_token_id={eos + 1}: must be a token id"):
        load_config(folder)
    config = load_config(
        workshop.config(model_type=kind, bos_token_id=bos, eos_token_id=eos, vocab_size=200000, **unread)
    )
    assert (config.bos_token_id, config.eos_token_ids) == (bos, (eos,))


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "smollm3"])
def test_null_key_heads_means_all_heads(workshop: Any, kind: str) -> None:
    """num_key_value_heads=null means num_attention_heads, even if an absent key has another default."""
    folder = workshop.config(model_type=kind)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"num_key_value_heads": None}))
    assert load_config(folder).num_key_value_heads == load_config(folder).num_attention_heads


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("hidden_size", "16", "must be an integer from 1"),
        ("hidden_size", True, "must be an integer from 1"),
        ("hidden_size", 16.0, "must be an integer from 1"),
        ("hidden_size", 0, "must be an integer from 1"),
        ("hidden_size", -16, "must be an integer from 1"),
        ("hidden_size", 10**12, "must be an integer from 1"),
        ("hidden_size", [16], "must be an integer from 1"),
        ("hidden_size", 18, "multiple of num_attention_heads=4"),
        ("vocab_size", 10**400, "must be an integer from 1"),
        ("num_key_value_heads", 3, "multiple of num_key_value_heads=3"),
        ("num_key_value_heads", 8, "multiple of num_key_value_heads=8"),
        ("head_dim", 5, "must be even"),
        ("hidden_size", 12, "must be even, not 3"),
        ("max_position_embeddings", 0, "must be an integer from 1"),
        ("rms_norm_eps", 0.0, "finite number above 0"),
        ("rms_norm_eps", "1e-5", "finite number above 0"),
        ("rms_norm_eps", float("nan"), "finite number above 0"),
        ("rms_norm_eps", False, "finite number above 0"),
        ("rope_theta", float("inf"), "finite number above 0"),
        ("rope_theta", 0.5, "from 1 to"),
        ("rope_theta", 1e31, "from 1 to"),
        ("num_hidden_layers", 5000, "must be an integer from 1 to 4,096"),
        ("head_dim", 2**17, "must be an integer from 1 to 65,536"),
        ("layer_types", ["full_attention"], "one entry for each"),
        ("layer_types", "full_attention", "must be a list of strings"),
        ("rope_theta", 10**400, "finite number above 0"),
        ("rope_parameters", {"rope_theta": -1}, "finite number above 0"),
        ("rope_parameters", [1], "must be a JSON object"),
        ("tie_word_embeddings", 1, "must be true or false"),
        ("attention_bias", "false", "must be true or false"),
        ("hidden_act", 3, "must be a string"),
        ("model_type", ["llama"], "must be a string"),
        ("bos_token_id", 19, "vocab_size-1=18"),
        ("bos_token_id", [1, 2], "must be one token id"),
        ("eos_token_id", [2, -1], "vocab_size-1=18"),
        ("eos_token_id", "2", "vocab_size-1=18"),
    ],
)
def test_a_bad_value_is_named_with_its_rule(workshop: Any, key: str, value: Any, rule: str) -> None:
    """Wrong types, signs and sizes raise a CheckpointError with the file and the rule."""
    with pytest.raises(CheckpointError, match=rule) as caught:
        load_config(workshop.config(**{key: value}))
    assert caught.value.path.endswith("config.json")


@pytest.mark.parametrize(
    "key",
    ["model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"],
)
def test_the_sizes_of_the_network_must_be_given(workshop: Any, key: str) -> None:
    """A config without one of the sizes is refused."""
    with pytest.raises(CheckpointError, match=f"{key}: is missing"):
        load_config(workshop.config(**{key: None}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_act", "xielu"),
        ("rope_scaling", {"type": "proportional"}),
        ("rope_scaling", {"rope_type": "linear", "factor": 2.0, "mrope_section": [1, 1, 2]}),
        ("rope_parameters", {"rope_type": "default", "factor": 2.0}),
        ("partial_rotary_factor", 0.5),
        ("quantization_config", {"bits": 4}),
        ("sliding_window", 100),
        ("use_sliding_window", True),
        ("layer_types", ["sliding_attention", "full_attention"]),
        ("layer_types", ["full_attention", "linear_attention"]),
        ("attn_logit_softcapping", 50.0),
        ("final_logit_softcapping", 30.0),
        ("logits_scaling", 8.0),
        ("embedding_multiplier", 12),
        ("no_rope_layers", [1, 0]),
        ("clip_qkv", 8.0),
        ("num_local_experts", 8),
        ("rope_interleaved", True),
        ("is_encoder_decoder", True),
    ],
)
def test_unsupported_features_are_refused(workshop: Any, key: str, value: Any) -> None:
    """A valid config that needs an unsupported feature raises an UnsupportedModelError."""
    with pytest.raises(UnsupportedModelError):
        load_config(workshop.config(**{key: value}))


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b'{"a":', b"\xff\xfe{}", b"[" * 200_000, b'{"a": 1}]'])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_a_file_that_is_no_json_object(workshop: Any, name: str, content: bytes) -> None:
    """Invalid JSON raises a CheckpointError that names the file."""
    folder = workshop.config()
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_config(folder)
    assert caught.value.path == str(folder / name)


def test_a_missing_config(workshop: Any) -> None:
    """A missing config.json raises a ModelNotFoundError."""
    folder = workshop.config()
    (folder / "config.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        load_config(folder)


def test_two_names_of_the_rotary_settings_that_disagree(workshop: Any) -> None:
    """rope_parameters and rope_scaling must not disagree; equal values are accepted."""
    same = {"rope_type": "default", "rope_theta": 77.0}
    folder = workshop.config(rope_parameters=same, rope_scaling=same)
    assert load_config(folder).layers[0].rope == Rope(theta=77.0, dim=4)
    with pytest.raises(CheckpointError, match="rope_scaling"):
        load_config(workshop.config(rope_parameters=same, rope_scaling={"type": "linear", "factor": 2.0}))


def test_values_without_effect_are_accepted(workshop: Any) -> None:
    """Keys of other architectures are accepted if their values have no effect."""
    harmless = {
        "layer_types": ["full_attention", "full_attention"],
        "use_sliding_window": False,
        "partial_rotary_factor": 1.0,
        "rope_interleaved": False,
        "embedding_multiplier": 1,
        "head_dim": 4,
        "pretraining_tp": 2,
        "architectures": ["LlamaForCausalLM"],
        "rope_scaling": {},
    }
    assert load_config(workshop.config(**harmless)).layers == load_config(workshop.config()).layers


# What other architectures read


def _family(workshop: Any, model_type: str, **changes: Any) -> Any:
    return load_config(workshop.config(model_type=model_type, **changes))


def _windows(config: Any) -> list[int | None]:
    return [layer.window for layer in config.layers]


@pytest.mark.parametrize(
    ("model_type", "changes", "windows"),
    [
        ("mistral", {}, [4096, 4096]),
        ("mistral", {"sliding_window": 7}, [7, 7]),
        ("qwen2", {"sliding_window": 7}, [None, None]),
        ("qwen2", {"sliding_window": 7, "use_sliding_window": True}, [None, None]),
        ("qwen2", {"sliding_window": 7, "use_sliding_window": True, "max_window_layers": 0}, [7, 7]),
        ("qwen3", {"sliding_window": 7, "use_sliding_window": True, "max_window_layers": 1}, [None, 7]),
        ("phi3", {"sliding_window": 7}, [7, 7]),
        ("phi3", {}, [None, None]),
        ("smollm3", {"use_sliding_window": True, "sliding_window": 7, "no_rope_layers": [1, 0]}, [None, 7]),
        ("gemma2", {"sliding_window": 7}, [7, None]),
        ("gemma2", {"sliding_window": 7, "layer_types": ["full_attention", "sliding_attention"]}, [None, 7]),
        ("gemma3_text", {}, [4096, 4096]),
        ("gemma3_text", {"sliding_window_pattern": 1}, [None, None]),
    ],
)
def test_windows(workshop: Any, model_type: str, changes: dict[str, Any], windows: list[int | None]) -> None:
    """The sliding windows of the layers follow from each architecture's own keys."""
    assert _windows(_family(workshop, model_type, **changes)) == windows


def test_null_disables_a_default(workshop: Any) -> None:
    """Null disables Mistral's window and Gemma 2's caps, while an absent key means their default."""
    folder = workshop.config(model_type="mistral")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"sliding_window": None}))
    assert _windows(load_config(folder)) == [None, None]
    caps = {"attn_logit_softcapping": None, "final_logit_softcapping": None}
    (folder / "config.json").write_text(json.dumps(values | caps | {"model_type": "gemma2"}))
    config = load_config(folder)
    assert (config.attn_logit_softcapping, config.final_logit_softcapping) == (None, None)
    assert _family(workshop, "gemma2").attn_logit_softcapping == 50.0


@pytest.mark.parametrize(
    ("model_type", "changes", "key"),
    [
        ("mistral", {"attention_bias": True}, "attention_bias"),
        ("mistral", {"sliding_window": 7, "layer_types": ["full_attention"] * 2}, "layer_types"),
        ("qwen2", {"attention_bias": False}, "attention_bias"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 2}, "layer_types"),
        ("qwen3", {"mlp_bias": True}, "mlp_bias"),
        ("phi3", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "type='linear'"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ("gemma3_text", {"rope_parameters": {"rope_type": "default"}}, "rope_type"),
        ("olmo2", {"clip_qkv": 3}, "clip_qkv"),
        ("gpt_neox", {"num_key_value_heads": 2}, "num_key_value_heads"),
    ],
)
def test_settings_of_other_architectures_are_refused(
    workshop: Any, model_type: str, changes: dict[str, Any], key: str
) -> None:
    """A setting of another architecture is refused by name."""
    with pytest.raises(UnsupportedModelError, match=key):
        _family(workshop, model_type, **changes)


@pytest.mark.parametrize(
    ("model_type", "changes", "rule"),
    [
        ("smollm3", {"no_rope_layers": [1]}, "list of 2 or more"),
        ("smollm3", {"no_rope_layers": [1, 2]}, "0 or 1"),
        ("gemma2", {"hidden_activation": "gelu", "hidden_act": "silu"}, "contradicts hidden_activation"),
        ("gpt_neox", {"rotary_pct": 0.5, "partial_rotary_factor": 0.25, "num_key_value_heads": None}, "contradicts"),
        ("gpt_neox", {"rotary_pct": 0.1, "num_key_value_heads": None}, "elements of a head"),
        ("gpt_neox", {"rotary_pct": 1.5, "num_key_value_heads": None}, "elements of a head"),
        ("gpt2", {"n_embd": 8}, "contradicts n_embd"),
        ("gpt2", {"hidden_size": 18}, "multiple of num_attention_heads=4"),
        ("llama", {"rope_scaling": {"type": "linear"}}, "rope_scaling.factor: is missing"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 0}}, "rope_scaling.factor=0"),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2}, "head_dim": 2}, "more than 2"),
        ("phi3", {"rope_scaling": {"type": "su", "short_factor": [1], "long_factor": [1, 1]}}, "list of 2 finite"),
        (
            "llama",
            {"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1}},
            "must be below high_freq_factor",
        ),
    ],
)
def test_a_bad_setting_of_an_architecture(workshop: Any, model_type: str, changes: dict[str, Any], rule: str) -> None:
    """Contradictory or impossible settings raise a CheckpointError with the rule."""
    with pytest.raises(CheckpointError, match=rule):
        _family(workshop, model_type, **changes)


def test_the_context_grows_with_the_embeddings(workshop: Any) -> None:
    """Dynamic and yarn scaling extend the context beyond max_position_embeddings by their factor."""
    dynamic = {"rope_scaling": {"type": "dynamic", "factor": 4.0}}
    yarn = {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 100}}
    huge = {"rope_scaling": {"type": "dynamic", "factor": 1e30}}
    assert _family(workshop, "llama", **dynamic).max_position_embeddings == 640
    assert _family(workshop, "llama", **yarn).max_position_embeddings == 400
    assert _family(workshop, "llama", **huge).max_position_embeddings == 2**31 - 1
    assert _family(workshop, "llama").max_position_embeddings == 160


def test_the_trained_length_is_found_in_three_places(workshop: Any) -> None:
    """The trained length is read at the top level, then from the scaling, then from max_position_embeddings."""
    scaling = {"type": "yarn", "factor": 2.0}
    inside = {"rope_scaling": scaling | {"original_max_position_embeddings": 40}}
    for changes, trained in (
        ({"rope_scaling": scaling}, 160),
        (inside, 40),
        (inside | {"original_max_position_embeddings": 30}, 30),
    ):
        rope = _family(workshop, "llama", **changes).layers[0].rope
        assert isinstance(rope, YarnRope)
        assert rope.trained == trained


def test_gemma3_has_two_embeddings_in_either_style(workshop: Any) -> None:
    """Gemma 3's windowed layers have their own rotary base without scaling, in both styles of config."""
    new = {
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 500.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
        },
        "rope_theta": None,
    }
    old = {
        "rope_theta": 500.0,
        "rope_local_base_freq": 50.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    }
    for style in (new, old):
        config = _family(workshop, "gemma3_text", head_dim=4, sliding_window_pattern=2, **style)
        assert [layer.rope for layer in config.layers] == [
            Rope(theta=50.0, dim=4),
            LinearRope(theta=500.0, dim=4, factor=8.0),
        ]
    with pytest.raises(CheckpointError, match="contradicts rope_parameters"):
        _family(workshop, "gemma3_text", **new | {"rope_scaling": {"rope_type": "linear", "factor": 2.0}})


def test_a_multimodal_gemma3_is_read_by_its_text_part(workshop: Any) -> None:
    """A multimodal Gemma 3 takes sizes from text_config, and tying and end tokens from the top level."""
    config = _family(
        workshop,
        "gemma3",
        text_config={"hidden_size": 2560, "num_hidden_layers": 34, "sliding_window": 1024, "bos_token_id": 2},
        vision_config={"hidden_size": 1152},
        tie_word_embeddings=False,
        eos_token_id=[1, 106],
        bos_token_id=None,
        num_key_value_heads=None,
        rope_theta=None,
    )
    assert (config.vocab_size, config.num_attention_heads, config.head_dim) == (262208, 8, 256)
    assert (config.hidden_size, config.num_hidden_layers, config.tie_word_embeddings) == (2560, 34, False)
    assert (config.bos_token_id, config.eos_token_ids) == (2, (1, 106))


def test_phi3s_older_names_of_longrope(workshop: Any) -> None:
    """The types "su" and "yarn" of early Phi-3 checkpoints mean longrope."""
    factors = {"short_factor": [1.0, 1.0], "long_factor": [2.0, 3.0]}
    for name in ("su", "yarn", "longrope"):
        config = _family(workshop, "phi3", rope_scaling={"type": name, **factors}, original_max_position_embeddings=40)
        rope = config.layers[0].rope
        assert isinstance(rope, LongRope)
        assert (rope.trained, rope.long_factor) == (40, (2.0, 3.0))
        assert rope.attention_factor == pytest.approx(math.sqrt(1 + math.log(4) / math.log(40)))


def test_gpt2s_names_of_sizes(workshop: Any) -> None:
    """GPT-2's sizes are read from n_embd, n_head, n_layer and n_positions."""
    general = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
    )
    own = {"n_embd": 24, "n_head": 3, "n_layer": 5, "n_positions": 77}
    config = _family(workshop, "gpt2", **dict.fromkeys(general), rope_theta=None, **own)
    assert (config.hidden_size, config.num_attention_heads, config.num_hidden_layers) == (24, 3, 5)
    assert (config.intermediate_size, config.max_position_embeddings, config.head_dim) == (96, 77, 8)
