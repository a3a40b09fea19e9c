"""Published config.json files of well-known models, with smaller sizes: every key is known or harmless."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decoding.errors import UnsupportedModelError
from decoding.models import load_config, load_model

PUBLISHED = json.loads(Path(__file__).with_name("published.json").read_text())
QUANTIZED = [{"bits": 4, "quant_method": "gptq"}, {"load_in_4bit": True, "quant_method": "bitsandbytes"}]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_read(name: str, backend: str, maker: Any, runs: Any, tmp_path: Path) -> None:
    """A network with a published config gives finite logits; test_against_transformers.py compares them."""
    recipe = maker.Recipe(name, PUBLISHED[name])
    maker.write_checkpoint(tmp_path, recipe, {})
    tensors = runs.tensors(tmp_path)
    maker.write_checkpoint(tmp_path, recipe, maker.weights(recipe, tensors.items()))
    assert np.isfinite(runs.logits(load_model(tmp_path, backend=backend), recipe.token_ids)).all()


@pytest.mark.parametrize("quantization", QUANTIZED)
def test_quantised_weights_are_refused(quantization: dict[str, Any], tmp_path: Path) -> None:
    """A config with quantization_config is an error that names this key."""
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED["TinyLlama"] | {"quantization_config": quantization}))
    with pytest.raises(UnsupportedModelError, match="quantization_config"):
        load_config(tmp_path)


@pytest.mark.parametrize("kind", ["cohere", "mixtral", "falcon", "t5"])
def test_other_architectures_are_refused(kind: str, tmp_path: Path) -> None:
    """An unknown architecture is an error that lists the known ones."""
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED["TinyLlama"] | {"model_type": kind}))
    with pytest.raises(UnsupportedModelError, match=rf"{kind}.*'gemma2'.*'smollm3'"):
        load_config(tmp_path)
