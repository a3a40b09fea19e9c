"""`Sampler.explain`: the tokens that each stage keeps and removes, and the reason why a token cannot be drawn."""

import numpy as np
import pytest

from decoding import Sampler, SamplingParams, SamplingState
from decoding.errors import LogitsError, NonFiniteLogitsError, ParameterError
from decoding.sampling.stages import PROFILES

P = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
LOGITS = np.log(P).astype(np.float32)


def explain(logits=LOGITS, prompt=(), output=(), profile="openai", bitmask=None, num_valid=None, **params):
    """Return the explanation of one row."""
    state = SamplingState(SamplingParams(seed=1, **params), prompt)
    for token_id in output:
        state.append(token_id)
    state.bitmask = bitmask
    return Sampler(len(logits), profile=profile, num_valid_tokens=num_valid).explain(logits, state)


def names(explanation):
    """Return the names of the stages in an explanation."""
    return [step.name for step in explanation.steps]


def test_each_stage_by_hand():
    """Counts, removed mass, entropy and top tokens of three truncations equal values computed by hand."""
    found = explain(top_k=4, top_p=0.8, min_p=0.5)
    assert names(found) == ["logits", "top_k", "top_p", "min_p"]
    assert [step.num_kept for step in found.steps] == [5, 4, 3, 2]
    np.testing.assert_allclose(
        [step.mass_removed for step in found.steps], [0, 0.05, 0.1 / 0.95, 0.15 / 0.85], rtol=1e-5
    )
    kept = [P, P[:4], P[:3], P[:2]]
    entropies = [-(p / p.sum() * np.log(p / p.sum())).sum() for p in kept]
    np.testing.assert_allclose([step.entropy for step in found.steps], entropies, rtol=1e-5)
    last = found.steps[-1]
    assert [token_id for token_id, _ in last.top_before(9)] == [0, 1, 2]
    assert [token_id for token_id, _ in last.top_after(1)] == [0]
    np.testing.assert_allclose([p for _, p in last.top_after()], [4 / 7, 3 / 7], rtol=1e-6)
    assert last.settings == {"min_p": 0.5}


def test_the_last_distribution_is_the_one_drawn_from():
    """The final distribution is that of `probabilities`, the token is that of `sample`, and nothing is recorded."""
    state = SamplingState(SamplingParams(seed=3, temperature=1.7, top_p=0.9, presence_penalty=0.4))
    state.append(1)
    sampler = Sampler(5)
    found = sampler.explain(LOGITS[np.newaxis], state)
    assert found.probabilities.tobytes() == sampler.probabilities(LOGITS, [state]).tobytes()
    assert state.position == 1
    assert found.token_id == sampler.sample(LOGITS, [state]).token_ids[0]
    assert found.error is None


def test_only_stages_with_parameters_are_shown():
    """An explanation contains the stages with parameters only, even if they change nothing."""
    assert names(explain()) == ["logits"]
    unchanged = explain(top_k=5, frequency_penalty=1.0)
    assert names(unchanged) == ["logits", "frequency_presence", "top_k"]
    assert [step.mass_removed for step in unchanged.steps] == [0, 0, 0]


@pytest.mark.parametrize("profile", PROFILES)
def test_stages_are_shown_in_the_profiles_order(profile):
    """Stages are listed in the order of the profile."""
    found = explain(profile=profile, top_k=3, min_p=0.1, temperature=0.5, logit_bias={1: 0.5}, repetition_penalty=1.1)
    order = [stage.name for stage in PROFILES[profile].stages]
    places = [order.index(name) for name in names(found)[1:]]
    assert len(places) == 5
    assert places == sorted(places)


def test_edits_and_masks():
    """The explanation shows the effect of a bias, and the mass that a mask removes."""
    found = explain(logit_bias={4: 3.0}, banned_token_ids=[0])
    assert names(found) == ["logits", "logit_bias", "hard_masks"]
    biased = found.steps[1]
    assert [token_id for token_id, _ in biased.top_before(1)] == [0]
    assert [token_id for token_id, _ in biased.top_after(1)] == [4]
    assert found.steps[2].mass_removed == pytest.approx(biased.after[0])


