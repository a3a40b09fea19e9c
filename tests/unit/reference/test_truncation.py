"""Truncations other than top_k, top_p and min_p, on rows computed by hand; and the profiles' rules."""

import math

import numpy as np
import pytest

from decoding.params import SamplingParams
from decoding.reference import Row, next_mu, random_words, sample_row
from decoding.reference.draw import is_weighed
from decoding.reference.xtc import coin_falls
from decoding.sampling.stages import PIPELINE, PROFILES, Profile, Rule

P = (0.1, 0.4, 0.1, 0.25, 0.15)
ENTROPY = -sum(p * math.log(p) for p in P)


def run(p, *rules, seed=0, mu=None, prompt=(), output=(), profile=None, **params):
    """Run a row with these probabilities through the whole pipeline, in the default order unless a profile is given."""
    profile = PROFILES[profile] if profile else Profile("test", PIPELINE, Rule(sum(rules)))
    with np.errstate(divide="ignore"):
        logits = np.log(np.array(p, np.float64)).astype(np.float32)
    row = Row(logits=logits, params=SamplingParams(**params), seed=seed, profile=profile, mirostat_mu=mu)
    row.prompt_token_ids, row.output_token_ids = prompt, output
    return sample_row(row)


def kept(*args, **kwargs):
    """Return the ids of the tokens that can be drawn."""
    return np.flatnonzero(run(*args, **kwargs).probabilities).tolist()


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        # surprises: 2.30, 0.92, 2.30, 1.39, 1.90; entropy 1.46; nearest first: 3, 4, 1, 0, 2
        ({"typical_p": 0.0}, [3]),
        ({"typical_p": 0.24}, [3]),
        ({"typical_p": 0.26}, [3, 4]),
        ({"typical_p": 0.41}, [1, 3, 4]),
        ({"typical_p": 0.81}, [0, 1, 3, 4]),
        ({"typical_p": 0.91}, [0, 1, 2, 3, 4]),
        ({"typical_p": 0.5, "top_k": 2}, [1]),  # 0.615 and 0.385: 0.486 and 0.955, entropy 0.666
        ({"epsilon_cutoff": 0.12}, [1, 3, 4]),
        ({"epsilon_cutoff": 0.9}, [1]),
        ({"epsilon_cutoff": 0.2, "top_k": 3}, [1, 3]),  # 0.15 / 0.8 < 0.2
        ({"epsilon_cutoff": 0.18, "top_k": 3}, [1, 3, 4]),
        ({"top_a": 0.9}, [1, 3, 4]),  # 0.9 * 0.16 = 0.144
        ({"top_a": 1.0}, [1, 3]),
        ({"top_a": 0.6}, [0, 1, 2, 3, 4]),
        ({"top_n_sigma": 0.0}, [1]),
        ({"top_n_sigma": 1.0}, [1, 3]),  # sigma 0.539: down to ln 0.4 - 0.539 = ln 0.233
        ({"top_n_sigma": 2.0}, [1, 3, 4]),  # down to ln 0.136
        ({"top_n_sigma": 3.0}, [0, 1, 2, 3, 4]),
        ({"top_n_sigma": 1.0, "temperature": 9.0}, [1, 3]),  # sigma and distances shrink alike
        # entropies of the prefixes: 0, 0.666, 1.024, 1.259, 1.459
        ({"top_h": 0.0}, [1]),
        ({"top_h": 0.45}, [1]),
        ({"top_h": 0.46}, [1, 3]),
        ({"top_h": 0.75}, [1, 3, 4]),
        ({"top_h": 0.99}, [0, 1, 3, 4]),
        ({"top_h": 0.5, "epsilon_cutoff": 0.5}, [1]),
        ({"p_less": "plain"}, [1]),  # 0.16 + 0.0625 + 0.0225 + 0.01 + 0.01 = 0.265
        ({"p_less": "norm"}, [0, 1, 2, 3, 4]),  # (5 * 0.265 - 1) / 4 = 0.081
        ({"p_less": "plain", "temperature": 3.0}, [1, 3]),
        # logits fall by 0.470, 0.511 / 2, 0.405 / 3, 0; their range is 1.386
        ({"min_k": 0.0}, [1]),
        ({"min_k": 2.0}, [1]),
        ({"min_k": 3.0}, [1, 3]),  # 3 / 1.386 = 2.16
        ({"min_k": 3.0, "temperature": 5.0}, [1, 3]),
        ({"min_k": 5.0}, [1, 3, 4]),
        ({"min_k": 7.0}, [0, 1, 2, 3, 4]),
        # slopes 0.15, 0.10, 0.05, 0: three equal changes of them
        ({"tfs": 0.0}, [1]),
        ({"tfs": 0.3}, [1]),
        ({"tfs": 0.4}, [1, 3]),
        ({"tfs": 0.7}, [1, 3, 4]),
        ({"tfs": 0.99}, [1, 3, 4]),
    ],
)
def test_truncation(params, expected):
    """Each truncation keeps the expected tokens of the probabilities 0.1, 0.4, 0.1, 0.25, 0.15."""
    assert kept(P, **params) == expected


