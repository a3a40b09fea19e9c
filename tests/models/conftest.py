"""The recipes of make_golden.py, and running a network on one sequence in several ways."""

from __future__ import annotations

import runpy
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from decoding.models import ForwardBatch, Transformer, load_config, products
from decoding.models.registry import ARCHITECTURES
from decoding.models.weights import stored_tensors

MAKER = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("make_golden.py"))))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for a recipe runs with each."""
    if "recipe" in metafunc.fixturenames:
        metafunc.parametrize("recipe", MAKER.recipes(), ids=lambda recipe: recipe.name.replace(" ", "-"))


@pytest.fixture(autouse=True)
def _blocks_of_small_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny networks are multiplied as large ones are."""
    monkeypatch.setattr(products, "_LEAST_SIZE", 0)


@pytest.fixture(scope="session")
def maker() -> SimpleNamespace:
    """make_golden.py's functions."""
    return MAKER


class Runs:
    """What tests do with networks."""

    @staticmethod
    def tensors(folder: Path) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the tensors that the config in `folder` asks for."""
        config = load_config(folder)
        layout = ARCHITECTURES[config.model_type].layout(config)
        return dict(stored_tensors(config, layout, layout.prefixes[0], layout.heads[0]))

    @staticmethod
    def logits(model: Transformer, token_ids: Sequence[int], chunks: Sequence[int] = ()) -> NDArray[np.float32]:
        """Logits of every token, [tokens, vocab], fed in chunks of the given sizes; all at once without any."""
        cache, rows, start = model.new_cache(1), [], 0
        for size in chunks or [len(token_ids)]:
            new = np.array(token_ids[start : start + size], np.int32)
            batch = ForwardBatch(new, np.array([0]), np.array([size]), np.array([start]), all_logits=True)
            rows.append(model.forward(batch, cache))
            start += size
        return np.concatenate(rows)


@pytest.fixture(scope="session")
def runs() -> Any:
    """What tests do with networks."""
    return Runs
