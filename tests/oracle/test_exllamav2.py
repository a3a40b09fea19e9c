"""The profile exllamav2 against ExLlamaV2's formulas, and the disagreements in docs/profiles.md."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from decoding import Sampler, SamplingParams, SamplingState
from decoding.params import PARAMETERS

HERE = Path(__file__).resolve().parent
FORMULAS = runpy.run_path(str(HERE / "exllamav2_formulas.py"))
PEERS = runpy.run_path(str(HERE.parent / "vectors" / "make_peers.py"))
CONTEXT, VOCAB_SIZE = PEERS["CONTEXT"], PEERS["VOCAB_SIZE"]

PENALTIES = {"repetition_penalty": 1.3, "frequency_penalty": 0.4, "presence_penalty": 0.3}
QUESTIONS = (
    PENALTIES | {"logit_bias": {3: 2.5, 20: -4.0}},
    {"temperature": 0.5},
    {"temperature": 2.0, "top_k": 7},
    {"temperature": 3.0, "top_a": 0.4},
    {"temperature": 3.0, "min_p": 0.1},
    {"temperature": 3.0, "tfs": 0.9},
    {"temperature": 4.0, "tfs": 0.5, "top_k": 12},
    {"temperature": 2.0, "smoothing_factor": 0.3},
    {"temperature": 2.0, "skew": 0.7},
    {"temperature": 2.0, "skew": -0.7, "min_p": 0.05},
    PENALTIES | {"temperature": 3.0, "top_k": 20, "top_a": 0.2, "min_p": 0.05, "tfs": 0.95, "skew": 0.2},
)


def probabilities(profile, params, logits):
    """Return the kernel's distribution after CONTEXT."""
    state = SamplingState(SamplingParams(seed=1, **params), CONTEXT[:4])
    for token_id in CONTEXT[4:]:
        state.append(token_id, 1.0 if state.needs_surprise else None)
    state.mirostat_mu = None
    return Sampler(VOCAB_SIZE, profile=profile).probabilities(logits, [state])[0]


@pytest.mark.parametrize("suffix", ["", "+temperature_last"])
@pytest.mark.parametrize("params", QUESTIONS, ids=str)
def test_the_profile_has_the_formulas_distribution(params, suffix):
    """The profile keeps the formulas' tokens with the same probabilities, with temperature first and last."""
    for seed in range(2000, 2005):
        logits = PEERS["make_logits"](seed)
        expected = FORMULAS["distribution"](logits, params, CONTEXT, temperature_last=bool(suffix))
        actual = probabilities(f"exllamav2{suffix}", params, logits)
        np.testing.assert_allclose(actual, expected, atol=3e-6)
        assert np.flatnonzero(actual).tolist() == np.flatnonzero(expected > 2.0**-40 * expected.max()).tolist()


def test_mirostat_has_the_formulas_distribution():
    """Mirostat with its initial bound 2 * tau gives the formulas' distribution."""
    for tau in (0.5, 1.5):
        logits = PEERS["make_logits"](2010)
        actual = probabilities("exllamav2", {"mirostat_tau": tau, "temperature": 3.0}, logits)
        expected = FORMULAS["distribution"](logits, {"temperature": 3.0}, CONTEXT, mu=2 * tau)
        np.testing.assert_allclose(actual, expected, atol=3e-6)


TABLES = runpy.run_path(str(HERE.parent / "tools" / "profile_tables.py"))


def kept_by_exllamav2(p, params):
    """Return the ids that ExLlamaV2 keeps; greedy below its minimum temperature."""
    return [0] if params.get("temperature", 1) < 0.01 else np.flatnonzero(FORMULAS["distribution"](np.log(p), params))


def kept_by_transformers(p, params):
    """Return the ids that transformers' top_h keeps: the head of -p ln p up to a share of the entropy."""
    terms = -p * np.log(p)
    return np.flatnonzero(np.cumsum(terms) <= params["top_h"] * terms.sum())


def kept_by_sglang(p, params):
    """Return the ids that SGLang keeps: top_k, renormalised, top_p, renormalised, min_p."""
    p = p[: params["top_k"]] / p[: params["top_k"]].sum()
    p = p[: int(np.searchsorted(np.cumsum(p), params["top_p"])) + 1]
    return np.flatnonzero(p >= params["min_p"] * p.max())


THEIRS = {
    "exllamav2": kept_by_exllamav2,
    "transformers": kept_by_transformers,
    "sglang": kept_by_sglang,
    "vllm": lambda p, params: [int(p.argmax())] if params["temperature"] < 1e-5 else range(len(p)),
    "mlx_lm": lambda p, params: range(len(p)) if params["top_p"] == 0.0 else [],
}


@pytest.mark.parametrize("case", TABLES["DISAGREEMENTS"], ids=str)
def test_the_disagreements_of_the_page(case):
    """The ids in docs/profiles.md are those of the engine's formulas, and its profile keeps other ids."""
    engine, p, params, theirs, _ = case
    assert tuple(THEIRS[engine](np.array(p), params)) == theirs
    assert TABLES["kept"](engine, p, params) != theirs


def test_questions_distinguish_profiles():
    """Each question of docs/profiles.md has different answers under different profiles."""
    profiles = ("openai", *TABLES["ENGINES"])
    for _, p, params in TABLES["QUESTIONS"]:
        assert len({TABLES["kept"](profile, p, params) for profile in profiles}) > 1


def test_the_table_of_names():
    """Each row of the table of names is a parameter with a cell per engine."""
    assert set(TABLES["NAMES"]) <= set(PARAMETERS)
    assert {len(cells) for cells in TABLES["NAMES"].values()} == {len(TABLES["ENGINES"])}
