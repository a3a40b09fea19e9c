"""Rotary factors that depend on the length: dynamic NTK and LongRoPE on both sides of their border.

The token at position p has the factors of max(rope_length, p + 1); rope_length is the length of the prompt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decoding.models import load_model

BORDER = 32
IDS = [int(token_id) for token_id in np.random.default_rng(3).integers(3, 32, 60)]
DYNAMIC = {"max_position_embeddings": BORDER, "rope_parameters": {"rope_type": "dynamic", "factor": 4.0}}
LONG = {
    "rope_parameters": {
        "rope_type": "longrope",
        "original_max_position_embeddings": BORDER,
        "short_factor": [1.0, 1.1, 1.3, 1.2],
        "long_factor": [2.0, 2.5, 5.0, 9.0],
    }
}


@pytest.fixture
def folder(rope: dict[str, Any], maker: Any, runs: Any, tmp_path: Path) -> Path:
    """Return the checkpoint of a small Llama with a border of 32 tokens."""
    config = {"model_type": "llama", **maker.SIZES, **rope}
    config["rope_parameters"] = {"rope_theta": 10000.0, **config["rope_parameters"]}
    runs.write_recipe(tmp_path, maker, maker.Recipe("llama", config))
    return tmp_path


@pytest.mark.parametrize("rope", [DYNAMIC, LONG], ids=["dynamic", "longrope"])
@pytest.mark.parametrize("chunks", [[16, 16, 16], [33, 15], [31, 1, 1, 15], [1] * 48])
def test_a_scored_prompt_in_chunks_equals_one_pass(backend: str, folder: Path, runs: Any, chunks: list[int]) -> None:
    """A scored prompt beyond the border has the logits of one pass if it is computed in chunks."""
    model, prompt = load_model(folder, backend=backend), IDS[:48]
    whole = runs.logits(model, prompt)
    np.testing.assert_allclose(whole, runs.truth(folder, prompt), atol=5e-5, rtol=0)
    np.testing.assert_allclose(runs.logits(model, prompt, chunks), whole, atol=1e-5, rtol=0)
    by_chunk = runs.logits(model, prompt, chunks, rope_length=1)  # with factors that follow from the end of a chunk
    assert np.abs(by_chunk[:31] - whole[:31]).max() > 0.1


@pytest.mark.parametrize("rope", [DYNAMIC], ids=["dynamic"])
def test_draft_tokens_have_the_factors_of_plain_decoding(backend: str, folder: Path, runs: Any) -> None:
    """Four draft tokens per step across the border have the logits of one token per step."""
    model = load_model(folder, backend=backend)
    one_by_one = runs.logits(model, IDS, [20] + [1] * 40, rope_length=20)
    drafted = runs.logits(model, IDS, [20] + [4] * 10, rope_length=20)
    np.testing.assert_allclose(drafted, one_by_one, atol=1e-5, rtol=0)
    assert np.abs(runs.logits(model, IDS)[-1] - one_by_one[-1]).max() > 0.1


@pytest.mark.parametrize("rope", [DYNAMIC, LONG], ids=["dynamic", "longrope"])
def test_prompts_on_both_sides_of_the_border_share_nothing(backend: str, folder: Path, runs: Any) -> None:
    """Keys of prompts on both sides of the border differ, and so does their rope_regime; equal regimes may share."""
    model, cache = load_model(folder, backend=backend), None
    assert model.rope_regime(48) != model.rope_regime(20) == model.rope_regime(BORDER) == 0
    cache = model.new_cache(4)
    model.forward(runs.make_batch(runs.Row(IDS[:48], 0, [0, 1, 2], 48)), cache)
    alone = runs.logits(model, IDS[:20])[-1]
    wrong = model.forward(runs.make_batch(runs.Row(IDS[16:20], 16, [0, 3], 20)), cache)[0]
    assert np.abs(wrong - alone).max() > 0.1  # logits with a shared first block
    model.forward(runs.make_batch(runs.Row(IDS[:30], 0, [0, 1], 30)), cache)
    right = model.forward(runs.make_batch(runs.Row(IDS[16:20], 16, [0, 3], 20)), cache)[0]
    np.testing.assert_allclose(right, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rope", [LONG], ids=["longrope"])
def test_a_sequence_that_outgrows_the_border_is_computed_again(backend: str, folder: Path, runs: Any) -> None:
    """A sequence that passes rope_border and is computed again has the logits of one pass."""
    model = load_model(folder, backend=backend)
    assert model.rope_border == BORDER
    kept = runs.logits(model, IDS[:33], [20] + [1] * 13, rope_length=20)
    whole = runs.logits(model, IDS[:33])
    np.testing.assert_allclose(kept[:20], runs.logits(model, IDS[:20]), atol=1e-5, rtol=0)
    assert np.abs(kept[-1] - whole[-1]).max() > 0.1
    again = runs.logits(model, IDS[:33], [16, 17], rope_length=33)
    np.testing.assert_allclose(again, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rope", [DYNAMIC], ids=["dynamic"])
def test_dynamic_never_recomputes_keys(backend: str, folder: Path) -> None:
    """Dynamic NTK has no rope_border, so keys are never computed again."""
    model = load_model(folder, backend=backend)
    assert model.rope_border is None
    assert model.rope_regime(33) != model.rope_regime(34)


@pytest.mark.parametrize("rope", [DYNAMIC, LONG], ids=["dynamic", "longrope"])
def test_such_a_model_has_single_steps(folder: Path) -> None:
    """The native model does not run steps in a row where a position's factors depend on the length."""
    model: Any = load_model(folder)
    assert model.max_steps(1) == 1
