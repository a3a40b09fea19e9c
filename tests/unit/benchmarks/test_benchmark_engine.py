"""Tests of `python -m benchmarks.engine` on a tiny network: its measurements and its report."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Return the benchmark's module from the checkout, with a tiny network and small sizes."""
    sys.path.insert(0, str(ROOT))
    try:
        module = importlib.import_module("benchmarks.engine")
        shapes = importlib.import_module("benchmarks.shapes")
        monkeypatch.setitem(shapes.NETWORKS, "15M", shapes.Network(16, 2, 2, 1, 24, 4096))
        for name, value in {"STREAMS": 3, "PROMPT": 64, "CANDIDATES": 4, "TOKENS": 3, "LOADS": (0.5,)}.items():
            monkeypatch.setattr(module, name, value)
        monkeypatch.setattr(module.own_cost, "__defaults__", (3, False, 5))
        monkeypatch.setattr(module.poisson, "__defaults__", (6,))
        yield module
    finally:
        sys.path.remove(str(ROOT))


def test_it_runs_and_reports(engine: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every figure is in the file and in the text, and the figures that follow from counting are right."""
    assert engine.main(["--folder", str(tmp_path / "network"), "--json", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    steps = [(step["num_sequences"], step["is_streamed"], step["steps_in_a_row"]) for step in found["steps"]]
    assert steps == [(1, False, 8), (1, True, 1), (3, False, 8), (3, True, 1)]
    assert all(0 < step["own_ms"] < step["step_ms"] for step in found["steps"])
    assert found["sharing"]["prompt_tokens"] == 64
    assert found["prefix"]["ratio"] > 0
    assert [one["load"] for one in found["poisson"]] == [0.5]
    assert found["poisson"][0]["first_token_ms_p50"] <= found["poisson"][0]["first_token_ms_p99"]
    assert [one["drafts"] for one in found["speculation"]] == ["none", "prompt_lookup"]
    assert "us per sequence" in capsys.readouterr().out


def test_stops(engine: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m benchmarks.stops` prints one line per text, none of which ends at a stop string."""
    stops = importlib.import_module("benchmarks.stops")
    monkeypatch.setattr(stops, "NUM_CHARACTERS", 3000)
    assert stops.main() == 0
    lines = capsys.readouterr().out.splitlines()
    for name in stops.cases():
        (line,) = [line for line in lines if line.startswith(name + "  ")]
        assert [float(number) >= 0 for number in line.removeprefix(name).split()] == [True] * 4
