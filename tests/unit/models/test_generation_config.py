"""Defaults from generation_config.json: fields of SamplingParams, checked as usual."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from decoding.errors import CheckpointError
from decoding.models.generation_config import generation_defaults
from decoding.params import SamplingParams


def _defaults(folder: Path, values: Any) -> dict[str, Any]:
    (folder / "generation_config.json").write_text(json.dumps(values))
    return generation_defaults(folder)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {}),
        ({"bos_token_id": 1, "eos_token_id": [2, 3], "transformers_version": "5", "max_length": 4096}, {}),
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, {"temperature": 0.6, "top_p": 0.9}),
        ({"do_sample": False, "temperature": 0.6}, {"temperature": 0.0}),
        ({"top_k": 0, "no_repeat_ngram_size": 0, "temperature": None}, {"top_k": None, "no_repeat_ngram_size": None}),
        ({"top_k": 20, "repetition_penalty": 1.05}, {"top_k": 20, "repetition_penalty": 1.05}),
        ({"max_new_tokens": 2048, "min_new_tokens": 1}, {"max_tokens": 2048, "min_tokens": 1}),
    ],
)
def test_sampling_keys_become_sampling_parameters(tmp_path: Path, values: Any, expected: dict[str, Any]) -> None:
    """Sampling keys become fields of SamplingParams; other keys are ignored."""
    assert _defaults(tmp_path, values) == expected
    SamplingParams(**expected)


def test_no_file_gives_no_defaults(tmp_path: Path) -> None:
    """Without the file there are no defaults."""
    assert generation_defaults(tmp_path) == {}


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -1},
        {"temperature": "hot"},
        {"top_p": 2},
        {"top_k": -1},
        {"top_k": []},
        {"max_new_tokens": 0.5},
        [],
    ],
)
def test_invalid_defaults_are_refused(tmp_path: Path, values: Any) -> None:
    """A value out of range, or a file that is no object, raises a CheckpointError that names the file."""
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        _defaults(tmp_path, values)
