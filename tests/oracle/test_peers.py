"""Other projects' own code against our profiles: the same tokens kept, the same probabilities.

tests/vectors/peers.json has answers of transformers, llama.cpp, vLLM, mlx-lm and SGLang. Installed projects also answer
for other rows.
"""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from decoding.params import SamplingParams
from decoding.reference import Row, next_mu, sample_row
from decoding.reference.reshape import next_average
from decoding.sampling.sampler import Sampler, SamplingState
from decoding.sampling.stages import PROFILES

VECTORS = Path(__file__).resolve().parents[1] / "vectors"
PEERS = runpy.run_path(str(VECTORS / "make_peers.py"))
GOLDEN = json.loads((VECTORS / "peers.json").read_text())
CONTEXT, NUM_PROMPT, VOCAB_SIZE = PEERS["CONTEXT"], PEERS["NUM_PROMPT"], PEERS["VOCAB_SIZE"]


def title(case):
    """Return the test id of a case: profile, parameters and row."""
    words = ",".join(f"{name}={value}" for name, value in case["params"].items())
    return f"{case['profile']}-{words}-{case['seed']}-{case['bits']}"


def params_of(case):
    """Return the SamplingParams of a case, whose bias has strings as keys because of JSON."""
    params = dict(case["params"])
    if "logit_bias" in params:
        params["logit_bias"] = {int(token_id): bias for token_id, bias in params["logit_bias"].items()}
    return SamplingParams(seed=1, **params)


def steps_of(case):
    """Yield logits, the peer's distribution and its drawn token or None, per step."""
    for number, step in enumerate(case["steps"]):
        expected = np.zeros(VOCAB_SIZE)
        expected[[int(token_id) for token_id in step["p"]]] = list(step["p"].values())
        yield PEERS["make_logits"](case["seed"] + number, case["bits"]), expected, step.get("drawn")


def assert_same(actual, expected):
    """Assert that the same tokens have equal probabilities, to six digits."""
    assert np.flatnonzero(actual).tolist() == np.flatnonzero(expected).tolist()
    np.testing.assert_allclose(actual, expected, atol=3e-6)


def check_reference(case):
    """Assert the peer's distribution under its profile in each step. Its tokens update mirostat and adaptive-p."""
    params, mu = params_of(case), None
    average, center = (0.0, 0.0), None
    if params.adaptive_p_target is not None:
        average = tuple(part / (1 - params.adaptive_p_decay) for part in (params.adaptive_p_target, 1.0))
    for logits, expected, drawn in steps_of(case):
        row = sample_row(
            Row(
                logits=logits,
                params=params,
                seed=1,
                profile=PROFILES[case["profile"]],
                prompt_token_ids=CONTEXT[:NUM_PROMPT],
                output_token_ids=CONTEXT[NUM_PROMPT:],
                mirostat_mu=mu,
                adaptive_p_center=center,
            )
        )
        assert_same(row.probabilities, expected)
        if drawn is not None and params.adaptive_p_target is not None:
            before = row.before_reshaping - row.before_reshaping.max()
            average = next_average(params, average, np.exp(before[drawn]) / np.exp(before).sum())
            center = min(1.0, max(0.0, 2 * params.adaptive_p_target - average[0] / average[1]))
        elif drawn is not None:
            before = 2 * params.mirostat_tau if mu is None else mu
            mu = next_mu(params, before, -np.log2(row.probabilities[drawn]))


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=title)
def test_the_reference_has_the_known_answers(case):
    """The reference has the peers' distributions under their profiles."""
    check_reference(case)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("case", GOLDEN["cases"], ids=title)
def test_the_kernel_has_the_known_answers(case):
    """The kernel has the peers' distributions under their profiles."""
    sampler = Sampler(VOCAB_SIZE, profile=case["profile"])
    follows = params_of(case).mirostat_tau is not None or params_of(case).adaptive_p_target is not None
    state = SamplingState(params_of(case), CONTEXT if follows else CONTEXT[:NUM_PROMPT])
    for token_id in [] if follows else CONTEXT[NUM_PROMPT:]:
        state.append(token_id)
    for logits, expected, drawn in steps_of(case):
        assert_same(sampler.probabilities(logits, [state])[0], expected)
        if drawn is not None:
            state.force(drawn)
            sampler.sample(logits, [state])


def test_every_question_has_its_answer():
    """The file has the answers to exactly the current questions."""
    asked = [json.loads(json.dumps(vars(case))) for profile in PEERS["ASKED"] for case in PEERS["cases"](profile)]
    assert [{k: v for k, v in case.items() if k != "steps"} for case in GOLDEN["cases"]] == asked


@pytest.mark.parametrize("profile", list(PEERS["PEERS"]))
def test_installed_peers_on_other_rows(profile):
    """An installed peer has the reference's distributions on five other rows per question."""
    try:
        peer = PEERS["PEERS"][profile]()
    except ModuleNotFoundError as error:
        pytest.skip(f"{error}: {PEERS['COMMAND']} says what to install")
    for case in PEERS["cases"](profile, seeds=(1000, 1010, 1020, 1030, 1040)):
        check_reference(PEERS["ask"](peer, case))


def test_the_answers_depend_on_the_profile():
    """Under the default profile many answers differ, so the profiles matter."""

    def is_known(case):
        row = Row(logits=None, params=params_of(case), seed=1)
        row.prompt_token_ids, row.output_token_ids = CONTEXT[:NUM_PROMPT], CONTEXT[NUM_PROMPT:]
        (row.logits, expected, _) = next(steps_of(case))
        return np.allclose(sample_row(row).probabilities, expected, atol=3e-6)

    for profile in PEERS["PEERS"]:
        known = [is_known(case) for case in GOLDEN["cases"] if case["profile"] == profile]
        assert 0 < sum(known) < len(known)
