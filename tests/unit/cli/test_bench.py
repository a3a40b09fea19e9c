"""Tests of `decoding bench`: its measurements and its output. No time is asserted."""

import argparse
import json

import numpy as np
import pytest

from decoding import Sampler, cli
from decoding.cli import measure
from decoding.errors import ParameterError
from decoding.sampling.kernel import available_isas

VOCAB_SIZE = measure.MIN_VOCAB_SIZE


class FakeUsage:
    """The usage of a completion."""

    completion_tokens = 5


class FakeLLM:
    """A stand-in for LLM that completes at once and records its calls."""

    def __init__(self):
        self.calls = []

    def complete(self, prompts, params):
        """Return one result per prompt."""
        self.calls.append((prompts, params))
        return [argparse.Namespace(usage=FakeUsage()) for _ in prompts]


@pytest.fixture(scope="module")
def quick():
    """Return a small report: two rows, no model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "NUM_ROWS", 2)
        patch.setattr(measure, "LLM", FakeLLM)
        return measure.report(VOCAB_SIZE, seconds=0.0, num_tokens=5)


def test_report_has_every_work_on_every_set(quick):
    """The report has numpy's two passes and every work on each instruction set, with positive times."""
    entries = [(one["work"], one["engine"]) for one in quick["sampler"]]
    works = [(work.title, isa) for isa in available_isas() for work in measure.WORKS]
    assert entries == [("numpy.max", "numpy"), ("numpy.argmax", "numpy"), *works]
    assert all(0 < one["us"] <= one["worst_row_us"] for one in quick["sampler"])
    assert set(quick["tokens_per_second"]) == {"1", "16"}


def test_table_shows_the_machine_and_every_work(quick):
    """The table names the CPU and its microarchitecture, the versions and the unit, and has a line for each work."""
    text = measure.table(quick)
    assert f"{quick['machine']['cpu']} ({quick['machine']['microarchitecture']})" in text
    assert "times numpy.max of the row" in text
    for work in measure.WORKS:
        (line,) = [line for line in text.splitlines() if line.startswith(work.title)]
        assert line.count("x") >= len(available_isas())


def test_run_prints_and_writes(monkeypatch, tmp_path, capsys):
    """The command prints the table, writes the report as JSON, and prints nothing on stderr if it is no terminal."""
    found = {"vocab_size": VOCAB_SIZE}
    monkeypatch.setattr(measure, "report", lambda vocab_size: {**found, "asked": vocab_size})
    monkeypatch.setattr(measure, "table", lambda report: f"table of {report['vocab_size']}")
    assert cli.main(["bench", "--vocab", "5000", "--json", str(tmp_path / "out.json")]) == 0
    assert capsys.readouterr() == (f"table of {VOCAB_SIZE}\n", "")
    assert json.loads((tmp_path / "out.json").read_text()) == {**found, "asked": 5000}


def test_a_vocabulary_too_small_for_the_works():
    """A vocabulary smaller than the history needs raises a ParameterError."""
    with pytest.raises(ParameterError, match="must be at least 2,000"):
        measure.report(VOCAB_SIZE - 1)


def test_the_prepared_call_draws_as_the_sampler():
    """The prepared call draws the same tokens as Sampler.sample, for each work."""
    sampler = Sampler(VOCAB_SIZE)
    for work in measure.WORKS:
        logits = measure.repeated(measure.make_row(work.row, VOCAB_SIZE))
        call = measure.prepared(logits, measure.make_states(work, VOCAB_SIZE))
        call.sample()
        expected = sampler.sample(logits, measure.make_states(work, VOCAB_SIZE), commit=False)
        assert call.output.token_ids.tolist() == expected.token_ids.tolist()


def test_the_heaviest_work():
    """The heaviest work has the history, the biases and the log-probabilities that it describes."""
    work = next(work for work in measure.WORKS if work.has_edits)
    (state,) = measure.make_states(work, VOCAB_SIZE, 1)
    assert len(state.prompt_token_ids) + len(state.output_token_ids) == measure.HISTORY
    assert len(state.params.logit_bias) == measure.BIASES
    assert state.params.logprobs == 5


def test_aligned_memory():
    """An aligned copy has the given offset from a multiple of 64 bytes and the same values."""
    row = np.arange(5, dtype=np.float32)
    for offset in (0, 4):
        copy = measure.aligned(row, offset)
        assert copy.ctypes.data % 64 == offset
        assert copy.tolist() == row.tolist()


def test_decoding_speed_counts_all_streams():
    """The decoding speed is measured over all streams at once, each of full length."""
    llm = FakeLLM()
    assert measure.decoding_speed(llm, 3, 5, repeats=2) > 0
    prompts, params = llm.calls[0]
    assert len(llm.calls) == 2
    assert len(prompts) == 3
    assert (params.max_tokens, params.ignore_eos) == (5, True)
