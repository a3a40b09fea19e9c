"""The scripts that trained the bundled model: split of files, gaps, and reproducible epochs."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

WEIGHTS = Path(__file__).resolve().parents[3] / "bundled_model"
NAMES = ("corpus", "examples", "train_tokenizer")  # the scripts that need no torch


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    """Return the modules by name, imported as the scripts import each other."""
    sys.path.insert(0, str(WEIGHTS))
    try:
        return {name: __import__(name) for name in NAMES}
    finally:
        sys.path.remove(str(WEIGHTS))
        for name in NAMES:
            sys.modules.pop(name, None)


def test_held_out_files_are_never_read(scripts: dict[str, ModuleType]) -> None:
    """The training files include neither the held-out files nor the tests of these."""
    corpus = scripts["corpus"]
    names, tests = corpus.training_names(), corpus.test_names()
    assert len(set(names)) == len(names) > 100
    assert not set(names) & set(corpus.HELD_OUT)
    assert not {name for name in tests if any(start in name for start in ("test_heapq", "test_csv", "test_textwrap"))}
    assert all(corpus.read(name) for name in corpus.HELD_OUT)


@given(text=st.text("ab (\n", min_size=1, max_size=60), seed=st.integers(0, 999))
def test_a_gap_is_cut_out_of_its_text(scripts: dict[str, ModuleType], text: str, seed: int) -> None:
    """The three parts of a gap join to the text, and a gap of lines ends at a line end."""
    examples = scripts["examples"]
    assert "".join(examples.gap(text, random.Random(seed))) == text
    before, middle, after = examples.line_gap(text, random.Random(seed))
    assert before + middle + after == text
    assert after == "" or after.startswith("\n") or middle.endswith("\n")


@given(length=st.integers(1, 3000), longest=st.integers(200, 2000), seed=st.integers(0, 99))
def test_pieces_are_all_of_a_text(scripts: dict[str, ModuleType], length: int, longest: int, seed: int) -> None:
    """Pieces join to the text, and all but the last are within the bounds of length."""
    examples = scripts["examples"]
    text = "".join(chr(97 + number % 26) for number in range(length))
    found = examples.pieces(text, longest, random.Random(seed))
    assert "".join(found) == text
    assert all(examples.SHORTEST_EXAMPLE <= len(piece) <= longest for piece in found[:-1])


def test_windows_have_whole_examples(scripts: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each example lies whole in one window under a number of its own, and a seed gives the same windows."""
    examples = scripts["examples"]
    texts = {f"{number}.py": f"def f{number}(x):\n    return x + {number}\n\n" * 40 for number in range(30)}
    monkeypatch.setattr(examples, "training_names", lambda: list(texts)[:20])
    monkeypatch.setattr(examples, "test_names", lambda: list(texts)[20:])
    monkeypatch.setattr(examples, "texts_of", lambda names: map(texts.__getitem__, names))
    windows = examples.windows(7, 0, 256, 0.5)
    assert windows.shape[1:] == (2, 257)
    assert (windows == examples.windows(7, 0, 256, 0.5)).all()
    others = examples.windows(7, 1, 256, 0.5)
    assert windows.shape != others.shape or (windows != others).any()
    seen: set[int] = set()
    for ids, numbers in windows:
        for number in np.unique(numbers[numbers < 0]):
            place = np.flatnonzero(numbers == number)
            assert (np.diff(place) == 1).all()
            assert number not in seen
            seen.add(int(number))
            one = ids[place].tolist()
            assert one[0] == examples.FIM_SUFFIX
            assert one[-1] == examples.END_OF_TEXT
            assert one.index(examples.FIM_PREFIX) < one.index(examples.FIM_MIDDLE)
    assert seen
    assert (windows[:, 1] >= 0).any()


def test_the_tokenizer_is_the_shipped_one(scripts: dict[str, ModuleType]) -> None:
    """The special tokens of the shipped tokenizer have the ids that the scripts give them."""
    examples, names = scripts["examples"], scripts["train_tokenizer"].SPECIAL_TOKENS
    tokenizer = examples.tokenizer()
    assert [tokenizer.token_to_id(name) for name in names] == list(range(len(names)))
    assert names[examples.FIM_MIDDLE] == "<[fim-middle]>"
