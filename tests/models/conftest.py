"""The recipes of make_golden.py, their checkpoints, and running networks on them."""

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
    """A test that asks for a recipe runs with each; one that asks for a backend runs with both."""
    if "recipe" in metafunc.fixturenames:
        metafunc.parametrize("recipe", MAKER.recipes(), ids=lambda recipe: recipe.name.replace(" ", "-"))
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", ["native", "numpy"])


@pytest.fixture(scope="session")
def maker() -> SimpleNamespace:
    """make_golden.py's functions."""
    return MAKER


@pytest.fixture(scope="session")
def runs() -> SimpleNamespace:
    """The functions of runs.py."""
    return RUNS


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write the checkpoint of a recipe, or the same in another storage type, and return its folder."""

    def write_recipe(recipe: Any, dtype: str | None = None) -> Path:
        folder = tmp_path / (dtype or "checkpoint")
        folder.mkdir(exist_ok=True)
        RUNS.write_recipe(folder, MAKER, recipe, dtype)
        return folder

    return write_recipe