def test_min_k_cuts_at_the_steepest_fall():
    """min_k cuts at the steepest relative fall of the logits; of equal falls the first counts."""
    assert kept([0.05, 0.3, 0.3, 0.3, 0.05], min_k=0.0) == [1, 2, 3]
    assert kept([0.5, 0.25, 0.0625], min_k=0.0) == [0]  # ln 2 / 1 = ln 4 / 2
    assert kept([0.2] * 5, min_k=0.0) == [0, 1, 2, 3, 4]


def test_p_less_of_flat_and_of_peaked_rows():
    """p_less keeps all of a flat row, and only the peak of a peaked row."""
    for rule in ("plain", "norm"):
        assert kept([0.25] * 4, p_less=rule) == [0, 1, 2, 3]
        assert kept([0.97, 0.01, 0.01, 0.01], p_less=rule) == [0]
        assert kept([1.0, 0.0], p_less=rule) == [0]


def test_tfs_without_curvature():
    """Tail-free sampling keeps all tokens of a row without curvature, or with fewer than three tokens."""
    assert kept([0.5, 0.5], tfs=0.1) == [0, 1]
    assert kept([0.9, 0.1], tfs=0.0) == [0, 1]
    assert kept([0.25] * 4, tfs=0.0) == [0, 1, 2, 3]


def test_tfs_cuts_ties_by_id():
    """Tail-free sampling may cut between tokens of equal probability, in the order of their ids."""
    assert kept([0.28, 0.18, 0.18, 0.18, 0.18], tfs=0.5) == [0]
    assert kept([0.3, 0.3, 0.3, 0.05, 0.05], tfs=0.4) == [0, 1]  # changes 0, 0.25, 0.25


def test_eta_cutoff():
    """The threshold of eta_cutoff is min(eta, sqrt(eta) * exp(-H))."""
    assert math.exp(-ENTROPY) == pytest.approx(0.233, abs=1e-3)
    assert kept(P, eta_cutoff=0.04) == [0, 1, 2, 3, 4]  # sqrt: 0.0466
    assert kept(P, eta_cutoff=0.2) == [1, 3, 4]  # 0.104
    assert kept(P, eta_cutoff=0.9) == [1, 3]  # 0.221
    assert kept([0.5, 0.5], eta_cutoff=0.2) == [0, 1]  # eta 0.2 < 0.22
    assert kept([0.96, 0.02, 0.02], eta_cutoff=0.01) == [0, 1, 2]  # eta itself


def test_sigma_includes_dropped_tokens():
    """top_n_sigma's deviation includes tokens that truncation dropped, but not banned ones."""
    assert kept([*P, 0.0], top_n_sigma=1.0) == [1, 3]
    assert kept(P, top_n_sigma=1.0, top_k=4) == [1, 3]
    assert kept([*P, 1e-9], top_n_sigma=1.0, banned_token_ids=[5]) == [1, 3]
    assert kept([*P, 1e-9], top_n_sigma=1.0, top_k=5) == [0, 1, 2, 3, 4]  # the outlier widens it


