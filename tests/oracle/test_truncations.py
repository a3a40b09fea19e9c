"""Each truncation alone, and some together, on rows of every kind: the kernel keeps the reference's tokens.

Hypothesis finds corner cases (test_against_reference.py); these tests cover the ordinary cases evenly.
"""

import runpy
from pathlib import Path

import numpy as np
import pytest

from decoding.params import SamplingParams
from decoding.reference import next_mu
from decoding.reference.reshape import next_average
from decoding.sampling.sampler import Sampler, SamplingState
from decoding.sampling.stages import PROFILES

assert_every_set_matches = runpy.run_path(str(Path(__file__).parent / "every_set.py"))["assert_every_set_matches"]

ALONE = {
    "top_k": (1, 2, 5, 40),
    "top_p": (0.0, 0.3, 0.7, 0.9, 0.99),
    "min_p": (0.01, 0.3, 1.0),
    "typical_p": (0.0, 0.2, 0.6, 0.9, 0.99),
    "top_n_sigma": (0.0, 0.7, 2.0),
    "epsilon_cutoff": (0.001, 0.1, 0.9),
    "eta_cutoff": (0.001, 0.1, 1.0),
    "top_a": (0.05, 0.5, 1.0),
    "mirostat_tau": (0.1, 2.0, 9.0),
    "top_h": (0.0, 0.4, 0.8, 0.99),
    "p_less": ("plain", "norm"),
    "min_k": (0.0, 3.0, 40.0),
    "tfs": (0.0, 0.5, 0.9, 0.99),
    "adaptive_p_target": (0.0, 0.3, 1.0),
    "skew": (-5.0, -0.5, 0.5, 5.0),
    "temperature": (0.0, 0.2, 3.0),
    "dynatemp_range": (0.2, 1.0, 5.0),
    "smoothing_factor": (0.1, 2.0),
}

TOGETHER = (
    {"xtc_probability": 1.0, "xtc_threshold": 0.02},
    {"xtc_probability": 0.5, "xtc_threshold": 0.1, "min_p": 0.02},
    {"top_k": 20, "top_p": 0.9, "min_p": 0.05},
    {"top_k": 20, "typical_p": 0.8, "top_n_sigma": 2.0, "eta_cutoff": 0.01, "temperature": 1.5},
    {"top_p": 0.95, "typical_p": 0.7, "epsilon_cutoff": 0.01, "top_a": 0.1, "temperature": 0.7},
    {"smoothing_factor": 0.3, "smoothing_curve": 2.0, "top_p": 0.9, "temperature": 1.2},
    {"smoothing_factor": 0.2, "dynatemp_range": 0.5, "dynatemp_exponent": 2.0, "typical_p": 0.9},
    {"temperature": 0.0, "dynatemp_range": 1.0, "top_k": 9},
    {"mirostat_tau": 3.0, "temperature": 1.5, "top_k": 2, "xtc_probability": 1.0},
    {"mirostat_tau": 0.1, "mirostat_version": 1},
    {"mirostat_tau": 2.0, "mirostat_version": 1, "temperature": 1.5, "skew": 0.3},
    {"mirostat_tau": 4.0, "mirostat_version": 1, "adaptive_p_target": 0.2},
    {"tfs": 0.9, "top_h": 0.7, "min_k": 3.0, "p_less": "norm", "temperature": 1.5},
    {"typical_p": 0.9, "tfs": 0.95, "skew": 0.3, "adaptive_p_target": 0.5},
    {"smoothing_factor": 0.3, "min_k": 3.0, "tfs": 0.8, "top_h": 0.9},
    {"temperature": 0.0, "adaptive_p_target": 0.3, "skew": 1.0},
)

QUESTIONS = [{name: value} for name, values in ALONE.items() for value in values] + list(TOGETHER)

KINDS = {
    "normal": lambda rng, n: rng.normal(0, 2, n),
    "wide": lambda rng, n: rng.normal(0, 9, n),
    "tied": lambda rng, n: rng.integers(-3, 4, n),
    "flat": lambda rng, n: np.zeros(n),
    "banned": lambda rng, n: np.where(rng.random(n) < 0.7, -np.inf, rng.normal(0, 2, n)),
}


def states():
    """Return a state per question, with log-probabilities in two modes."""
    report = {"logprobs": 1, "logprobs_mode": ("final", "scaled")}
    return [SamplingState(SamplingParams(seed=7, **report, **q), choice=i) for i, q in enumerate(QUESTIONS)]


