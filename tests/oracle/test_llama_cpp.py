"""Published cases of another project: probabilities in, probabilities out (llama.cpp's own sampler tests).

Where one stage acts alone, or several in our order, its definition and ours are the same.
"""

import json

import numpy as np
import pytest

from decoding.params import SamplingParams
from decoding.sampler import Sampler, SamplingState

pytestmark = pytest.mark.usefixtures("isa")


@pytest.fixture(scope="module")
def cases(shared):
    """The published table: a list of cases for each kind of sampler."""
    return json.loads((shared / "vectors" / "llama_cpp_sampling.json").read_text())


def distribution(p, *, output=(), **params):
    """Our distribution for logits ln(p)."""
    with np.errstate(divide="ignore"):
        logits = np.log(np.array(p, np.float64)).astype(np.float32)
    state = SamplingState(SamplingParams(**params))
    for token_id in output:
        state.append(token_id)
    return Sampler(len(p)).probabilities(logits, [state])[0]


def check(case, p):
    """Survivors, in order of probability unless the case lists every token."""
    if not case.get("by_id"):
        p = np.sort(p[p > 0])[::-1]
    np.testing.assert_allclose(p, case["expect"], atol=2e-5)


def test_temperature(cases):
    """One and zero."""
    for case in cases["temperature"]:
        check(case, distribution(case["p"], temperature=case["temp"]))


def test_top_k(cases):
    """Theirs takes 0 for off."""
    for case in cases["top_k"]:
        check(case, distribution(case["p"], top_k=case["k"] or None))


@pytest.mark.parametrize("name", ["top_p", "min_p"])
def test_nucleus_and_min_p(cases, name):
    """The boundary case of top_p among them: the token that reaches p is the last one kept."""
    for case in cases[name]:
        check(case, distribution(case["p"], **{name: case[name]}))


def test_penalties(cases):
    """Repetition, frequency and presence over a history of output tokens."""
    for case in cases["penalties_over_history"]:
        params = {f"{name}_penalty": case[name] for name in ("repetition", "frequency", "presence")}
        check(case, distribution(case["p"], output=case["history"], **params))


def survivors(stages, top_k, top_p, min_p):
    """Ids left of 1 .. 9999 with p_i proportional to i, in exact integers."""
    ids = list(range(9999, 0, -1))
    for stage in stages:
        if stage == "k":
            ids = ids[:top_k]
        elif stage == "p":
            total, mass, kept = sum(ids), 0, 0
            while kept == 0 or (mass < top_p * total and kept < len(ids)):
                mass += ids[kept]
                kept += 1
            ids = ids[:kept]
        else:
            ids = [i for i in ids if i >= int(min_p * 10_000)] or ids[:1]
    return sorted(ids)


def test_queues_in_our_order(cases):
    """Of the 23 published combinations those in the order top_k, top_p, min_p keep the same tokens here."""
    ours = [case for case in cases["queue"]["cases"] if case[0] in ("k", "p", "m", "kp", "km", "pm", "kpm")]
    assert len(ours) == 15
    for stages, top_k, top_p, min_p in ours:
        options = {"k": ("top_k", top_k), "p": ("top_p", top_p), "m": ("min_p", min_p)}
        p = distribution(range(10_000), **dict(options[stage] for stage in stages))
        assert np.flatnonzero(p).tolist() == survivors(stages, top_k, top_p, min_p), (stages, top_k, top_p, min_p)
