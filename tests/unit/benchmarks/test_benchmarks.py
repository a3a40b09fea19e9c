"""Tests of `python -m benchmarks.sampler` on small rows: its measurements and the form of its tables."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from decoding.cli import measure
from decoding.sampling.kernel import available_isas

WORKS = [measure.WORKS[0], measure.WORKS[6], measure.WORKS[7]]  # greedy, top_p on a flat row, everything
ROOT = Path(__file__).resolve().parents[3]
VOCAB_SIZE = measure.MIN_VOCAB_SIZE


@pytest.fixture(scope="module")
def modules():
    """Return the benchmark's modules from the checkout: sampler, floor, peers, tables."""
    sys.path.insert(0, str(ROOT))
    try:
        yield {name: importlib.import_module(f"benchmarks.{name}") for name in ("sampler", "floor", "peers", "tables")}
    finally:
        sys.path.remove(str(ROOT))


@pytest.fixture(scope="module")
def found(modules):
    """Return one small report."""
    sampler, peers = modules["sampler"], modules["peers"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler, "NUM_ROWS", 2)
        patch.setattr(sampler, "WORKS", WORKS)
        patch.setattr(modules["tables"], "WORKS", WORKS)
        patch.setattr(sampler, "MEMORY_ROWS", 4)
        patch.setattr(sampler, "installed_peers", lambda: ([peers.Numpy()], ["other: not installed"]))
        yield sampler.report([VOCAB_SIZE], available_isas()[-1:], passes=1, seconds=0.0)


def test_every_figure_is_a_time(found):
    """Every job's minimum is positive, and at most the time of its worst row and its median."""
    assert all(0 < one["us"] <= one["worst_row_us"] for one in found["figures"])
    assert all(one["us"] <= one["median_us"] for one in found["figures"] if one["section"] != "works")


def test_every_work_is_measured_by_every_engine(found):
    """Each work is measured for kernel, Python, plain search, and numpy if it can do the work."""
    engines = {}
    for one in found["figures"]:
        if one["section"] == "works":
            engines.setdefault(one["work"], set()).add(one["engine"])
    for work in WORKS:
        assert engines[work.title] == {"kernel", "python", "plain"} | ({"numpy"} if not work.has_edits else set())


def test_summary_takes_minima_of_each_row(modules):
    """The summary takes each row's minimum over the passes, then the median row and the worst row."""
    found = [[[3.0, 1.0], [4.0, 2.0]], [[5.0, 6.0], [0.5]]]
    assert modules["sampler"].summary(found) == {"us": 0.75, "worst_row_us": 1.0, "median_us": 3.0}


def test_text_has_every_section(modules, found):
    """The printed report has every work, the instruction set, the odd rows and the peers that are not installed."""
    text = modules["tables"].text(found)
    for part in (*(work.title for work in WORKS), available_isas()[-1], *modules["sampler"].ODD_ROWS):
        assert part in text
    assert "other: not installed" in text
    assert "4 rows of 2,000 from memory" in text
    assert "bounds missed" in text


def test_bounds_are_those_of_the_median_row(modules):
    """A ratio at its bound is met, a larger one is missed, and small vocabularies have no bound."""
    tables = modules["tables"]

    def found(us, vocab_size):
        base = {"vocab_size": vocab_size, "num_rows": 1, "threads": 2}
        works = {"section": "works", "work": "greedy, peaked", "engine": "kernel", "us": us, **base}
        floor = {"section": "floor", "work": "max", "engine": "floor", "us": 10.0, **base}
        overhead = [
            {**base, "section": "overhead", "engine": engine, "num_rows": rows, "us": us}
            for engine, rows, us in (("kernel", 1, 1.0), ("python", 1, 3.0), ("kernel", 64, 10.0), ("python", 64, 15.0))
        ]
        return {"figures": [works, floor, *overhead]}

    assert list(tables.missed_bounds(found(13.0, 128_256))) == []
    assert list(tables.missed_bounds(found(14.0, 32_000))) == []
    (line,) = tables.missed_bounds(found(14.0, 128_256))
    assert line == "greedy, peaked, 128,256 logits: 1.40x instead of 1.3x"


