"""The golden file is reproduced bit for bit from Python and from C, on every instruction set.

If a change of a drawn token is intended, raise the stream version and run make_golden.py beside this file.
"""

from __future__ import annotations

import gzip
import runpy
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from decoding.sampling.kernel import STREAM_VERSION, active_isa, available_isas, forced_isa

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MAKER = runpy.run_path(str(HERE / "make_golden.py"))
SOME = 8
"""The quick tier draws one of so many sequences again; C and the slow tier draw all of them."""


@pytest.fixture(scope="module")
def golden() -> list[str]:
    """Return the lines of the file."""
    return gzip.decompress(MAKER["GOLDEN"].read_bytes()).decode().splitlines()


@pytest.fixture(scope="module")
def golden_sequences(golden: list[str]) -> dict[int, list[str]]:
    """Return the rows of each sequence by its number, which is the column after the list of stages."""
    sequences: dict[int, list[str]] = {}
    for line in golden[1:]:
        words = line.split(maxsplit=40)
        sequences.setdefault(int(words[8 + int(words[6])]), []).append(line)
    return sequences


def drawn_again(isa: str, numbers: range) -> dict[int, list[str]]:
    """Return the rows of these sequences, drawn on this instruction set."""
    with forced_isa(isa):
        assert active_isa() == isa
        return {number: list(MAKER["lines"](MAKER["make_case"](number))) for number in numbers}


def test_the_head(golden: list[str], golden_sequences: dict[int, list[str]]) -> None:
    """The file has this stream version, its number of rows, at least 10,000, and all sequences."""
    assert [int(word) for word in golden[0].split()] == [STREAM_VERSION, len(golden) - 1]
    assert len(golden) > 10_000
    assert list(golden_sequences) == list(range(MAKER["NUM_SEQUENCES"]))


@pytest.mark.parametrize("isa", available_isas())
def test_some_rows_from_python(isa: str, golden_sequences: dict[int, list[str]]) -> None:
    """Python draws every eighth sequence of the file bit for bit; the instruction sets draw different ones."""
    first = available_isas().index(isa)
    drawn = drawn_again(isa, range(first, MAKER["NUM_SEQUENCES"], SOME))
    assert drawn == {number: golden_sequences[number] for number in drawn}


@pytest.mark.slow
@pytest.mark.parametrize("isa", available_isas())
def test_all_rows_from_python(isa: str, golden_sequences: dict[int, list[str]]) -> None:
    """Python draws all rows of the file bit for bit on each instruction set."""
    assert drawn_again(isa, range(MAKER["NUM_SEQUENCES"])) == golden_sequences


@pytest.fixture(scope="module")
def check_golden(package: Path, run: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checker in C, linked with an unoptimised build of the kernel."""
    program = tmp_path_factory.mktemp("golden") / "check_golden"
    library = package / "build" / "libdecoding.a"
    run("cc", f"-I{ROOT / 'csrc'}", HERE / "check_golden.c", library, "-lm", "-o", program)
    return program


@pytest.mark.parametrize("isa", available_isas())
def test_all_rows_from_c(isa: str, check_golden: Path, golden: list[str]) -> None:
    """The checker in C draws all rows of the file bit for bit on each instruction set, without optimisation."""
    done = subprocess.run([check_golden, isa], input="\n".join(golden), capture_output=True, text=True, check=False)
    assert done.stdout == f"{isa}: 0 of {len(golden) - 1} rows differ from stream version {STREAM_VERSION}\n"
    assert done.returncode == 0


def test_the_checker_finds_a_changed_bit(check_golden: Path, golden: list[str]) -> None:
    """One changed bit of a log-probability, or a changed token id, is found with its line."""
    line = next(i for i, words in enumerate(golden) if words.endswith(" 0 0") and " 7fc00000 " in words)
    for spoilt in (golden[line].replace(" 7fc00000 ", " 7fc00001 ", 1), golden[line].replace(" -1 ", " -2 ", 1)):
        text = "\n".join(["0 1", spoilt])
        done = subprocess.run([check_golden], input=text, capture_output=True, text=True, check=False)
        assert done.stdout.startswith("line 2 differs\n")
        assert done.returncode == 1
