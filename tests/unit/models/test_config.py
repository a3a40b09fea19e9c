"""config.json: both spellings that transformers writes, and every value that must be refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from decoding.errors import CheckpointError, ModelNotFoundError, UnsupportedModelError
from decoding.models import ModelConfig


def test_defaults_are_those_of_transformers(workshop: Any) -> None:
    """Keys that are absent or null take LlamaConfig's defaults; sizes follow from other sizes."""
    folder = workshop.config(num_key_value_heads=None, max_position_embeddings=None, rms_norm_eps=None)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"head_dim": None, "rope_scaling": None}))
    config = ModelConfig.from_folder(folder)
    assert (config.num_key_value_heads, config.head_dim) == (4, 4)
    assert (config.max_position_embeddings, config.rms_norm_eps) == (2048, 1e-6)
    assert [config.tie_word_embeddings, config.attention_bias, config.mlp_bias] == [False] * 3


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
    """rope_theta beside the sizes (transformers 4) or under rope_parameters (5)."""
    assert ModelConfig.from_folder(workshop.config(**changes)).rope_theta == theta


@pytest.mark.parametrize(
    ("changes", "generation", "bos", "eos"),
    [
        ({}, None, 1, (2,)),
        ({"eos_token_id": [2, 3, 2]}, None, 1, (2, 3)),
        ({"bos_token_id": None, "eos_token_id": None}, None, None, ()),
        ({}, {"eos_token_id": [5, 2]}, 1, (5, 2)),
        ({}, {"bos_token_id": 0, "eos_token_id": None}, 0, (2,)),
    ],
)
def test_generation_config_has_the_last_word_on_start_and_end(
    workshop: Any, changes: dict[str, Any], generation: Any, bos: int | None, eos: tuple[int, ...]
) -> None:
    """End tokens may be one or many; generation_config.json's win where it names any."""
    folder = workshop.config(**changes)
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    config = ModelConfig.from_folder(folder)
    assert (config.bos_token_id, config.eos_token_ids) == (bos, eos)


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
    """Wrong types, signs and sizes are a CheckpointError with file, key and rule, before anything is allocated."""
    with pytest.raises(CheckpointError, match=rule) as caught:
        ModelConfig.from_folder(workshop.config(**{key: value}))
    assert caught.value.path.endswith("config.json")


@pytest.mark.parametrize(
    "key",
    ["model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"],
)
def test_the_sizes_of_the_network_must_be_given(workshop: Any, key: str) -> None:
    """A config without one of its sizes is refused; nothing is guessed."""
    with pytest.raises(CheckpointError, match=f"{key}: is missing"):
        ModelConfig.from_folder(workshop.config(**{key: None}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_act", "gelu"),
        ("rope_scaling", {"type": "linear", "factor": 2.0}),
        ("rope_scaling", {"rope_type": "llama3", "factor": 8.0}),
        ("rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4}),
        ("partial_rotary_factor", 0.5),
        ("quantization_config", {"bits": 4}),
    ],
)
def test_what_is_not_implemented_is_said(workshop: Any, key: str, value: Any) -> None:
    """A well-formed config that asks for more than we have is an UnsupportedModelError, not a wrong result."""
    with pytest.raises(UnsupportedModelError):
        ModelConfig.from_folder(workshop.config(**{key: value}))


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b'{"a":', b"\xff\xfe{}", b"[" * 200_000, b'{"a": 1}]'])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_a_file_that_is_no_json_object(workshop: Any, name: str, content: bytes) -> None:
    """Broken JSON of every kind is a CheckpointError that names the file."""
    folder = workshop.config()
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        ModelConfig.from_folder(folder)
    assert caught.value.path == str(folder / name)


def test_a_missing_config(workshop: Any) -> None:
    """No config.json: ModelNotFoundError naming the folder."""
    folder = workshop.config()
    (folder / "config.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        ModelConfig.from_folder(folder)


def test_two_names_of_the_rotary_settings_that_disagree(workshop: Any) -> None:
    """Neither is silently ignored; where both say the same, both are right."""
    same = {"rope_type": "default", "rope_theta": 77.0}
    folder = workshop.config(rope_parameters=same, rope_scaling=same)
    assert ModelConfig.from_folder(folder).rope_theta == 77.0
    with pytest.raises(CheckpointError, match="rope_scaling"):
        ModelConfig.from_folder(workshop.config(rope_parameters=same, rope_scaling={"type": "linear", "factor": 2.0}))