def test_floor_passes_do_their_work(modules):
    """The compiled passes return the row's maximum and its sum of exp, so nothing was optimised away."""
    floor = modules["floor"].make_floor(available_isas()[0])
    if isinstance(floor, modules["floor"].NumpyFloor):
        pytest.skip("needs a C compiler")
    row = measure.make_row("peaked", 1024)  # a multiple of 64: floor.c leaves the last few elements out of the sum
    _, (_, out) = floor.max(row[None])()
    assert out[0] == row.max()
    _, (_, out) = floor.exp_sum(row[None])()
    assert out[0] == pytest.approx(np.exp(row - row.max()).sum(), rel=1e-5)


def test_floor_without_a_compiler(modules, monkeypatch):
    """Without a C compiler numpy computes the floor, and the floor's name states it."""
    monkeypatch.setattr(modules["floor"].shutil, "which", lambda name: None)
    floor = modules["floor"].make_floor("portable")
    assert "no C compiler" in floor.name
    assert floor.max(np.float32([[1, 3], [5, 2]]))() == [3, 5]
    assert floor.exp_sum(np.float32([[0, 0]]))() == [2.0]


def test_flags_are_the_kernel_s(modules):
    """The floor is compiled with the flags of csrc/CMakeLists.txt, for each instruction set."""
    recipe = (ROOT / "csrc" / "CMakeLists.txt").read_text()
    for flag in modules["floor"].FLAGS.split()[1:]:
        assert flag in recipe
    for isa in ("avx2", "avx512"):
        assert modules["floor"].ISA_FLAGS[isa] in recipe.replace(";", " ")


def test_masks_and_odd_rows(modules):
    """A mask leaves or bans ten tokens, and the odd rows have the properties in their names."""
    sampler = modules["sampler"]
    for leaves_ten, allowed in ((True, 10), (False, VOCAB_SIZE - 10)):
        words = sampler.packed_mask(VOCAB_SIZE, leaves_ten=leaves_ten)
        assert np.unpackbits(words.view(np.uint8)).sum() == allowed
    row = measure.make_row("flat", VOCAB_SIZE)
    assert not (sampler.ODD_ROWS["bfloat16 ties"](row).view(np.uint32) & 0xFFFF).any()
    assert (np.diff(sampler.ODD_ROWS["ascending"](row)) >= 0).all()


def test_numpy_peer_samples(modules):
    """The numpy peer draws a token that the parameters allow: the argmax, or one of the 50 largest."""
    row = measure.make_row("flat", VOCAB_SIZE)
    peer = modules["peers"].Numpy()
    calls = {work.title: peer.prepare(work, row) for work in measure.WORKS}
    assert calls["greedy, peaked"]() == row.argmax()
    assert all(calls["top_k + top_p + min_p, flat"]() in np.argsort(row)[-50:] for _ in range(20))
    assert calls["everything, flat"] is None


def test_command_prints_and_writes(modules, monkeypatch, tmp_path, capsys):
    """Options reach the report, the tables go to stdout, the figures to the file; a small vocabulary is an error."""
    sampler, asked = modules["sampler"], []
    monkeypatch.setattr(sampler, "report", lambda *arguments: asked.append(arguments) or {"figures": []})
    monkeypatch.setattr(sampler.tables, "text", lambda found: "the tables")
    assert sampler.main(["--vocab", "4000", "--isa", "portable", "--quick", "--json", str(tmp_path / "out")]) == 0
    assert asked[0][:3] == ([4000], ["portable"], 1)
    assert capsys.readouterr().out == "the tables\n"
    assert json.loads((tmp_path / "out").read_text()) == {"figures": []}
    with pytest.raises(SystemExit, match="2"):
        sampler.main(["--vocab", "10"])


def test_interrupted(modules, monkeypatch):
    """Ctrl-C ends the command with exit code 130 and no traceback."""

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(modules["sampler"], "report", interrupt)
    assert modules["sampler"].main(["--quick"]) == 130