def test_every_truncation_keeps_its_first_token():
    """Every truncation keeps at least its first token, also after typical_p has dropped the most likely one."""
    p = [0.9, 0.04, 0.03, 0.03]
    assert kept(p, typical_p=0.5, top_n_sigma=0.1) == [0]
    p = [0.4, *[0.6 / 64] * 64]  # entropy 3.17; surprises 0.92 and 4.67: the many are nearer
    assert kept(p, typical_p=0.3)[0] == 1
    assert kept(p, typical_p=0.3, top_n_sigma=0.5) == [1]


@pytest.mark.parametrize("order", [["typical_p", "min_p"], ["min_p", "typical_p"]])
def test_min_p_is_relative_to_the_largest_left(order):
    """min_p is relative to the most likely token that earlier stages left."""
    p = [0.3, 0.12, 0.12, 0.12, 0.12, 0.12, 0.1]
    others = [stage for stage in PIPELINE if stage.name not in order]
    stages = (*others[:8], *(stage for name in order for stage in PIPELINE if stage.name == name), *others[8:])
    row = Row(
        logits=np.log(p).astype(np.float32),
        params=SamplingParams(typical_p=0.55, min_p=0.5),
        seed=0,
        profile=Profile("test", stages, Rule(0)),
    )
    left = np.flatnonzero(sample_row(row).probabilities).tolist()
    assert left == ([1, 2, 3, 4, 5] if order[0] == "typical_p" else [0])


@pytest.mark.parametrize(
    ("rules", "params", "expected"),
    [
        ([], {"top_k": 3}, [0, 1, 3]),
        ([Rule.KEEP_TIES], {"top_k": 3}, [0, 1, 2, 3]),
        ([Rule.KEEP_TIES], {"top_k": 2}, [1, 3]),
        ([], {"typical_p": 0.85}, [0, 2, 3]),
        ([], {"typical_p": 0.05}, [0]),
        ([Rule.KEEP_TIES], {"typical_p": 0.05}, [0, 2]),
        ([], {"epsilon_cutoff": 0.9}, [1]),
        ([Rule.KEEP_TIES], {"epsilon_cutoff": 0.9}, [1, 3]),
        ([Rule.KEEP_TIES], {"eta_cutoff": 1.0}, [1, 3]),
        ([Rule.KEEP_TIES], {"top_p": 0.0}, [1]),
        ([Rule.KEEP_TIES], {"temperature": 0.0}, [1]),
        ([Rule.TOP_P_TIES], {"top_p": 0.3}, [1, 3]),
        ([Rule.TOP_P_TIES], {"top_p": 0.85}, [0, 1, 2, 3]),
        ([Rule.TOP_P_TIES], {"top_k": 1}, [1]),
    ],
)
def test_keep_ties(rules, params, expected):
    """Under KEEP_TIES and TOP_P_TIES, tokens with the logit of the last kept one are kept."""
    p = [0.24, 0.06, 0.24, 0.46] if "typical_p" in params else [0.1, 0.4, 0.1, 0.4]  # 0.24 is the nearest to exp(-H)
    assert kept(p, *rules, **params) == expected


def test_typical_exceeds():
    """A mass of exactly typical_p is enough by default, but not under llama.cpp's rule."""
    assert kept([0.25] * 4, typical_p=0.5) == [0, 1]
    assert kept([0.25] * 4, Rule.TYPICAL_EXCEEDS, typical_p=0.5) == [0, 1, 2]
    assert kept([0.25] * 4, Rule.TYPICAL_EXCEEDS, typical_p=0.0) == [0]


def test_top_p_exceeds():
    """A mass of exactly top_p is enough by default, but not under SGLang's rule."""
    assert kept([0.25] * 4, top_p=0.5) == [0, 1]
    assert kept([0.25] * 4, Rule.TOP_P_EXCEEDS, top_p=0.5) == [0, 1, 2]
    assert kept([0.25] * 4, Rule.TOP_P_EXCEEDS, top_p=0.0) == [0]