def test_greedy_is_a_point():
    """Temperature 0 keeps the first token only, and is the reason for all others."""
    found = explain(temperature=0.0)
    assert [step.num_kept for step in found.steps] == [5, 1]
    assert found.token_id == 0
    assert found.why_not(0) is None
    assert found.why_not(1) == "dropped by temperature=0.0, before which its probability was 0.3"


@pytest.mark.parametrize(
    ("token_id", "params", "reason"),
    [
        (4, {"top_k": 3}, "dropped by top_k=3, before which its probability was 0.05"),
        (2, {"top_p": 0.5, "min_p": 0.9}, "dropped by top_p=0.5, before which its probability was 0.15"),
        (1, {"top_p": 0.5, "min_p": 0.9}, "dropped by min_p=0.9, before which its probability was 0.429"),
        (3, {"banned_token_ids": [2, 3]}, "banned by banned_token_ids"),
        (3, {"allowed_token_ids": [0, 1]}, "banned by allowed_token_ids"),
        (3, {"allowed_token_ids": [0, 1], "banned_token_ids": [3]}, "banned by allowed_token_ids, banned_token_ids"),
        (3, {"min_tokens": 2, "stop_token_ids": [3]}, "banned by min_tokens"),
        (3, {"no_repeat_ngram_size": 2, "prompt": [1, 3], "output": [1]}, "banned by no_repeat_ngram_size"),
        (3, {"bad_words": [[2], [1, 3]], "prompt": [1]}, "banned by bad_words"),
        (3, {"bitmask": np.array([0b10111], np.uint32)}, "banned by bitmask"),
        (3, {"num_valid": 3}, "banned by num_valid_tokens"),
        (3, {"temperature": 0.01}, "its weight is below 2**-40 of the largest after temperature=0.01"),
        (3, {"logit_bias": {0: 60.0}}, "its weight is below 2**-40 of the largest after logit_bias=((0, 60.0),)"),
        (1, {"xtc_probability": 1.0, "xtc_threshold": 0.1}, "dropped by xtc_probability=1.0, before which"),
        (4, {"mirostat_tau": 1.0}, "dropped by mirostat_tau=1.0, before which its probability was 0.05"),
        (
            4,
            {"mirostat_tau": 1.0, "mirostat_version": 1},
            "dropped by mirostat_tau=1.0 mirostat_version=1, before which",
        ),
        (4, {"top_h": 0.6}, "dropped by top_h=0.6, before which its probability was 0.05"),
        (4, {"p_less": "plain"}, "dropped by p_less='plain', before which its probability was 0.05"),
        (4, {"min_k": 0.0}, "dropped by min_k=0.0, before which its probability was 0.05"),
        (4, {"tfs": 0.3}, "dropped by tfs=0.3, before which its probability was 0.05"),
        (4, {"top_k": 2, "adaptive_p_target": 0.1}, "dropped by top_k=2, before which its probability was 0.05"),
        (4, {"logit_bias": {4: -25.0}, "skew": -5.0}, "its weight is below 2**-40 of the largest after skew=-5.0"),
    ],
)
def test_why_not(token_id, params, reason):
    """`why_not` names the stage that dropped a token, all masks that ban it, or the cut of small weights."""
    found = explain(**params).why_not(token_id)
    assert found is not None
    assert found.startswith(reason)


def test_why_not_by_the_logits():
    """`why_not` reports a token that the logits ban, and one whose weight is too small from the beginning."""
    found = explain(np.array([0, -np.inf, -100], np.float32))
    assert found.why_not(1) == "banned by the logits"
    assert found.why_not(2) == "its weight is below 2**-40 of the largest after logits"


