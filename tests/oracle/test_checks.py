"""The comparison with the reference fails for a sampler with any single fault."""

from types import SimpleNamespace

import numpy as np
import pytest

from decoding.params import SamplingParams
from decoding.sampling.sampler import Sampler, SamplingState
from decoding.sampling.stages import PROFILES
from decoding.testing import assert_matches_reference

SECOND = np.array([[[0.0], [4e-6]]], np.float32)  # added to a report [rows, modes, N]: to the second mode


class Wrong(Sampler):
    """A sampler whose results and profile can be falsified."""

    profile = PROFILES["openai"]

    def __init__(self, vocab_size, *, output=lambda output: {}, probabilities=lambda p: p):
        super().__init__(vocab_size)
        self.falsify_output, self.falsify_probabilities = output, probabilities

    def sample(self, *args, **kwargs):
        """Return the correct output with some replaced arrays."""
        output = super().sample(*args, **kwargs)
        true = {name: getattr(output, name) for name in dir(output) if not name.startswith("_")}
        return SimpleNamespace(**(true | self.falsify_output(output)))

    def probabilities(self, *args, **kwargs):
        """Return the distribution after `falsify_probabilities`."""
        return self.falsify_probabilities(super().probabilities(*args, **kwargs))


SETTINGS = {"top_k": 20, "top_p": 0.9, "logprobs": 5, "logprobs_mode": ("final", "raw")}


def check(settings=SETTINGS, profile=None, **wrong):
    """Compare a falsified sampler with the reference on two rows."""
    logits = np.random.default_rng(3).normal(0, 2, (2, 100)).astype(np.float32)
    params = SamplingParams(seed=1, **settings)
    sampler = Wrong(100, **wrong)
    sampler.profile = PROFILES[profile or "openai"]  # the claimed profile, not the one that runs
    assert_matches_reference(sampler, logits, [SamplingState(params), SamplingState(params, choice=1)])


def drop_last(probabilities):
    """Return the distribution without the least likely kept token, renormalised."""
    smallest = np.where(probabilities > 0, probabilities, 2).argmin()
    probabilities = np.where(np.arange(probabilities.size) == smallest, 0, probabilities)
    return probabilities / probabilities.sum()


def test_the_truth_passes():
    """A correct sampler passes, and the comparison reads all of its results."""
    outputs, distributions = [], []
    check(output=lambda o: outputs.append(o) or {}, probabilities=lambda p: distributions.append(p) or p)
    assert [output.token_ids.shape for output in outputs] == [(2,)]
    assert np.concatenate(distributions).shape == (2, 100)


@pytest.mark.parametrize(
    ("what", "wrong"),
    [
        ("draws token", {"output": lambda o: {"token_ids": (o.token_ids + 1) % 100}}),
        ("draws token", {"output": lambda o: {"token_ids": o.token_ids - 101}}),
        ("logprob of token", {"output": lambda o: {"all_logprobs": o.all_logprobs + np.float32(4e-6)}}),
        ("reports rank", {"output": lambda o: {"ranks": o.ranks + 1}}),
        ("top-N", {"output": lambda o: {"top_token_ids": o.top_token_ids[:, ::-1]}}),
        ("top token", {"output": lambda o: {"all_top_logprobs": o.all_top_logprobs - np.float32(4e-6)}}),
        ("fails with", {"output": lambda o: {"errors": (ValueError("no"), None)}}),
        ("row 0", {"probabilities": lambda p: p * (1 + 1e-5 * (np.arange(100) % 2))}),
        ("total mass", {"probabilities": lambda p: p * (1 + 1e-6)}),
        ("keeps", {"probabilities": drop_last}),
        ("differs at ids", {"probabilities": lambda p: p[:, ::-1]}),
        ("raw logprob of token", {"output": lambda o: {"all_logprobs": o.all_logprobs + SECOND[..., 0]}}),
        ("raw logprob of top token", {"output": lambda o: {"all_top_logprobs": o.all_top_logprobs + SECOND}}),
        ("surprise of 1", {"output": lambda o: {"surprises": np.ones(2, np.float32)}}),
    ],
)
def test_each_wrong_array_is_found(what, wrong):
    """A single array that is wrong by little more than rounding fails the comparison, which names it."""
    with pytest.raises(AssertionError, match=what):
        check(**wrong)


