"""config.json and generation_config.json, read with suspicion: every value has a type and a range."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decoding.errors import CheckpointError, ModelNotFoundError, UnsupportedModelError, shown
from decoding.json_file import read_json_object

_MAX_INTEGER = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The shape of a Llama-family network, under Hugging Face's names.

    num_attention_heads is a multiple of num_key_value_heads; head_dim is even. bos_token_id is None where a
    sequence needs no start token; eos_token_ids are generation_config.json's where it names any, otherwise
    config.json's (the rule of transformers' `generate`). Token ids lie in 0..vocab_size-1.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    attention_bias: bool
    mlp_bias: bool
    tie_word_embeddings: bool
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]

    @classmethod
    def from_folder(cls, folder: Path) -> ModelConfig:
        """Read the config of the Llama checkpoint in `folder`.

        Keys that are absent or null take transformers' defaults, except for the sizes of the network, which must be
        given, and for bos and eos, which are none unless a file names them. Raises ModelNotFoundError (no config.json),
        CheckpointError (naming file, key and rule), and UnsupportedModelError (an activation, rotary scaling or
        quantisation that is not implemented).
        """
        file = ConfigFile.read(folder / "config.json")
        _refuse_unsupported(file)
        hidden_size = file.integer("hidden_size")
        num_heads = file.integer("num_attention_heads")
        vocab_size = file.integer("vocab_size")
        bos_token_id, eos_token_ids = _special_token_ids(folder, file, vocab_size)
        config = cls(
            model_type=file.string("model_type"),
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            intermediate_size=file.integer("intermediate_size"),
            num_hidden_layers=file.integer("num_hidden_layers"),
            num_attention_heads=num_heads,
            num_key_value_heads=file.integer("num_key_value_heads", num_heads),
            head_dim=file.integer("head_dim", max(1, hidden_size // num_heads)),
            max_position_embeddings=file.integer("max_position_embeddings", 2048),
            rms_norm_eps=file.positive_real("rms_norm_eps", 1e-6),
            rope_theta=_rotary(file).positive_real("rope_theta", file.positive_real("rope_theta", 10000.0)),
            attention_bias=file.boolean("attention_bias", False),
            mlp_bias=file.boolean("mlp_bias", False),
            tie_word_embeddings=file.boolean("tie_word_embeddings", False),
            bos_token_id=bos_token_id,
            eos_token_ids=eos_token_ids,
        )
        _check_heads(file, config)
        return config


class ConfigFile:
    """A JSON object of a checkpoint and where it came from, with typed access; null counts as absent."""

    def __init__(self, path: Path, values: Mapping[str, Any], prefix: str = "") -> None:
        self.path = path
        self._values = values
        self._prefix = prefix

    @classmethod
    def read(cls, path: Path) -> ConfigFile:
        """Read `path`; ModelNotFoundError where it is missing, CheckpointError where it is no JSON object."""
        if not path.exists():
            raise ModelNotFoundError(f"{path.parent}: no {path.name} in this folder")
        try:
            return cls(path, read_json_object(path))
        except ValueError as error:
            raise CheckpointError(path, None, str(error)) from None

    def error(self, key: str, rule: str) -> CheckpointError:
        """The error that says that this file's `key` breaks `rule`."""
        name = self._prefix + key
        value = self._values.get(key)
        return CheckpointError(self.path, name if value is None else f"{name}={shown(value)}", rule)

    def get(self, key: str) -> Any:
        """The value as it stands in the file; None where it is absent or null."""
        return self._values.get(key)

    def integer(self, key: str, default: int | None = None) -> int:
        """An integer from 1 to 2**31 - 1; without a default the key must be there."""
        value = self._value(key, default)
        if type(value) is not int or not 1 <= value <= _MAX_INTEGER:
            raise self.error(key, f"must be an integer from 1 to {_MAX_INTEGER:,}")
        return value

    def positive_real(self, key: str, default: float) -> float:
        """A finite number above 0."""
        value = self._value(key, default)
        if type(value) not in (int, float) or not value > 0 or not math.isfinite(_to_float(value)):
            raise self.error(key, "must be a finite number above 0")
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self.error(key, "must be true or false")
        return value

    def string(self, key: str, default: str | None = None) -> str:
        """A string; without a default the key must be there."""
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self.error(key, "must be a string")
        return value

    def mapping(self, key: str) -> dict[str, Any]:
        """The JSON object under `key`; an empty one where it is absent."""
        value = self._value(key, {})
        if not isinstance(value, dict):
            raise self.error(key, "must be a JSON object")
        return value

    def section(self, key: str) -> ConfigFile:
        """The same, as a ConfigFile of its own, whose errors name `key` too."""
        return ConfigFile(self.path, self.mapping(key), f"{self._prefix}{key}.")

    def token_ids(self, key: str, vocab_size: int) -> tuple[int, ...]:
        """One id or a list of ids, each below `vocab_size`; () where the key is absent."""
        value = self._value(key, [])
        ids = value if isinstance(value, list) else [value]
        if not all(type(token_id) is int and 0 <= token_id < vocab_size for token_id in ids):
            raise self.error(key, f"must be a token id, or a list of them, from 0 to vocab_size-1={vocab_size - 1}")
        return tuple(dict.fromkeys(ids))

    def _value(self, key: str, default: Any) -> Any:
        value = self._values.get(key)
        if value is not None:
            return value
        if default is None:
            raise self.error(key, "is missing")
        return default


