"""Fixtures: the recipes of make_golden.py, their checkpoints, and functions to run networks."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

HERE = Path(__file__).parent
MAKER = SimpleNamespace(**runpy.run_path(str(HERE / "make_golden.py")))
RUNS = SimpleNamespace(**runpy.run_path(str(HERE / "runs.py")))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test with the argument `recipe` for each recipe, and one with `backend` for both backends."""
    if "recipe" in metafunc.fixturenames:
        metafunc.parametrize("recipe", MAKER.recipes(), ids=lambda recipe: recipe.name.replace(" ", "-"))
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", ["native", "numpy"])


@pytest.fixture(scope="session")
def maker() -> SimpleNamespace:
    """Return the functions of make_golden.py."""
    return MAKER


@pytest.fixture(scope="session")
def runs() -> SimpleNamespace:
    """Return the functions of runs.py."""
    return RUNS


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a recipe's checkpoint, in its or another storage type, and returns the folder."""

    def write_recipe(recipe: Any, dtype: str | None = None) -> Path:
        folder = tmp_path / (dtype or "checkpoint")
        folder.mkdir(exist_ok=True)
        RUNS.write_recipe(folder, MAKER, recipe, dtype)
        return folder

    return write_recipe
