"""`decoding bench`: what it measures, and the shape of what it prints. No time is asserted."""

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
    """Counts of a completion."""

    completion_tokens = 5


class FakeLLM:
    """Completes at once, and remembers what it was asked."""

    def __init__(self):
        self.calls = []

    def complete(self, prompts, params):
        """A result a prompt."""
        self.calls.append((prompts, params))
        return [argparse.Namespace(usage=FakeUsage()) for _ in prompts]


@pytest.fixture(scope="module")
def quick():
    """A report in a moment: two rows, no model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "NUM_ROWS", 2)
        patch.setattr(measure, "LLM", FakeLLM)
        return measure.report(VOCAB_SIZE, seconds=0.0, num_tokens=5)


def test_report_has_every_work_on_every_set(quick):
    """Two passes of numpy, then each work once for each instruction set of this CPU, each with a positive time."""
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
    """The command prints the table, writes the same report as JSON, and is silent on a stderr that is no terminal."""
    found = {"vocab_size": VOCAB_SIZE}
    monkeypatch.setattr(measure, "report", lambda vocab_size: {**found, "asked": vocab_size})
    monkeypatch.setattr(measure, "table", lambda report: f"table of {report['vocab_size']}")
    assert cli.main(["bench", "--vocab", "5000", "--json", str(tmp_path / "out.json")]) == 0
    assert capsys.readouterr() == (f"table of {VOCAB_SIZE}\n", "")
    assert json.loads((tmp_path / "out.json").read_text()) == {**found, "asked": 5000}


def test_a_vocabulary_too_small_for_the_works():
    """Fewer logits than the history needs is an error that says so."""
    with pytest.raises(ParameterError, match="must be at least 2,000"):
        measure.report(VOCAB_SIZE - 1)


def test_prepared_call_is_the_sampler():
    """The bare call draws, for each work, the tokens that Sampler.sample draws: it is the same work."""
    sampler = Sampler(VOCAB_SIZE)
    for work in measure.WORKS:
        logits = measure.repeated(measure.make_row(work.row, VOCAB_SIZE))
        call = measure.prepared(logits, measure.make_states(work, VOCAB_SIZE))
        call.sample()
        expected = sampler.sample(logits, measure.make_states(work, VOCAB_SIZE), commit=False)
        assert call.output.token_ids.tolist() == expected.token_ids.tolist()


def test_everything_is_everything():
    """The heaviest work has the history, the biases and the log-probabilities that its description promises."""
    work = next(work for work in measure.WORKS if work.has_edits)
    (state,) = measure.make_states(work, VOCAB_SIZE, 1)
    assert len(state.prompt_token_ids) + len(state.output_token_ids) == measure.HISTORY
    assert len(state.params.logit_bias) == measure.BIASES
    assert state.params.logprobs == 5


def test_aligned_memory():
    """Rows lie where the measurement says that they lie, and hold what they held."""
    row = np.arange(5, dtype=np.float32)
    for offset in (0, 4):
        copy = measure.aligned(row, offset)
        assert copy.ctypes.data % 64 == offset
        assert copy.tolist() == row.tolist()


def test_decoding_speed_counts_all_streams():
    """All streams are asked for at once, to their full length, and their tokens are added up."""
    llm = FakeLLM()
    assert measure.decoding_speed(llm, 3, 5, repeats=2) > 0
    prompts, params = llm.calls[0]
    assert len(llm.calls) == 2
    assert len(prompts) == 3
    assert (params.max_tokens, params.ignore_eos) == (5, True)
