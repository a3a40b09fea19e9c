"""Every value of config.json and tokenizer.json may be replaced by an unexpected value."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from decoding import LLM, DecodingError, SamplingParams
from decoding.errors import TokenizerError
from decoding.text.tokenizer import Tokenizer
from decoding.text.tokenizer_config import TokenizerConfig

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
STRANGE: list[Any] = [None, True, -1, 0, 1, 3, 7, 1.5, -0.0, 5e-324, 1e308, float("nan"), float("inf")]
STRANGE += ["x", "", [], [0], {}, {"a": 1}, 2**31 - 1, 2**31, 2**63, 2**64, 10**400]
KEYS = [
    "attention_bias",
    "bos_token_id",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "mlp_bias",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "partial_rotary_factor",
    "quantization_config",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "torch_dtype",
    "vocab_size",
]


@pytest.mark.parametrize("key", KEYS)
def test_no_value_of_a_config_is_too_strange(shared: Path, tmp_path: Path, key: str) -> None:
    """A config with an unexpected value gives a model that completes, or an error of ours."""
    folder = Path(shutil.copytree(shared / "models" / "stories260K", tmp_path / "model", copy_function=shutil.copyfile))
    (folder / "generation_config.json").unlink()  # its token ids would take precedence
    values = json.loads((folder / CONFIG).read_text())
    rotary = values.pop("rope_parameters")
    refused = 0
    for value in STRANGE:
        section = rotary | {key: value} if key in ("rope_theta", "partial_rotary_factor") else rotary
        (folder / CONFIG).write_text(json.dumps(values | {"rope_parameters": section, key: value}))
        try:
            LLM(folder).complete("a", SamplingParams(max_tokens=2, seed=1))
        except DecodingError:
            refused += 1
    assert refused > 0 or key in ("torch_dtype", "sliding_window")


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each value in a JSON value; long lists and objects contribute 20 entries."""
    if path:
        yield path
    entries: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        entries = list(value.items())
    elif isinstance(value, list):
        entries = list(enumerate(value))
    for key, inner in entries[:20]:
        yield from _paths(inner, (*path, key))


@pytest.mark.parametrize("name", ["tokenizers/phi-3", "models/stories260K"])
def test_no_value_of_a_tokenizer_is_too_strange(shared: Path, name: str) -> None:
    """A tokenizer.json with an unexpected value gives a tokenizer that works, or a TokenizerError."""
    values = json.loads((shared / name / TOKENIZER).read_text())
    kept = {text: index for text, index in values["model"]["vocab"].items() if index < 300}
    values["model"] |= {"vocab": kept, "merges": []}
    values["added_tokens"] = values["added_tokens"][:1]
    values["pre_tokenizer"] = {"type": "Split", "pattern": {"Regex": "a+"}, "behavior": "Isolated", "invert": False}
    texts, refusals = set[str](), 0
    for path in _paths(values):
        changed = json.loads(json.dumps(values))
        holder = functools.reduce(lambda inner, key: inner[key], path[:-1], changed)
        for value in STRANGE:
            holder[path[-1]] = value
            try:
                tokenizer = Tokenizer(json.dumps(changed).encode(), TokenizerConfig({"bos_token": "<s>"}))
                texts.add(tokenizer.decode(tokenizer.encode("ab <s> é")))
                tokenizer.encode("ab", at_start=False)
            except TokenizerError:
                refusals += 1
    assert refusals > 0
    assert len(texts) > 1
