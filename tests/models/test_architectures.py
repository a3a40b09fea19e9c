"""Every architecture against float64 logits of transformers; weights follow from a seed.

golden.json names the command that made them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decoding.models import load_model
from decoding.models.registry import ARCHITECTURES

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "golden.json").read_text())
LOGITS = np.load(HERE / "golden.npz")
TOLERANCE = 5e-5  # float32 reaches 5e-6


@pytest.fixture
def folder(recipe: Any, maker: Any, runs: Any, write: Any) -> Path:
    """Return the checkpoint of a recipe. Assert that its tensor names and shapes are transformers'."""
    folder: Path = write(recipe)
    assert maker.digest(runs.tensors(folder).items()) == GOLDEN["tensors"][recipe.name]
    return folder


def test_logits_equal_transformers(recipe: Any, backend: str, folder: Path, maker: Any, runs: Any) -> None:
    """The logits of both backends are transformers', and the reference's."""
    logits = runs.logits(load_model(folder, backend=backend), recipe.token_ids)
    np.testing.assert_allclose(logits[maker.KEPT], LOGITS[recipe.name], atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(logits, runs.truth(folder, recipe.token_ids), atol=TOLERANCE, rtol=0)


def test_the_float64_reference_equals_transformers(recipe: Any, folder: Path, maker: Any, runs: Any) -> None:
    """The float64 reference differs from transformers only by its float32 norms, angles and softmax."""
    logits = runs.truth(folder, recipe.token_ids)
    assert logits.dtype == np.float64
    np.testing.assert_allclose(logits[maker.KEPT], LOGITS[recipe.name], atol=4e-6, rtol=0)


def test_chunks_of_a_sequence_in_the_reference(recipe: Any, folder: Path, runs: Any) -> None:
    """In the numpy backend a sequence has the same logits at once, in chunks and token by token."""
    model = load_model(folder, backend="numpy")
    whole = runs.logits(model, recipe.token_ids)
    for chunks in ([1] * 24, [7, 1, 9, 3, 4], [23, 1]):
        found = runs.logits(model, recipe.token_ids, chunks)
        np.testing.assert_allclose(found, whole, atol=TOLERANCE, rtol=0)


def test_sequences_in_one_batch_of_the_reference(recipe: Any, folder: Path, runs: Any) -> None:
    """In the numpy backend each sequence of a mixed batch has the logits that it has alone."""
    model, ids = load_model(folder, backend="numpy"), recipe.token_ids
    cache, tables = model.new_cache(9), [[8, 1], [3], [2, 0], [5, 4], [6]]
    first = [runs.Row(ids[:end], 0, table, end) for table, end in zip(tables, (17, 5, 19, 11), strict=False)]
    model.forward(runs.make_batch(*first), cache)
    spans = [(tables[0], 17, 18), (tables[4], 0, 9), (tables[3], 11, 16), (tables[1], 5, 6)]
    rows = [runs.Row(ids[start:end], start, table, start or end) for table, start, end in spans]
    logits = model.forward(runs.make_batch(*rows), cache)
    for found, row in zip(logits, rows, strict=True):
        end = row.start + len(row.token_ids)
        chunks = [row.start, end - row.start] if row.start else []
        alone = runs.logits(model, ids[:end], chunks, rope_length=row.rope_length)[-1]
        np.testing.assert_allclose(found, alone, atol=TOLERANCE, rtol=0)


def test_the_file_has_all_recipes_and_no_other(maker: Any) -> None:
    """Each architecture has a recipe, and golden.npz has the logits of exactly these recipes."""
    recipes = maker.recipes()
    assert list(GOLDEN["tensors"]) == [recipe.name for recipe in recipes] == list(LOGITS)
    assert {recipe.config["model_type"] for recipe in recipes} == ARCHITECTURES.keys() - {"gemma3"}
    assert GOLDEN["command"] == maker.COMMAND
