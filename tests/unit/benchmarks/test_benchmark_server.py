"""`python -m benchmarks.server`: its client and its figures, against a server whose model costs nothing."""

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
    """The benchmark's modules, from the checkout."""
    sys.path.insert(0, str(ROOT))
    try:
        names = ("server", "server_client", "server_engine")
        yield SimpleNamespace(**{name: importlib.import_module(f"benchmarks.{name}") for name in names})
    finally:
        sys.path.remove(str(ROOT))


def test_every_figure_is_measured(modules: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few streams against real servers: each bound has its figure, and the table says whether it holds."""
    monkeypatch.chdir(ROOT)
    for name, value in {"STREAMS": 4, "TOKENS": 5, "ROUNDS": 2, "MANY": 8, "MANY_TOKENS": 100}.items():
        monkeypatch.setattr(modules.server, name, value)
    figures = modules.server.measure("")
    assert set(modules.server.BOUNDS) <= set(figures)
    assert figures["errors of 1,000 streams"] == 0
    assert figures["flood: served"] + figures["flood: refused"] == 400
    assert modules.server.table(figures).count("<=") == len(modules.server.BOUNDS)


def test_ratios_to_a_peer(modules: Any) -> None:
    """Ours over the peer's, in the same unit."""
    ours = {"first token, ms": 4.0, "tokens/s, 32 streams": 300.0}
    beside = modules.server.compared(ours, {"tokens/s": 100.0, "first": 0.008, "p99": 2.0})
    assert (beside["  ours / peer's"], beside["  ours / peer's, less is better"]) == (3.0, 0.5)


def test_gaps_are_between_events(modules: Any) -> None:
    """One fewer than events; the slowest hundredth over the median."""
    arrivals = modules.server_client.Arrivals(times=[1.0, 1.5, 3.0])
    assert arrivals.gaps == [0.5, 1.5]
    assert modules.server.p99_over_median([1.0] * 99 + [1.0]) == 1.0


def test_the_soak_counts(modules: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A second of it: streams were served, none was bad."""
    modules.server.soak("", 1.0)
    found = re.fullmatch(r"(\d+) streams, 0 bad; (\S+) MiB, (\d+) threads, (\d+) files\n", capsys.readouterr().out)
    assert found
    assert all(float(one) > 1 for one in found.groups())


def test_the_engine_alone(modules: Any) -> None:
    """The same requests without a server: as many tokens, CPU time, gaps."""
    found = asyncio.run(modules.server_engine._measure("", 2, 4, 3))
    assert (found["tokens"], [len(gaps) for gaps in found["gaps"]]) == (24, [6, 6, 6])
    assert found["cpu"] > 0