def _to_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # JSON integers have no upper bound
        return math.inf


def _rotary(file: ConfigFile) -> ConfigFile:
    """The section on rotary embeddings: `rope_parameters` since transformers 5, `rope_scaling` before."""
    parameters, scaling = file.section("rope_parameters"), file.section("rope_scaling")
    if file.get("rope_parameters") is None:
        return scaling
    if file.get("rope_scaling") not in (None, file.get("rope_parameters")):
        raise file.error("rope_scaling", "contradicts rope_parameters, its newer name")
    return parameters


def _refuse_unsupported(file: ConfigFile) -> None:
    activation = file.string("hidden_act", "silu")
    if activation not in ("silu", "swish"):  # two names of one function
        raise UnsupportedModelError(f"{file.path}: hidden_act={shown(activation)}: only 'silu' is implemented")
    rotary = _rotary(file)
    rope_type = rotary.string("rope_type", rotary.string("type", "default"))
    if rope_type != "default":
        raise UnsupportedModelError(f"{file.path}: rope_type={shown(rope_type)}: only 'default' is implemented")
    for section in (file, rotary):
        if section.positive_real("partial_rotary_factor", 1.0) != 1.0:
            raise UnsupportedModelError(f"{file.path}: partial_rotary_factor: only 1 is implemented")
    if file.get("quantization_config") is not None:
        raise UnsupportedModelError(f"{file.path}: quantization_config: quantised weights are not implemented")


def _check_heads(file: ConfigFile, config: ModelConfig) -> None:
    if file.get("head_dim") is None and config.hidden_size % config.num_attention_heads:
        raise file.error("hidden_size", f"must be a multiple of num_attention_heads={config.num_attention_heads}")
    if config.num_attention_heads % config.num_key_value_heads:
        rule = f"must be a multiple of num_key_value_heads={config.num_key_value_heads}"
        raise file.error("num_attention_heads", rule)
    if config.head_dim % 2:
        raise file.error("head_dim", f"must be even, not {config.head_dim}: rotary embeddings turn pairs")


def _special_token_ids(folder: Path, file: ConfigFile, vocab_size: int) -> tuple[int | None, tuple[int, ...]]:
    """The start token and the end tokens; what generation_config.json says wins over config.json."""
    path = folder / "generation_config.json"
    files = [ConfigFile.read(path), file] if path.exists() else [file]
    bos, eos = (
        next((ids for ids in (source.token_ids(key, vocab_size) for source in files) if ids), ())
        for key in ("bos_token_id", "eos_token_id")
    )
    if len(bos) > 1:
        raise file.error("bos_token_id", "must be one token id")
    return (bos[0] if bos else None), eos
