"""Tests of `python -m benchmarks.decode` on a tiny network: its measurements and its table."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from decoding.models import ForwardBatch, load_model

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def modules() -> Iterator[SimpleNamespace]:
    """Return the benchmark's modules from the checkout, with a tiny network added."""
    sys.path.insert(0, str(ROOT))
    try:
        names = ("decode", "decode_tables", "engines", "shapes")
        found = {name: importlib.import_module(f"benchmarks.{name}") for name in names}
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(found["shapes"].NETWORKS, "tiny", found["shapes"].Network(16, 2, 2, 1, 24, 50))
            yield SimpleNamespace(**found)
    finally:
        sys.path.remove(str(ROOT))


class Fake:
    """A worker that answers at once with a fixed rate."""

    pid = -1

    def __init__(self, engine: str, rate: float) -> None:
        self.engine, self._rate, self.jobs = engine, rate, list[Any]()

    def rate(self, job: Any) -> float:
        """Return the fixed rate."""
        self.jobs.append(job)
        return self._rate


def _options(**changes: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"rounds": 3, "seconds": 0.1, "quiet": None, **changes})


def test_the_command_measures_prints_and_writes(
    modules: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command measures a rate per engine, job and round, prints the table and writes the JSON."""
    monkeypatch.chdir(ROOT)
    ours = ["decoding", "LLM", "read pass"]
    monkeypatch.setattr(modules.decode, "installed", lambda: ours)
    monkeypatch.setitem(modules.shapes.NETWORKS, "15M", modules.shapes.Network(16, 2, 2, 1, 24, 4096))
    arguments = ["--rounds", "2", "--seconds", "0", "--folder", str(tmp_path), "--json", str(tmp_path / "found.json")]
    assert modules.decode.main([*arguments, "--size", "15M", "--type", "bfloat16"]) == 0
    figures = json.loads((tmp_path / "found.json").read_text())["figures"]
    assert [figure["job"] for figure in figures] == ["prefill 512", "decode 1", "decode 8", "decode 32"]
    for figure in figures:
        assert list(figure["rates"]) == ours
        assert len(figure["others"]) == 2
        for engine, rates in figure["rates"].items():
            assert len(rates) == 2
            assert all(rate > 0 for rate in rates) == (engine != "read pass" or figure["job"] == "decode 1")
    printed = capsys.readouterr().out
    assert "15M bfloat16" in printed
    assert "  decode 32" in printed


def test_every_engine_runs_every_job_in_every_round(modules: Any) -> None:
    """Every engine runs every job in every round, after one warm-up round that is not counted."""
    workers = [Fake("decoding", 6.0), Fake("peer", 3.0)]
    figures = modules.decode.measure(modules.decode.Case("tiny", "float32", {}), workers, _options())
    assert [figure["job"] for figure in figures] == list(modules.decode.jobs(0.1))
    assert all(figure["rates"] == {"decoding": [6.0] * 3, "peer": [3.0] * 3} for figure in figures)
    assert [len(worker.jobs) for worker in workers] == [16, 16]
    assert [job["seconds"] for job in workers[0].jobs] == [0.0] * 4 + [0.1] * 12


def test_noisy_rounds_are_repeated(modules: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --quiet a round is repeated if other processes took more CPU than that, and their share is recorded."""
    taken = iter([9.0] * 4 + [2.0, 0.3, 2.0, 2.0, 0.4, 0.1, 0.2])
    others = SimpleNamespace(begin=lambda: None, taken=lambda: next(taken))
    monkeypatch.setattr(modules.decode, "Others", lambda workers: others)
    worker = Fake("decoding", 1.0)
    figures = modules.decode.measure(modules.decode.Case("tiny", "q8_0", {}), [worker], _options(rounds=1, quiet=0.5))
    assert [figure["others"] for figure in figures] == [[0.3], [0.4], [0.1], [0.2]]
    assert len(worker.jobs) == 4 + 7


def test_the_table_holds_ratios_against_bounds(modules: Any) -> None:
    """The table's ratio is the median of the rounds' ratios, and is reported as met or missed."""
    figures = [
        {"network": "15M", "type": "float32", "job": job, "rates": rates, "others": [0.25, 0.35]}
        for job, rates in (
            ("decode 1", {"LLM": [10.0, 900.0, 30.0], "llama.cpp": [5.0, 1000.0, 10.0], "transformers": [1.0] * 3}),
            ("decode 32", {"LLM": [14.0] * 3, "llama.cpp": [10.0] * 3, "transformers": [7.0] * 3}),
        )
    ]
    *_, one, many = modules.decode_tables.case_lines(figures)
    assert " ".join(one.split()[2:]).startswith(
        "30.0 (0.33..30.00) 10.0 (0.50..100.00) 1.0 (1.00..1.00) 2.00x met 1.3x"
    )
    assert "1.40x MISSED 2x" in many
    assert "2.00x met 2x" in many
    lines = list(modules.decode_tables.tail({"engines": {"LLM": "1.0"}, "figures": figures}))
    assert lines[2:] == ["bounds: 2 met, 1 missed", "  15M float32, decode 32: LLM 1.40x llama.cpp instead of 2x"]


def test_the_plot(modules: Any, tmp_path: Path) -> None:
    """The plot is written as a PNG file."""
    pytest.importorskip("matplotlib")
    rates = {"decoding": [2.0], "peer": [1.0]}
    figures = [{"network": "15M", "type": "q8_0", "job": "prefill 512", "rates": rates, "others": [0.0]}]
    modules.decode_tables.plot(
        {"engines": {"decoding": "1", "peer": "2"}, "figures": figures}, str(tmp_path / "plot.png")
    )
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("size", "millions"), [("15M", 15.2), ("110M", 109.5), ("500M", 494.0)])
def test_networks_have_the_sizes_of_their_names(modules: Any, size: str, millions: float) -> None:
    """Each network has the number of weights in its name, in millions."""
    assert modules.shapes.NETWORKS[size].num_weights / 1e6 == pytest.approx(millions, abs=0.05)


