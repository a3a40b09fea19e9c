"""The published cases of llama.cpp's own sampler tests: probabilities in, probabilities out.

Every section of the file runs under the profile llama_cpp, by the reference and by the kernel on every instruction set.
"""

import json

import numpy as np
import pytest

from decoding.params import SamplingParams
from decoding.reference import Row, sample_row
from decoding.sampling.kernel import available_isas, forced_isa
from decoding.sampling.sampler import Sampler, SamplingState
from decoding.sampling.stages import PROFILES, STAGE_NAMES, Profile


@pytest.fixture(scope="module")
def cases(shared):
    """Return the published table: a list of cases per kind of sampler."""
    return json.loads((shared / "vectors" / "llama_cpp_sampling.json").read_text())


def by_reference(logits, params, output, profile):
    """Return the distribution of the reference."""
    return sample_row(Row(logits=logits, params=params, seed=0, output_token_ids=output, profile=profile)).probabilities


def by_kernel(logits, params, output, profile):
    """Return the distribution of the kernel."""
    state = SamplingState(params)
    for token_id in output:
        state.append(token_id)
    return Sampler(len(logits), profile=profile).probabilities(logits, [state])[0]


@pytest.fixture(scope="module", params=["reference", *available_isas()])
def distribution(request):
    """Yield a function from probabilities p to our distribution of the logits ln(p)."""

    def answer(p, *, output=(), profile=PROFILES["llama_cpp"], **params):
        with np.errstate(divide="ignore"):
            logits = np.log(np.array(p, np.float64)).astype(np.float32)
        return method(logits, SamplingParams(**params), output, profile)

    if request.param == "reference":
        method = by_reference
        yield answer
    else:
        method = by_kernel
        with forced_isa(request.param):
            yield answer


def assert_survivors(case, p):
    """Assert the kept probabilities, in descending order unless the case lists all tokens."""
    if not case.get("by_id"):
        p = np.sort(p[p > 0])[::-1]
    expected = np.array(case["expect"])
    np.testing.assert_allclose(p, expected / expected.sum() if case.get("unnormalised") else expected, atol=2e-5)


def test_every_section_is_tested(cases):
    """The file has exactly the tested sections."""
    sections = "temperature top_k top_p min_p penalties_over_history typical_p top_n_sigma queue"
    assert list(cases) == ["source", *sections.split()]


def test_temperature(cases, distribution):
    """Temperatures 1 and 0 give llama.cpp's probabilities."""
    for case in cases["temperature"]:
        assert_survivors(case, distribution(case["p"], temperature=case["temp"]))


def test_top_k(cases, distribution):
    """Top-k gives llama.cpp's probabilities; its 0 is our None."""
    for case in cases["top_k"]:
        assert_survivors(case, distribution(case["p"], top_k=case["k"] or None))


@pytest.mark.parametrize("name", ["top_p", "min_p", "typical_p"])
def test_truncation(cases, distribution, name):
    """The truncations give llama.cpp's probabilities; the token that reaches top_p is the last one kept."""
    for case in cases[name]:
        assert_survivors(case, distribution(case["p"], **{name: case[name]}))


def test_top_n_sigma(cases, distribution):
    """Top-n-sigma gives llama.cpp's probabilities, with the population's standard deviation."""
    for case in cases["top_n_sigma"]:
        assert_survivors(case, distribution(case["p"], top_n_sigma=case["n"]))


def test_penalties(cases, distribution):
    """Repetition, frequency and presence penalties over output tokens give llama.cpp's probabilities."""
    for case in cases["penalties_over_history"]:
        params = {f"{name}_penalty": case[name] for name in ("repetition", "frequency", "presence")}
        assert_survivors(case, distribution(case["p"], output=case["history"], **params))


def survivors(stages, top_k, top_p, min_p):
    """Return the kept ids of 1 to 9999 with p_i proportional to i, computed in integers."""
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


def queue(letters):
    """Return the profile llama_cpp with top_k, top_p and min_p in the order of the letters, after the masks."""
    first = [{"k": "top_k", "p": "top_p", "m": "min_p"}[letter] for letter in letters]
    base = PROFILES["llama_cpp"]

    def place(stage):
        if stage.name in first:
            return 0.5 + first.index(stage.name) / 10
        return 0 if stage.number <= 70 else 1

    stages = tuple(sorted(base.stages, key=place))
    assert [stage.name for stage in stages if stage.name in first] == first
    return Profile(letters, stages, base.rules)


def test_queues(cases, distribution):
    """All 23 published orders of stages keep the published tokens."""
    assert len(cases["queue"]["cases"]) == 23
    for letters, top_k, top_p, min_p in cases["queue"]["cases"]:
        options = {"k": ("top_k", top_k), "p": ("top_p", top_p), "m": ("min_p", min_p)}
        params = dict(options[letter] for letter in letters)
        p = distribution(range(10_000), profile=queue(letters), **params)
        assert np.flatnonzero(p).tolist() == survivors(letters, top_k, top_p, min_p), (letters, params)


def test_the_order_matters(cases):
    """Some of these orders keep different tokens when reversed, so the test above can fail."""
    kept = {letters: survivors(*case) for case in cases["queue"]["cases"] for letters in [case[0]] if len(letters) == 2}
    assert kept["kp"] != kept["pk"]
    assert kept["mp"] != kept["pm"]
    assert set(queue("pk").order) == set(PROFILES["openai"].order) == set(STAGE_NAMES) - {0, 10, 100, 110}
