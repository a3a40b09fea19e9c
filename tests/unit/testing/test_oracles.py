"""Tests of the public oracles: refused arguments, return values, and p-values that are valid."""

import numpy as np
import pytest

from decoding import ParameterError, SamplingParams, SamplingState
from decoding.testing import (
    assert_distribution,
    assert_independent,
    assert_matches_reference,
    find_faults,
    reference_row,
    sequence_distribution,
    text_distribution,
)
from decoding.testing.assertions import distribution_p_values, independence_p_values
from decoding.testing.statistics import (
    bins_test,
    g_test,
    holm,
    independence_test,
    largest_deviation_test,
    randomised_pit,
    uniformity_test,
)

FLAT = np.full(4, 0.25)


@pytest.mark.parametrize(
    ("draws", "probabilities", "name"),
    [
        ([], FLAT, "draws"),
        ([0.5], FLAT, "draws"),
        ([[0]], FLAT, "draws"),
        ([True], FLAT, "draws"),
        ([0, 1], [[0.5, 0.5]], "probabilities"),
        ([0], [np.nan, 1.0], "probabilities"),
        ([0], [-0.5, 1.5], "probabilities"),
        ([0], [0.0, 0.0], "probabilities"),
    ],
)
def test_invalid_draws_and_distributions_are_refused(draws, probabilities, name):
    """Invalid draws or probabilities raise a ParameterError instead of a verdict."""
    with pytest.raises(ParameterError, match=name):
        assert_distribution(draws, probabilities)


@pytest.mark.parametrize("token", [-1, 4])
def test_a_draw_outside_of_the_vocabulary_is_a_verdict(token):
    """A drawn id outside the vocabulary raises an AssertionError."""
    with pytest.raises(AssertionError, match="not in the vocabulary of 4"):
        assert_distribution([0, token], FLAT)


@pytest.mark.parametrize(
    ("draws", "lags", "name"), [([0, 1], (1,), "draws"), ([[0] * 4] * 100, (4,), "lags"), ([[0, 1]] * 5, (1,), "draws")]
)
def test_independence_needs_pairs(draws, lags, name):
    """assert_independent needs rows, lags that fit in them, and enough pairs."""
    with pytest.raises(ParameterError, match=name):
        assert_independent(draws, FLAT, lags=lags)


def test_return_values_of_a_sampler():
    """A sampler must return a token id or a distribution of the row's length; other values raise an AssertionError."""
    logits = np.zeros(3, np.float32)
    for wrong in (np.zeros(2), 0.5, None, "a", [[1.0, 0, 0]]):
        with pytest.raises(AssertionError, match="must return a token id, or a distribution"):
            assert_matches_reference(lambda *args, wrong=wrong: wrong, logits, SamplingParams())
    for wrong, told in (([2.0, -1.0, 0.0], "must be probabilities"), ([0.3, 0.3, 0.3], "add up to 0.9")):
        with pytest.raises(AssertionError, match=told):
            assert_matches_reference(lambda *args, wrong=wrong: wrong, logits, SamplingParams())


def test_the_message_names_row_and_parameters():
    """The message of a mismatch names the row and its parameters."""
    logits = np.array([[0, 0], [0, 5]], np.float32)

    def flat(row, params, history, seed):
        return np.full(2, 0.5)

    with pytest.raises(AssertionError, match=r"row 1, SamplingParams\(top_k=5\): has probabilities"):
        assert_matches_reference(flat, logits, SamplingParams(top_k=5))
    with pytest.raises(ParameterError, match="one per row"):
        assert_matches_reference(flat, logits, [SamplingParams()] * 3)


def test_a_sampler_cannot_change_the_logits():
    """A sampler gets a copy of the logits, so that it cannot change the caller's."""
    logits = np.zeros(3, np.float32)

    def spoils(row, params, history, seed):
        row[:] = -np.inf
        return np.full(3, 1 / 3)

    assert_matches_reference(spoils, logits, SamplingParams())
    assert not logits.any()


def test_history_of_a_state():
    """A sampler gets the state's prompt and output tokens separately, and the seed."""
    state = SamplingState(SamplingParams(), [1, 2])
    state.append(0)
    seen = []

    def looks(row, params, history, seed):
        seen.append((history, seed))
        return np.full(3, 1 / 3)

    assert_matches_reference(looks, np.zeros(3, np.float32), state)
    assert seen == [(((1, 2), (0,)), 0)]