def test_xtc_ties():
    """Under mlx-lm's rule, XTC keeps all of the least likely top choices if they are equal."""
    params = {"xtc_probability": 1.0, "xtc_threshold": 0.125}
    assert kept([0.4, 0.2, 0.2, 0.2], **params) == [3]
    assert kept([0.4, 0.2, 0.2, 0.2], Rule.XTC_TIES, **params) == [1, 2, 3]


def test_penalties_in_scope():
    """Under llama.cpp's rule frequency and presence count the tokens in the repetition penalty's window."""
    options = {"frequency_penalty": 1.0, "repetition_penalty_scope": 3, "prompt": [0, 0, 1], "output": [1, 2]}
    assert run([1.0, 1, 1, 1], **options).stage_rows["hard_masks"].tolist() == [0, -1, -1, 0]
    in_scope = run([1.0, 1, 1, 1], Rule.PENALTIES_IN_SCOPE, **options)
    assert in_scope.stage_rows["hard_masks"].tolist() == [0, -2, -1, 0]


XTC = {"xtc_probability": 1.0, "xtc_threshold": 0.125}


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (XTC, [0, 2, 4]),  # of 0.4, 0.25, 0.15 the least likely stays
        (XTC | {"xtc_threshold": 0.3}, [0, 1, 2, 3, 4]),  # one alone
        (XTC | {"xtc_threshold": 0.5}, [0, 1, 2, 3, 4]),  # none
        (XTC | {"xtc_threshold": 0.0}, [2]),  # all: the last of the total order
        (XTC | {"top_k": 2}, [3]),
        (XTC | {"xtc_probability": 0.0}, [0, 1, 2, 3, 4]),
    ],
)
def test_xtc(params, expected):
    """If its coin falls, XTC drops all top choices except the least likely."""
    assert kept(P, **params) == expected


def test_xtc_keeps_one_of_equals():
    """If top choices are equal, XTC keeps the token with the highest id."""
    assert kept([0.3, 0.3, 0.3, 0.1], **XTC) == [2, 3]


def test_the_coin():
    """XTC's coin uses draw id 1, falls with the given probability, and depends on seed and choice."""
    row = Row(logits=np.zeros(1, np.float32), params=SamplingParams(xtc_probability=0.25), seed=0)
    falls = []
    for row.seed in range(400):
        falls.append(coin_falls(row))
        word, *_ = random_words(row.seed, 0, 0, 0, draw_id=1)
        assert falls[-1] == (word < 2**62)
        assert word != random_words(row.seed, 0, 0, 0)[0]
    assert 70 < sum(falls) < 130
    falls = set()
    for row.choice in range(40):
        falls.add(coin_falls(row))
    assert falls == {True, False}


def test_mirostat_replaces_truncation():
    """Mirostat keeps tokens by their surprise in bits and disables all other truncations."""
    off = {"top_k": 1, "top_p": 0.0, "min_p": 1.0, "typical_p": 0.0, "epsilon_cutoff": 1.0, "xtc_probability": 1.0}
    assert kept(P, mirostat_tau=5.0, **off) == [0, 1, 2, 3, 4]
    assert kept(P, mirostat_tau=1.4) == [1, 3, 4]  # mu = 2 * tau = 2.8
    assert kept(P, mirostat_tau=1.4, mu=2.1) == [1, 3]
    assert kept(P, mirostat_tau=1.4, mu=0.0) == [1]
    assert kept(P, mirostat_tau=1.4, mu=-3.0) == [1]


def test_mirostat_runs_after_temperature_in_every_profile():
    """Mirostat measures surprises after the temperature in every profile."""
    for profile in PROFILES:
        assert kept(P, mirostat_tau=1.0, mu=2.3, temperature=2.0, profile=profile) == [1, 3]


def test_mirostat_1_keeps_a_number():
    """Mirostat 1 keeps a number of tokens that follows from mu and Zipf's exponent, rounded down."""
    zipf = 1.0 / np.arange(1, 65)
    for mu, number in ((2.0, 1), (3.1, 2), (5.0, 7), (20.0, 64)):
        assert kept(zipf, mirostat_tau=1.0, mirostat_version=1, mu=mu) == list(range(number))
        assert 2.0**mu / math.log(64) == pytest.approx(number, abs=0.99) or number == 64
    assert kept([0.25] * 4, mirostat_tau=1.0, mirostat_version=1, mu=1.0) == [0]  # 2 / (4 - 1) to the power of infinity
    assert kept([0.25] * 4, mirostat_tau=1.0, mirostat_version=1, mu=3.0) == [0, 1, 2, 3]
    assert kept([1.0], mirostat_tau=1.0, mirostat_version=1, mu=0.0) == [0]


