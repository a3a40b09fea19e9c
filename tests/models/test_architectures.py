"""Every architecture against the logits that transformers computed in float64; weights are made again from a seed.

golden.json says which command made them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decoding.models import ForwardBatch, load_model
from decoding.models.registry import ARCHITECTURES

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "golden.json").read_text())
LOGITS = np.load(HERE / "golden.npz")
TOLERANCE = 2e-5  # float32 comes to 5e-6


@pytest.fixture
def model(recipe: Any, maker: Any, runs: Any, tmp_path: Path) -> Any:
    """The network of a recipe, of tensors that carry the names that we expect."""
    maker.write_checkpoint(tmp_path, recipe, {})
    tensors = runs.tensors(tmp_path)
    assert maker.digest(tensors.items()) == GOLDEN["tensors"][recipe.name]
    maker.write_checkpoint(tmp_path, recipe, maker.weights(recipe, tensors.items()))
    return load_model(tmp_path)


def test_logits_are_those_of_transformers(recipe: Any, model: Any, maker: Any, runs: Any) -> None:
    """Names and shapes of all tensors are transformers' own, and so are the logits."""
    logits = runs.logits(model, recipe.token_ids)[maker.KEPT]
    np.testing.assert_allclose(logits, LOGITS[recipe.name], atol=TOLERANCE, rtol=0)


def test_token_by_token_is_as_all_at_once(recipe: Any, model: Any, runs: Any) -> None:
    """The last token has the same logits whether the sequence came whole, in chunks, or a token at a time.

    Beyond the windows and beyond the lengths where longrope changes its frequencies; "dynamic" has other frequencies
    with every length, and keeps the keys that it has.
    """
    if "dynamic" in recipe.name:
        pytest.skip("dynamic scaling depends on how a sequence is fed, in transformers too")
    whole = runs.logits(model, recipe.token_ids)[-1]
    for chunks in ([1] * 24, [7, 1, 9, 3, 4], [23, 1]):
        np.testing.assert_allclose(runs.logits(model, recipe.token_ids, chunks)[-1], whole, atol=TOLERANCE, rtol=0)


def test_sequences_of_unequal_lengths_in_one_batch(recipe: Any, model: Any, runs: Any) -> None:
    """Prompts, chunks and single tokens of several sequences together, in slots with gaps: each as if alone."""
    ids = np.array(recipe.token_ids, np.int32)
    cache = model.new_cache(9)
    first = [(8, 5), (1, 11), (4, 17), (5, 3)]
    model.forward(_batch(ids, [(slot, 0, end) for slot, end in first]), cache)
    rows = [(slot, end, end + 1) for slot, end in first[:3]] + [(2, 0, 9), (5, 3, 8), (7, 0, 2)]
    logits = model.forward(_batch(ids, rows), cache)
    for row, (slot, start, end) in zip(logits, rows, strict=True):
        chunks = [end] if slot in (2, 7) else [start, end - start]
        np.testing.assert_allclose(row, runs.logits(model, ids[:end], chunks)[-1], atol=TOLERANCE, rtol=0)


def _batch(ids: Any, rows: list[tuple[int, int, int]]) -> ForwardBatch:
    """Rows of (slot, start, end), all of the same text."""
    slots, starts, ends = map(np.array, zip(*rows, strict=True))
    new = np.concatenate([ids[start:end] for _, start, end in rows])
    return ForwardBatch(new, slots, ends - starts, starts)


def test_the_file_has_all_recipes_and_no_other(maker: Any) -> None:
    """Each architecture that can be loaded has a recipe, and each recipe its logits."""
    recipes = maker.recipes()
    assert list(GOLDEN["tensors"]) == [recipe.name for recipe in recipes] == list(LOGITS)
    assert {recipe.config["model_type"] for recipe in recipes} == ARCHITECTURES.keys() - {"gemma3"}
    assert GOLDEN["command"] == maker.COMMAND
