"""The native forward pass gives the same tokens at the same positions the same bits, in any batch and chunking.

hashes.json names the command that made it.
"""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding.models import load_model
from decoding.sampling.kernel import available_isas, forced_isa

HERE = Path(__file__).parent
HASHES = SimpleNamespace(**runpy.run_path(str(HERE / "make_hashes.py")))
GOLDEN = json.loads((HERE / "hashes.json").read_text())


@pytest.mark.parametrize("dtype", HASHES.DTYPES)
def test_hashes_of_the_bits(recipe: Any, dtype: str, write: Any, runs: Any) -> None:
    """Logits of every family and storage type have the golden hash on every instruction set, with 1 and 2 threads."""
    _check_hashes(write(recipe, dtype), recipe, dtype, runs)


@pytest.mark.parametrize("dtype", HASHES.DTYPES)
def test_hashes_of_a_wide_network(dtype: str, maker: Any, write: Any, runs: Any) -> None:
    """Logits of a network whose sums have more than one piece have the golden hash."""
    recipe = HASHES.recipes(maker)[-1]
    _check_hashes(write(recipe, dtype), recipe, dtype, runs)


def _check_hashes(folder: Path, recipe: Any, dtype: str, runs: Any) -> None:
    for num_threads in (1, 2):
        model = load_model(folder, num_threads=num_threads)
        for isa in available_isas():
            with forced_isa(isa):
                logits = runs.logits(model, recipe.token_ids)
            assert HASHES.hash_of(logits) == GOLDEN["hashes"][recipe.name][dtype], (isa, num_threads)


def test_chunks_and_threads_do_not_change_a_bit(recipe: Any, write: Any, runs: Any) -> None:
    """One to eight threads, with the sequence at once, in chunks or token by token, give the same bits."""
    folder, ids = write(recipe), recipe.token_ids
    whole = runs.logits(load_model(folder, num_threads=1), ids)
    for num_threads, chunks in enumerate(
        ([24], [1] * 24, [7, 1, 9, 3, 4], [23, 1], [16, 8], [17, 7], [2] * 12, [5, 19]), 1
    ):
        found = runs.logits(load_model(folder, num_threads=num_threads), ids, chunks)
        np.testing.assert_array_equal(found, whole, err_msg=f"{num_threads} threads, {chunks}")


def test_other_sequences_do_not_change_a_bit(recipe: Any, write: Any, runs: Any) -> None:
    """In a batch of prompts, chunks and single tokens of 40 sequences each has the bits that it has alone."""
    model, ids = load_model(write(recipe), num_threads=2), recipe.token_ids
    rng = np.random.default_rng(5)
    tables = rng.permutation(80).reshape(40, 2)
    ends = rng.integers(1, 24, 40)
    starts = np.where(np.arange(40) % 3 > 0, ends - 1, rng.integers(0, ends))
    cache = model.new_cache(80)
    past = [runs.Row(ids[:start], 0, table, 24) for start, table in zip(starts, tables, strict=True) if start]
    model.forward(runs.make_batch(*past), cache)
    new = zip(starts, ends, tables, strict=True)
    rows = [runs.Row(ids[start:end], int(start), table, 24) for start, end, table in new]
    found = model.forward(runs.make_batch(*rows), cache)
    whole = runs.logits(model, ids)
    np.testing.assert_array_equal(found, whole[ends - 1])


def test_the_file_has_all_recipes_and_no_other(maker: Any) -> None:
    """The file hashes.json has exactly the recipes, with a hash per storage type."""
    assert list(GOLDEN["hashes"]) == [recipe.name for recipe in HASHES.recipes(maker)]
    assert all(tuple(hashes) == HASHES.DTYPES for hashes in GOLDEN["hashes"].values())
    assert GOLDEN["command"] == HASHES.COMMAND


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory, maker: Any, runs: Any) -> Any:
    """Return the network of make_hashes.WIDE in bfloat16."""
    folder, recipe = tmp_path_factory.mktemp("wide"), HASHES.recipes(maker)[-1]
    runs.write_recipe(folder, maker, recipe, "BF16")
    model, ids = load_model(folder, num_threads=2), recipe.token_ids
    alone = {start: runs.logits(model, ids[start:]) for start in STARTS}
    return SimpleNamespace(folder=folder, model=model, token_ids=ids, alone=alone)


STARTS = (0, 41, 97, 160, 254)
"""Where the sequences of the next test begin in the text, so that their tokens differ."""


@settings(max_examples=20)
@given(data=st.data())
def test_schedules_do_not_change_a_bit(wide: Any, runs: Any, data: st.DataObject) -> None:
    """Sequences of up to 300 tokens have the bits that they have alone, in any chunks, batches and instruction sets."""
    starts = data.draw(st.lists(st.sampled_from(STARTS), min_size=1, max_size=5))
    texts = [wide.token_ids[start : start + data.draw(st.integers(1, 300 - start))] for start in starts]
    lengths = list(map(len, texts))
    order = data.draw(st.permutations(range(19 * len(lengths))))
    tables = [order[19 * index : 19 * index + 19] for index in range(len(lengths))]
    cache, done = wide.model.new_cache(len(order)), [0] * len(lengths)
    while any(a < b for a, b in zip(done, lengths, strict=True)):
        sizes = [data.draw(st.integers(0, length - start)) for start, length in zip(done, lengths, strict=True)]
        if not any(sizes):
            sizes = [length - start for start, length in zip(done, lengths, strict=True)]
        active = [index for index, size in enumerate(sizes) if size]
        rows = [runs.Row(texts[i][done[i] : done[i] + sizes[i]], done[i], tables[i], lengths[i]) for i in active]
        with forced_isa(data.draw(st.sampled_from(available_isas()))):
            found = wide.model.forward(runs.make_batch(*rows, all_logits=True), cache)
        expected = np.concatenate([wide.alone[starts[i]][done[i] : done[i] + sizes[i]] for i in active])
        np.testing.assert_array_equal(found, expected)
        done = [start + size for start, size in zip(done, sizes, strict=True)]


def test_wide_matrices_match_the_reference(wide: Any, runs: Any) -> None:
    """Logits of 300 tokens, more than the window, are close to float64, relative to the largest logit."""
    truth = runs.truth(wide.folder, wide.token_ids)
    found = runs.logits(wide.model, wide.token_ids)
    assert np.abs(found - truth).max() <= 1e-5 * np.abs(truth).max()