@pytest.mark.parametrize("params", [{}, {"top_p": 0.6}, {"allowed_token_ids": [1, 4]}, {"temperature": 0.05}])
def test_why_not_exactly_for_probability_0(params):
    """`why_not` returns a reason exactly if the token's probability is 0."""
    found = explain(**params)
    for token_id in range(5):
        assert (found.why_not(token_id) is None) == (found.probabilities[token_id] > 0)


def test_a_token_below_the_cut_at_a_higher_temperature():
    """A token below the cut at temperature 1 may be drawn at a higher temperature, and then has no reason."""
    logits = np.array([0, -30], np.float32)
    found = explain(logits, temperature=3.0)
    assert [step.num_kept for step in found.steps] == [1, 2]
    assert found.why_not(1) is None


def test_a_row_that_fails_at_a_stage():
    """A row that fails is explained up to the failing stage, and `why_not` still names the masks."""
    found = explain(top_k=3, banned_token_ids=[0, 1], allowed_token_ids=[0, 1])
    assert names(found) == ["logits"]
    assert found.token_id is None
    assert str(found.error) == "logits[0]: no token is left to draw after stage hard_masks"
    assert found.why_not(0) == "banned by banned_token_ids"
    assert found.why_not(4) == "banned by allowed_token_ids"
    assert str(found).splitlines()[-1] == f"fails: {found.error}"


def test_rows_that_cannot_be_explained():
    """Two rows, non-finite logits, a missing state and bad token ids raise errors."""
    state = SamplingState(SamplingParams())
    with pytest.raises(LogitsError, match="one row"):
        Sampler(5).explain(np.stack([LOGITS, LOGITS]), state)
    with pytest.raises(NonFiniteLogitsError):
        explain(np.array([0, np.nan], np.float32))
    with pytest.raises(ParameterError, match="state="):
        Sampler(5).explain(LOGITS, None)
    for token_id in (-1, 5, 1.0, True):
        with pytest.raises(ParameterError, match="token_id"):
            explain().why_not(token_id)


def test_the_table():
    """The table has one line per stage, in columns, then the drawn token, with texts from the caller's function."""
    found = explain(top_k=2)
    lines = found.table(lambda token_id: "abcde"[token_id], num_top=2).splitlines()
    assert lines == [
        "stage         kept   removed   entropy  most likely",
        "logits           5  0.000000    1.3923  a 0.4000  b 0.3000",
        "top_k=2          2  0.300000    0.6829  a 0.5714  b 0.4286",
        f"drawn: {'abcde'[found.token_id]} {found.probabilities[found.token_id]:.4f}",
    ]
    assert str(found).splitlines()[2] == "top_k=2          2  0.300000    0.6829  0 0.5714  1 0.4286"


def test_long_settings_are_cut():
    """Long settings are cut, so that the column of stages has at most 48 characters."""
    found = explain(logit_bias=dict.fromkeys(range(5), 0.125), allowed_token_ids=range(5), min_tokens=1)
    assert max(len(line.split("  ")[0]) for line in str(found).splitlines()) <= 48


def test_half_precision():
    """bfloat16 rows can be explained."""
    bits = (np.array([1, -np.inf, 0.5], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    found = explain(bits)
    assert found.why_not(1) == "banned by the logits"
    assert found.steps[0].num_kept == 2


def test_reshaping_is_shown_as_a_step():
    """adaptive_p and skew are steps after the truncations that drop no token and change the weights."""
    explanation = explain(top_k=4, adaptive_p_target=0.15, skew=0.5)
    assert [step.name for step in explanation.steps] == ["logits", "top_k", "adaptive_p", "skew"]
    _, truncated, adapted, skewed = explanation.steps
    assert truncated.num_kept == adapted.num_kept == skewed.num_kept == 4
    assert not adapted.truncates
    assert adapted.top_after(1)[0][0] != truncated.top_after(1)[0][0]
    assert "adaptive_p_target=0.15" in str(explanation)