def test_unknown_parameters_are_refused():
    """An unknown parameter name in find_faults raises a ParameterError."""
    with pytest.raises(ParameterError, match="temperatur"):
        find_faults(lambda *args: 0, parameters=["temperatur"])


def test_too_many_sequences_are_refused():
    """More sequences than max_sequences raise a ParameterError."""
    with pytest.raises(ParameterError, match="max_sequences=100"):
        sequence_distribution(lambda ids: np.zeros(8), [0], SamplingParams(), num_tokens=9, max_sequences=100)


def test_equal_texts_add_up():
    """The probabilities of sequences with the same text are added."""
    exact = sequence_distribution(lambda ids: np.zeros(2), [0], SamplingParams(), num_tokens=2)
    assert text_distribution(exact, sum) == {0: 0.25, 1: 0.5, 2: 0.25}


def test_penalties_and_endings_are_part_of_the_enumeration():
    """The enumeration applies stop ids, min_tokens and penalties."""
    params = SamplingParams(stop_token_ids=[1], min_tokens=1, presence_penalty=100.0)
    exact = sequence_distribution(lambda ids: np.zeros(3), [0], params, num_tokens=2)
    assert {ids: round(p, 6) for ids, p in exact.items() if p > 1e-9} == {
        (0, 1): 0.25,
        (0, 2): 0.25,
        (2, 0): 0.25,
        (2, 1): 0.25,
    }


def test_holms_method():
    """Holm's method compares the smallest p with alpha / n, the next with alpha / (n - 1), and stops at a failure."""
    assert holm({"a": 0.01, "b": 0.02, "c": 0.5}, 0.05) == ["a", "b"]
    assert holm({"a": 0.02, "b": 0.02, "c": 0.02}, 0.05) == []
    assert holm({}, 0.05) == []


def test_p_values_are_uniform_or_larger():
    """Over 200 correct samples, p < 0.05 occurs in about 5 % of the cases at most."""
    rng = np.random.default_rng(1)
    p = 1 / np.arange(1, 101)
    p /= p.sum()
    found = {}
    for _ in range(200):
        values = distribution_p_values(rng.choice(100, 2000, p=p), p)
        values |= independence_p_values(rng.choice(4, (40, 20)), FLAT)
        for name, value in values.items():
            found.setdefault(name, []).append(value < 0.05)
    assert len(found) == 10
    assert {name: rate for name in found if (rate := np.mean(found[name])) > 0.11} == {}


def test_randomised_pit_by_hand():
    """Each PIT value lies in its token's interval, in either order, with one distribution or one per draw."""
    p = np.array([0.5, 0.2, 0.3])
    draws = np.array([0, 1, 2, 1])
    by_id = randomised_pit(draws, p)
    assert ((by_id >= [0, 0.5, 0.7, 0.5]) & (by_id <= [0.5, 0.7, 1.0, 0.7])).all()
    order = np.argsort(-p)
    by_size = randomised_pit(draws, p, order)
    assert ((by_size >= [0, 0.8, 0.5, 0.8]) & (by_size <= [0.5, 1.0, 0.8, 1.0])).all()
    rows = np.tile(p, (4, 1))
    np.testing.assert_allclose(randomised_pit(draws, rows), by_id)
    np.testing.assert_allclose(randomised_pit(draws, rows, np.tile(order, (4, 1))), by_size)


def test_small_samples_have_p_value_1():
    """Samples too small for a second cell have p = 1."""
    assert g_test(np.array([3, 1]), np.array([0.5, 0.5])) == 1.0
    assert largest_deviation_test(np.array([3, 1]), np.array([0.5, 0.5])) == 1.0
    assert bins_test(np.array([0.1, 0.2])) == 1.0
    assert independence_test(np.array([[5, 0], [0, 0]])) == 1.0
    assert uniformity_test(np.array([0.5])) == 1.0


def test_a_row_of_the_reference():
    """reference_row returns the reference's row for a sampler and a state."""
    from decoding import Sampler

    row = reference_row(Sampler(3), np.array([0, 1, 0], np.float32), SamplingState(SamplingParams(temperature=0)))
    assert row.token_id == 1
