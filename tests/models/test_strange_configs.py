"""Every value of every architecture's config.json may be replaced by an unexpected value."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from decoding.errors import DecodingError
from decoding.models import load_model

STRANGE: list[Any] = [None, True, -1, 0, 1, 3, 0.5, -0.0, 5e-324, 1e-37, 3e38, 1e308, float("nan"), float("inf")]
STRANGE += ["8", "", [], [0], {}, {"a": 1}, 2**31 - 1, 2**63, 10**400]


def _changed(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the config with one value replaced, at the top level or in its rotary settings."""
    for key, value in config.items():
        yield from (config | {key: strange} for strange in STRANGE)
        if isinstance(value, dict):
            yield from (config | {key: inner} for inner in _changed(value))


def test_no_value_is_too_strange(recipe: Any, backend: str, maker: Any, runs: Any, tmp_path: Path) -> None:
    """A config with an unexpected value gives a network that runs, or an error of ours, and no warning."""
    maker.write_checkpoint(tmp_path, recipe, {})
    tensors = runs.tensors(tmp_path)
    maker.write_checkpoint(tmp_path, recipe, maker.weights(recipe, tensors.items()))
    refused = 0
    for config in _changed(recipe.config):
        (tmp_path / "config.json").write_text(json.dumps(config))
        try:
            runs.logits(load_model(tmp_path, backend=backend), [0, 1, 2, 3])
        except DecodingError:
            refused += 1
    assert refused > 100
