"""The oracles' own edges: what they refuse, what they return, and that their p-values mean what they say."""

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
def test_what_is_no_draw_or_no_distribution_is_refused(draws, probabilities, name):
    """A mistake in the test is an error that names the argument, not a verdict."""
    with pytest.raises(ParameterError, match=name):
        assert_distribution(draws, probabilities)


@pytest.mark.parametrize("token", [-1, 4])
def test_a_draw_outside_of_the_vocabulary_is_a_verdict(token):
    """A sampler that returns such an id is wrong."""
    with pytest.raises(AssertionError, match="not in the vocabulary of 4"):
        assert_distribution([0, token], FLAT)


@pytest.mark.parametrize(
    ("draws", "lags", "name"), [([0, 1], (1,), "draws"), ([[0] * 4] * 100, (4,), "lags"), ([[0, 1]] * 5, (1,), "draws")]
)
def test_independence_needs_pairs(draws, lags, name):
    """Rows, lags that fit in them, and enough pairs."""
    with pytest.raises(ParameterError, match=name):
        assert_independent(draws, FLAT, lags=lags)


def test_what_a_sampler_may_return():
    """A distribution of the row's length, or a token id; anything else is told as what it is."""
    logits = np.zeros(3, np.float32)
    for wrong in (np.zeros(2), 0.5, None, "a", [[1.0, 0, 0]]):
        with pytest.raises(AssertionError, match="must return a token id, or a distribution"):
            assert_matches_reference(lambda *args, wrong=wrong: wrong, logits, SamplingParams())
    for wrong, told in (([2.0, -1.0, 0.0], "must be probabilities"), ([0.3, 0.3, 0.3], "add up to 0.9")):
        with pytest.raises(AssertionError, match=told):
            assert_matches_reference(lambda *args, wrong=wrong: wrong, logits, SamplingParams())


def test_the_message_names_row_and_parameters():
    """Of two rows the second is wrong: its number, its parameters, and the ids that differ."""
    logits = np.array([[0, 0], [0, 5]], np.float32)

    def flat(row, params, history, seed):
        return np.full(2, 0.5)

    with pytest.raises(AssertionError, match=r"row 1, SamplingParams\(top_k=5\): has probabilities"):
        assert_matches_reference(flat, logits, SamplingParams(top_k=5))
    with pytest.raises(ParameterError, match="one per row"):
        assert_matches_reference(flat, logits, [SamplingParams()] * 3)


def test_a_sampler_may_not_change_what_it_is_given():
    """It gets a copy: what it writes there reaches nobody."""
    logits = np.zeros(3, np.float32)

    def spoils(row, params, history, seed):
        row[:] = -np.inf
        return np.full(3, 1 / 3)

    assert_matches_reference(spoils, logits, SamplingParams())
    assert not logits.any()


def test_history_is_what_the_state_has():
    """Prompt and output, apart."""
    state = SamplingState(SamplingParams(), [1, 2])
    state.append(0)
    seen = []

    def looks(row, params, history, seed):
        seen.append((history, seed))
        return np.full(3, 1 / 3)

    assert_matches_reference(looks, np.zeros(3, np.float32), state)
    assert seen == [(((1, 2), (0,)), 0)]


def test_unknown_parameters_are_refused():
    """A misspelt name would leave out the probes that it was meant for."""
    with pytest.raises(ParameterError, match="temperatur"):
        find_faults(lambda *args: 0, parameters=["temperatur"])


def test_too_many_sequences_are_refused():
    """Before memory is full."""
    with pytest.raises(ParameterError, match="max_sequences=100"):
        sequence_distribution(lambda ids: np.zeros(8), [0], SamplingParams(), num_tokens=9, max_sequences=100)


def test_equal_texts_add_up():
    """Two sequences that are the same text are one outcome."""
    exact = sequence_distribution(lambda ids: np.zeros(2), [0], SamplingParams(), num_tokens=2)
    assert text_distribution(exact, sum) == {0: 0.25, 1: 0.5, 2: 0.25}


def test_penalties_and_endings_are_part_of_the_enumeration():
    """A stop id ends a sequence, min_tokens bans it, and a penalty counts what the sequence has."""
    params = SamplingParams(stop_token_ids=[1], min_tokens=1, presence_penalty=100.0)
    exact = sequence_distribution(lambda ids: np.zeros(3), [0], params, num_tokens=2)
    assert {ids: round(p, 6) for ids, p in exact.items() if p > 1e-9} == {
        (0, 1): 0.25,
        (0, 2): 0.25,
        (2, 0): 0.25,
        (2, 1): 0.25,
    }


def test_holm_is_a_ladder():
    """The smallest against alpha / 3, the next against alpha / 2: where one stands, all after it do."""
    assert holm({"a": 0.01, "b": 0.02, "c": 0.5}, 0.05) == ["a", "b"]
    assert holm({"a": 0.02, "b": 0.02, "c": 0.02}, 0.05) == []
    assert holm({}, 0.05) == []


def test_p_values_are_uniform_or_larger():
    """Over 200 right samples no test gives p < 0.05 more often than in 5 %, within what 200 can tell."""
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
    """Each number lies in its token's interval, in either order, for one distribution or one a draw."""
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


def test_small_samples_say_nothing():
    """Too few draws for a second cell: p is 1, not a number made of nothing."""
    assert g_test(np.array([3, 1]), np.array([0.5, 0.5])) == 1.0
    assert largest_deviation_test(np.array([3, 1]), np.array([0.5, 0.5])) == 1.0
    assert bins_test(np.array([0.1, 0.2])) == 1.0
    assert independence_test(np.array([[5, 0], [0, 0]])) == 1.0
    assert uniformity_test(np.array([0.5])) == 1.0


def test_a_row_of_the_reference():
    """What the sampler's own comparison is made of is public, too."""
    from decoding import Sampler

    row = reference_row(Sampler(3), np.array([0, 1, 0], np.float32), SamplingState(SamplingParams(temperature=0)))
    assert row.token_id == 1
