"""Tests of benchmarks.accuracy --model: the divergence, and the table for a GGUF file."""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.forward_accuracy import divergence, report

TESTS = Path(__file__).parents[2]
CONTAINER = SimpleNamespace(**runpy.run_path(str(TESTS / "gguf_container.py")))


def test_divergence_of_known_distributions() -> None:
    """KL of (1/2, 1/2) from (1/4, 3/4) is ln(4/3) / 2, and shifted logits have a divergence of 0."""
    exact = np.log(np.array([[0.5, 0.5], [0.25, 0.75]]))
    other = np.log(np.array([[0.25, 0.75], [0.25, 0.75]])).astype(np.float32) + np.float32(3)
    assert divergence(exact, other) == pytest.approx(math.log(4 / 3) / 2 / 2, abs=1e-6)
    assert divergence(exact, exact.astype(np.float32)) == pytest.approx(0, abs=1e-9)


def test_the_table(tmp_path: Path, capsys: Any) -> None:
    """Each engine has a line of three numbers, which are below 1e-4 for the float32 backends."""
    (tmp_path / "tiny.gguf").write_bytes(CONTAINER.tiny_llama().bytes())
    (tmp_path / "ids.json").write_text(json.dumps([1, 5, 3, 9, 4]))
    report(tmp_path / "tiny.gguf", 4, tmp_path / "ids.json")
    head, _, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("tiny: 4 tokens; ")
    numbers = {line[2:24].strip(): [float(word) for word in line[24:].split()] for line in lines}
    assert list(numbers)[:2] == ["native", "numpy, dequantised"]
    assert all(len(columns) == 3 and max(columns) < 1e-4 for columns in numbers.values())