def test_checkpoints_can_be_loaded(modules: Any, tmp_path: Path) -> None:
    """A written checkpoint can be loaded, and a second call does not write it again."""
    modules.shapes.write_checkpoint(tmp_path / "tiny", modules.shapes.NETWORKS["tiny"])
    written = (tmp_path / "tiny" / "model.safetensors").stat()
    model, one = load_model(tmp_path / "tiny"), np.ones(1, np.int32)
    batch = ForwardBatch(np.arange(5, dtype=np.int32), 5 * one, 0 * one, [0 * one], 0 * one, 4 * one)
    assert np.ptp(model.forward(batch, model.new_cache(1))) > 0
    modules.shapes.write_checkpoint(tmp_path / "tiny", modules.shapes.NETWORKS["tiny"])
    assert (tmp_path / "tiny" / "model.safetensors").stat().st_mtime_ns == written.st_mtime_ns


def test_every_tensor_has_a_name_in_llama_cpp(modules: Any) -> None:
    """Every tensor has a distinct GGUF name."""
    names = [modules.shapes._gguf_name(name) for name, _ in modules.shapes.NETWORKS["tiny"].tensors()]
    assert len(set(names)) == len(names) == 2 + 2 * 9
    assert {"token_embd.weight", "output_norm.weight", "blk.1.attn_q.weight", "blk.0.ffn_norm.weight"} <= set(names)


def test_a_rate_counts_at_least_two_calls(modules: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate is measured over at least two calls, and at most the given time or number of calls."""
    clock = iter(range(100))
    monkeypatch.setattr(modules.engines, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    calls = list[int]()
    assert modules.engines.per_second(lambda: calls.append(1), 0.0, 10) == pytest.approx(1.0)
    assert len(calls) == 2
    modules.engines.per_second(lambda: calls.append(1), 1e9, 7)
    assert len(calls) == 9