def drop(place):
    """Return a falsifier that drops the kept token at a rank of probability and renormalises."""

    def falsify(probabilities):
        p = probabilities.copy()
        p[0, np.argsort(-p[0])[place]] = 0
        return p / p.sum()

    return falsify


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"typical_p": 0.5}, 0),
        ({"typical_p": 0.5}, 3),
        ({"xtc_probability": 1.0, "xtc_threshold": 0.02}, 0),
        ({"top_n_sigma": 1.5}, 1),
        ({"epsilon_cutoff": 0.01}, 1),
        ({"eta_cutoff": 0.1}, 1),
        ({"top_a": 0.2}, 1),
        ({"mirostat_tau": 2.0}, 1),
        ({"mirostat_tau": 2.0, "mirostat_version": 1}, 1),
        ({"top_h": 0.7}, 1),
        ({"p_less": "plain"}, 1),
        ({"p_less": "norm"}, 1),
        ({"min_k": 40.0}, 1),
        ({"tfs": 0.9}, 1),
        ({"adaptive_p_target": 0.3}, 1),
        ({"skew": 0.5}, 1),
        ({"min_p": 0.01, "dynatemp_range": 0.5, "smoothing_factor": 0.1}, 1),
    ],
)
def test_a_lost_token_is_found(settings, place):
    """A dropped token is found, also if the kept set is no prefix of the order or depends on an entropy."""
    check(settings)
    with pytest.raises(AssertionError, match="differs at ids"):
        check(settings, probabilities=drop(place))


@pytest.mark.parametrize("settings", [{"dynatemp_range": 0.5}, {"smoothing_factor": 0.3}, {"temperature": 1.7}])
def test_a_wrong_shape_is_found(settings):
    """An error of 1e-4 in the exponents of the probabilities is found, for each stage that changes the shape."""

    def flatter(probabilities):
        p = probabilities ** (1 - 1e-4)
        return p / p.sum()

    with pytest.raises(AssertionError, match="has probabilities"):
        check(settings, probabilities=flatter)


def test_another_profile_is_found():
    """A sampler that claims the profile llama_cpp but runs the default order is found."""
    settings = {"temperature": 2.0, "top_p": 0.8}
    check(settings)
    with pytest.raises(AssertionError, match="differs at ids"):
        check(settings, profile="llama_cpp")


def test_a_wrong_surprise_is_found():
    """A surprise in nats instead of bits, and a missing surprise, is found."""
    check({"mirostat_tau": 3.0})
    check({"adaptive_p_target": 0.3, "skew": 0.5})
    for wrong in (
        lambda o: {"surprises": o.surprises * np.float32(np.log(2))},
        lambda o: {"surprises": o.surprises * np.nan},
    ):
        with pytest.raises(AssertionError, match="surprise"):
            check({"mirostat_tau": 3.0}, output=wrong)
        with pytest.raises(AssertionError, match="surprise"):
            check({"adaptive_p_target": 0.3, "skew": 0.5}, output=wrong)


def test_a_missing_error_is_found():
    """A row that should fail but does not is found."""
    sampler = Wrong(3, output=lambda output: {"errors": (None,)})
    with pytest.raises(AssertionError, match="NonFiniteLogitsError"):
        assert_matches_reference(sampler, np.array([[0, np.nan, 0]], np.float32), [SamplingState(SamplingParams())])


def test_unasked_reports_are_found():
    """Log-probabilities that were not requested are found."""
    sampler = Wrong(3, output=lambda output: {"all_logprobs": np.zeros((1, 1), np.float32)})
    with pytest.raises(AssertionError, match="unasked"):
        assert_matches_reference(sampler, np.zeros((1, 3), np.float32), [SamplingState(SamplingParams())])
