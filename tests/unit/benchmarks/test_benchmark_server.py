"""Tests of `python -m benchmarks.server`: its client and its figures, against a server with a model of no cost."""

from __future__ import annotations

import asyncio
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def modules() -> Iterator[SimpleNamespace]:
    """Return the benchmark's modules from the checkout."""
    sys.path.insert(0, str(ROOT))
    try:
        names = ("server", "server_client", "server_engine", "soak")
        yield SimpleNamespace(**{name: importlib.import_module(f"benchmarks.{name}") for name in names})
    finally:
        sys.path.remove(str(ROOT))


def test_every_figure_is_measured(modules: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each bound has a figure, measured on real servers, and a line in the table."""
    monkeypatch.chdir(ROOT)
    sizes = {"STREAMS": 4, "TOKENS": 5, "ROUNDS": 2, "MANY": 8, "MANY_TOKENS": 100, "LARGE_PROMPTS": 2, "LARGE_N": 20}
    sizes |= {"SLOW_READERS": 9, "HALF_BODIES": 3, "FLOOD": 60, "ALONE": 4}
    for name, value in sizes.items():
        monkeypatch.setattr(modules.server, name, value)
    figures = modules.server.measure("")
    assert set(modules.server.BOUNDS) <= set(figures)
    assert figures["errors of 1,000 streams"] == 0
    assert figures["flood: served"] + figures["flood: refused"] == 60
    assert modules.server.table(figures).count("<=") == len(modules.server.BOUNDS)


def test_ratios_to_a_peer(modules: Any) -> None:
    """A ratio is our figure over the peer's in the same unit."""
    ours = {"first token, ms": 4.0, "tokens/s, 32 streams": 300.0}
    beside = modules.server.compared(ours, {"tokens/s": 100.0, "first": 0.008, "p99": 2.0})
    assert (beside["  ours / peer's"], beside["  ours / peer's, less is better"]) == (3.0, 0.5)


def test_gaps_are_between_events(modules: Any) -> None:
    """Gaps are the times between events, and the p99 is reported over the median."""
    arrivals = modules.server_client.Arrivals(times=[1.0, 1.5, 3.0])
    assert arrivals.gaps == [0.5, 1.5]
    assert modules.server.p99_over_median([1.0] * 99 + [1.0]) == 1.0


def test_the_soak_counts(modules: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Two seconds of the soak test serve requests without errors, sample the server's resources and draw a plot."""
    found = modules.server.run_soak("", 2.0, None)
    assert sum(found["counts"].values()) > 1
    assert sum(found["bad"].values()) == 0
    samples = found["samples"]
    assert [one["seconds"] for one in samples] == sorted(one["seconds"] for one in samples)
    assert all(one["rss"] > 10 and one["threads"] > 1 and one["files"] > 1 for one in samples)
    assert re.search(r"requests, 0 bad; \S+ MiB, \d+ threads, \d+ files\n.*bad: none", capsys.readouterr().out)
    pytest.importorskip("matplotlib", reason="needs the extra `bench`")
    modules.soak.plot(found, str(tmp_path / "soak.svg"))
    assert "resident memory" in (tmp_path / "soak.svg").read_text() or (tmp_path / "soak.svg").stat().st_size > 1000


def test_growth_is_the_slope_after_the_warm_up(modules: Any) -> None:
    """Growth is the slope of the memory after the first quarter, in MiB per hour."""
    samples = [{"seconds": 60.0 * i, "rss": 100.0 + max(i, 30) - 50 * (i < 20)} for i in range(121)]
    assert modules.soak.growth(samples) == pytest.approx(60.0)


def test_the_engine_alone(modules: Any) -> None:
    """The measurement without a server counts the same tokens, CPU time and gaps."""
    found = asyncio.run(modules.server_engine._measure("", 2, 4, 3))
    assert (found["tokens"], [len(gaps) for gaps in found["gaps"]]) == (24, [6, 6, 6])
    assert found["cpu"] > 0
