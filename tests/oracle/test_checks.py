"""The comparison itself: a sampler that is wrong in any one way must not pass it."""

import dataclasses

import numpy as np
import pytest

from decoding.params import SamplingParams
from decoding.sampler import Sampler, SamplingState
from decoding.testing import assert_matches_reference


class Wrong(Sampler):
    """A sampler whose results a test can falsify."""

    def __init__(self, vocab_size, *, output=lambda output: {}, probabilities=lambda p: p):
        super().__init__(vocab_size)
        self.falsify_output, self.falsify_probabilities = output, probabilities

    def sample(self, *args, **kwargs):
        """The true output with some arrays replaced."""
        output = super().sample(*args, **kwargs)
        return dataclasses.replace(output, **self.falsify_output(output))

    def probabilities(self, *args, **kwargs):
        """The true distribution, passed through the falsifier."""
        return self.falsify_probabilities(super().probabilities(*args, **kwargs))


def check(**wrong):
    """Compare a falsified sampler on a row with logprobs, top-5, top_k 20 and top_p 0.9."""
    logits = np.random.default_rng(3).normal(0, 2, (2, 100)).astype(np.float32)
    params = SamplingParams(seed=1, top_k=20, top_p=0.9, logprobs=5, logprobs_mode="final")
    assert_matches_reference(Wrong(100, **wrong), logits, [SamplingState(params), SamplingState(params, choice=1)])


def drop_last(probabilities):
    """Forget the least likely of the kept tokens, and renormalise."""
    smallest = np.where(probabilities > 0, probabilities, 2).argmin()
    probabilities = np.where(np.arange(probabilities.size) == smallest, 0, probabilities)
    return probabilities / probabilities.sum()


def test_the_truth_passes():
    """Nothing is wrong with the sampler as it is."""
    check()


@pytest.mark.parametrize(
    ("what", "wrong"),
    [
        ("draws token", {"output": lambda o: {"token_ids": (o.token_ids + 1) % 100}}),
        ("draws token", {"output": lambda o: {"token_ids": o.token_ids - 101}}),
        ("logprob of token", {"output": lambda o: {"logprobs": o.logprobs + np.float32(4e-6)}}),
        ("reports rank", {"output": lambda o: {"ranks": o.ranks + 1}}),
        ("top-N", {"output": lambda o: {"top_token_ids": o.top_token_ids[:, ::-1]}}),
        ("top token", {"output": lambda o: {"top_logprobs": o.top_logprobs - np.float32(4e-6)}}),
        ("fails with", {"output": lambda o: {"errors": (ValueError("no"), None)}}),
        ("row 0", {"probabilities": lambda p: p * (1 + 1e-5 * (np.arange(100) % 2))}),
        ("total mass", {"probabilities": lambda p: p * (1 + 1e-6)}),
        ("keeps", {"probabilities": drop_last}),
        ("not the first in order", {"probabilities": lambda p: p[:, ::-1]}),
    ],
)
def test_each_kind_of_lie_is_found(what, wrong):
    """One falsified array, by little more than rounding, and the comparison fails and says what differs."""
    with pytest.raises(AssertionError, match=what):
        check(**wrong)


def test_a_missing_error_is_found():
    """A row that must fail and does not is a difference too."""
    sampler = Wrong(3, output=lambda output: {"errors": (None,)})
    with pytest.raises(AssertionError, match="NonFiniteLogitsError"):
        assert_matches_reference(sampler, np.array([[0, np.nan, 0]], np.float32), [SamplingState(SamplingParams())])


def test_unasked_reports_are_found():
    """Where no log-probabilities were asked for there must be none."""
    sampler = Wrong(3, output=lambda output: {"logprobs": np.zeros(1, np.float32)})
    with pytest.raises(AssertionError, match="unasked"):
        assert_matches_reference(sampler, np.zeros((1, 3), np.float32), [SamplingState(SamplingParams())])
