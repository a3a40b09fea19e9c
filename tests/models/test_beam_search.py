"""Beam search on real checkpoints finds transformers' hypotheses (beams.json, made by make_beams.py)."""

import json
from pathlib import Path

import pytest

from decoding import LLM
from decoding.engine.beam_params import BeamSearchParams

ANSWERS = json.loads(Path(__file__).with_name("beams.json").read_text())


@pytest.mark.parametrize("name", ANSWERS)
def test_hypotheses_equal_transformers(shared, name):
    """Token ids are transformers' for all widths, penalties and stopping rules, and scores agree to float32."""
    llm = LLM(shared / "models" / name)
    known = ANSWERS[name]
    for case in known["cases"]:
        params = BeamSearchParams(**case["arguments"], stop_token_ids=known["ends"], ignore_eos=True)
        choices = llm.beam_search(known["prompt"], params).choices
        assert [choice.token_ids for choice in choices] == case["token_ids"], case["arguments"]
        assert [choice.beam_score for choice in choices] == pytest.approx(case["scores"], rel=1e-4, abs=1e-5)
        ended = [choice.finish_reason == "stop" for choice in choices]
        assert ended == [choice.token_ids[-1] in known["ends"] for choice in choices]