SIZES = [(n, "openai") for n in (1, 2, 3, 9, 300, 1000)] + [(40, profile) for profile in PROFILES]


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize(("vocab_size", "profile"), SIZES)
def test_truncation(vocab_size, profile, kind):
    """Kept set, probabilities, token and log-probabilities of all questions in a batch equal the reference's."""
    rng = np.random.default_rng([vocab_size, len(kind)])
    logits = np.stack([KINDS[kind](rng, vocab_size) for _ in QUESTIONS]).astype(np.float32)  # [questions, vocab]
    logits[:, -1] = np.maximum(logits[:, -1], 0)  # at least one finite logit
    assert_every_set_matches(Sampler(vocab_size, profile=profile), logits, states())


ENDS = {
    "huge": [1e38, 1e-38, 2e-38, 1e38, -1e38, 2e38, 2e38],
    "huge ties": [1e38, 1e38, 1e38],
    "the whole range": [3.4e38, -3.4e38, 0.0, 1.0, 1e30],
    "subnormal": [1e-45, 3e-45, 2e-45, 0.0, -1e-45],
    "billions": [4e9, 4e9, 4e9 - 256, 1e9],
}


@pytest.mark.parametrize("profile", list(PROFILES))
@pytest.mark.parametrize("temperature", [1.0, 2.0**60, 3.4e38])
@pytest.mark.parametrize("row", list(ENDS))
def test_ends_of_the_range(row, temperature, profile):
    """Logits and temperatures up to 3.4e38 keep the reference's order, ties and thresholds."""
    questions = [{"temperature": temperature, **question} for question in QUESTIONS]
    states = [SamplingState(SamplingParams(seed=7, logprobs=2, **question)) for question in questions]
    logits = np.tile(np.array(ENDS[row], np.float32), (len(states), 1))
    assert_every_set_matches(Sampler(logits.shape[1], profile=profile), logits, states)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("version", [1, 2])
def test_mirostat_follows_its_target(version):
    """Over 300 tokens mirostat_mu follows the reported surprises by definition, and their mean is the target."""
    params = SamplingParams(mirostat_tau=3.0, mirostat_eta=0.2, mirostat_version=version, seed=5)
    state, sampler, rng = SamplingState(params), Sampler(1000), np.random.default_rng(0)
    surprises = []
    for _ in range(300):
        mu = state.mirostat_mu
        output = sampler.sample(rng.normal(0, 3, 1000).astype(np.float32), [state])
        surprises.append(float(output.surprises[0]))
        assert state.mirostat_mu == next_mu(params, mu, surprises[-1])
    assert abs(np.mean(surprises[50:]) - 3.0) < 0.1


@pytest.mark.usefixtures("isa")
def test_adaptive_p_follows_its_target():
    """The center of adaptive-p follows the reference's average; the mean drawn probability follows the target."""
    means = [mean_of_adapted(target) for target in (0.05, 0.6)]
    assert means[0] < 0.1
    assert means[1] > 0.25


def mean_of_adapted(target):
    """Return the mean probability of 300 drawn tokens. Assert the center of each step."""
    params = SamplingParams(adaptive_p_target=target, min_p=0.01, seed=5)
    state, sampler, rng = SamplingState(params), Sampler(1000), np.random.default_rng(0)
    target, decay = np.float32(target).item(), np.float32(0.9).item()
    average, drawn = (target / (1 - decay), 1 / (1 - decay)), []
    for _ in range(300):
        center = min(1.0, max(0.0, 2 * target - average[0] / average[1]))
        assert state.adaptive_p_center == pytest.approx(center, abs=1e-9)
        output = sampler.sample(rng.normal(0, 3, 1000).astype(np.float32), [state])
        drawn.append(2.0 ** -float(output.surprises[0]))
        average = next_average(params, average, drawn[-1])
    return np.mean(drawn)


@pytest.mark.parametrize("stage", ["top_h", "min_k", "tfs", "skew"])
def test_long_rows_are_sorted_as_far_as_needed(stage):
    """Rows of 40,000 tokens whose cut lies beyond the first sorted head keep the reference's tokens."""
    value = {"top_h": 0.9, "min_k": 0.0, "tfs": 0.999, "skew": 0.5}[stage]
    rng = np.random.default_rng(3)
    ties = np.repeat(np.float32([2.0, 1.0, 0.0]), [1500, 8500, 30_000])
    rows = [rng.normal(0, 0.1, 40_000), rng.normal(0, 3, 40_000), rng.permutation(ties)]
    states = [SamplingState(SamplingParams(seed=1, **{stage: value})) for _ in rows]
    assert_every_set_matches(Sampler(40_000), np.stack(rows).astype(np.float32), states)