def test_adaptive_p_weights():
    """Adaptive-p weighs the tokens left by exp(-10 d**2 / (1 + d)), d = |p - target| / 0.3."""
    row = run(P, adaptive_p_target=0.25)
    d = abs(np.array(P) - 0.25) / 0.3
    weights = np.exp(-10 * d**2 / (1 + d))
    np.testing.assert_allclose(row.probabilities, weights / weights.sum(), rtol=1e-5)
    assert row.surprise == pytest.approx(-math.log2(P[row.token_id]), rel=1e-5)
    cut = run(P, adaptive_p_target=0.9, top_k=2)
    np.testing.assert_allclose(row_of(cut, 1) / row_of(cut, 3), math.exp(score(0.4 / 0.65) - score(0.25 / 0.65)), 1e-5)


def score(p, target=0.9):
    """Return the exponent that adaptive-p gives a probability."""
    d = abs(p - target) / 0.3
    return -10 * d * d / (1 + d)


def row_of(row, token_id):
    """Return the probability of a token."""
    return row.probabilities[token_id]


def test_skew_squares_the_cumulative_probability():
    """Skew raises cumulative probabilities to the power exp(skew), in the total order."""
    order = [1, 3, 4, 0, 2]
    for power in (2.0, 0.5):
        expected = np.diff(np.array([0.0, 0.4, 0.65, 0.8, 0.9, 1.0]) ** power)
        row = run(P, skew=math.log(power))
        np.testing.assert_allclose(row.probabilities[order], expected, rtol=1e-5)
    assert math.isnan(row.surprise)


def test_the_surprise_is_measured_before_the_skew():
    """With skew, the surprise is that of the probability before the skew."""
    row = run(P, mirostat_tau=5.0, skew=1.0, seed=2)
    assert row.surprise == pytest.approx(-math.log2(P[row.token_id]), rel=1e-5)


def test_the_surprise_is_that_of_the_draw():
    """Mirostat reports -log2 of the renormalised probability, and next_mu moves mu towards tau."""
    row = run(P, mirostat_tau=1.4, mu=2.1, seed=3)
    assert row.surprise == -np.log2(row.probabilities[row.token_id])
    assert row.probabilities[row.token_id] == pytest.approx(P[row.token_id] / 0.65, rel=1e-6)
    assert math.isnan(run(P).surprise)
    assert next_mu(SamplingParams(mirostat_tau=3, mirostat_eta=0.5), 6.0, 4.0) == 5.5


def test_the_cut_is_relative_to_the_largest_kept():
    """The cut at 2**-40 is relative to the largest weight that is kept."""
    p = np.array([2.0**20, 1.0, 2.0**-39, 2.0**-41])
    assert kept(p) == [0, 1]
    assert kept(p, xtc_probability=1.0, xtc_threshold=2.0**-21) == [1, 2]


def test_which_rows_are_weighed():
    """A row is drawn by rejection if it is shaped by temperature and min_p only."""
    plain = SamplingParams(min_p=0.1, dynatemp_range=1, smoothing_factor=1, temperature=2)
    assert not is_weighed(plain)
    truncations = {"top_k": 9, "top_p": 0.9, "typical_p": 0.9, "top_n_sigma": 1, "epsilon_cutoff": 0.1}
    truncations |= {"eta_cutoff": 0.1, "top_a": 0.1, "xtc_probability": 0.1, "mirostat_tau": 1}
    truncations |= {"top_h": 0.9, "p_less": "norm", "min_k": 3, "tfs": 0.9, "adaptive_p_target": 0.1, "skew": -0.1}
    assert all(is_weighed(SamplingParams(**{name: value})) for name, value in truncations.items())
