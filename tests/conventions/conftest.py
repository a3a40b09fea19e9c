"""Fixtures: the checkout, and the package's source as syntax trees."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def root():
    """Return the folder of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def trees():
    """Return the syntax tree of every Python file of the package, as {"engine/engine.py": tree}."""
    package = ROOT / "decoding"
    return {path.relative_to(package).as_posix(): ast.parse(path.read_text()) for path in package.rglob("*.py")}
