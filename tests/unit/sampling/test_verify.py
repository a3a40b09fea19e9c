"""`Sampler.verify`: accepted draft tokens, recorded tokens and refused arguments."""

import numpy as np
import pytest

from decoding import Sampler, SamplingParams, SamplingState
from decoding.errors import EmptySupportError, LogitsError, NonFiniteLogitsError, ParameterError

VOCAB_SIZE = 8
LOGITS = np.full((4, VOCAB_SIZE), -5, np.float32)
LOGITS[range(4), [3, 1, 4, 1]] = 5  # greedy draws 3, 1, 4, 1
GREEDY = SamplingParams(temperature=0, logprobs=1, logprobs_mode=("raw", "final"))


@pytest.mark.parametrize(
    ("draft", "num_rows", "drawn", "num_accepted"),
    [
        ([3, 1, 4], 4, [3, 1, 4, 1], 3),
        ([3, 1, 4], 3, [3, 1, 4], 3),
        ([3, 1, 5], 4, [3, 1, 4], 2),
        ([2, 1, 4], 4, [3], 0),
        ([3, 2, 4], 3, [3, 1], 1),
        ([], 1, [3], 0),
        ([], 0, [], 0),
    ],
)
def test_accepted_up_to_the_first_disagreement(draft, num_rows, drawn, num_accepted):
    """Draft tokens are accepted up to the first one that differs from the drawn token, which is recorded instead."""
    state = SamplingState(GREEDY)
    state.append(7)
    verification = Sampler(VOCAB_SIZE).verify(LOGITS[:num_rows], state, draft)
    assert (verification.token_ids, verification.num_accepted) == (drawn, num_accepted)
    assert state.output_token_ids == [7, *drawn]


def test_verify_agrees_with_sample():
    """`verify` reports the same bits as `sample`, row by row, for the recorded tokens."""
    sampler, state = Sampler(VOCAB_SIZE), SamplingState(GREEDY)
    output = sampler.verify(LOGITS, SamplingState(GREEDY), [3, 1, 0]).output
    assert len(output) == 3
    for row in range(3):
        plain = sampler.sample(LOGITS[row], [state])
        assert output.words[row].tobytes() == plain.words[0].tobytes()
        assert output.top_token_ids[row].tolist() == plain.top_token_ids[0].tolist()
        assert output.all_top_logprobs[row].tobytes() == plain.all_top_logprobs[0].tobytes()
    assert output.all_logprobs.shape == (3, 2)


def test_a_failed_row_restores_the_state():
    """A failed row is named by its index and restores the state, mirostat's bound and mask included."""
    logits = LOGITS.copy()
    logits[2, 6] = np.nan
    state = SamplingState(SamplingParams(temperature=0, mirostat_tau=2.0))
    state.append(1, 0.5)
    state.bitmask = np.array([0xFF], np.uint32)
    bound, mask = state.mirostat_mu, state.bitmask
    with pytest.raises(NonFiniteLogitsError) as caught:
        Sampler(VOCAB_SIZE).verify(logits, state, [3, 1, 4])
    assert (caught.value.row, caught.value.token_id) == (2, 6)
    assert (state.output_token_ids, state.mirostat_mu) == ([1], bound)
    assert state.bitmask is mask


def test_each_row_has_its_mask():
    """Row i is drawn under mask i, and the state's own mask is left unchanged."""
    masks = np.full((4, 1), 0xFF, np.uint32)
    masks[1] = 1 << 6
    for given in (masks, masks.view(np.int32)):
        state = SamplingState(GREEDY)
        own = state.bitmask = np.array([1], np.uint32)
        verification = Sampler(VOCAB_SIZE).verify(LOGITS, state, [3, 1, 4], bitmasks=given)
        assert (verification.token_ids, verification.num_accepted) == ([3, 6], 1)
        assert state.bitmask.tolist() == own.tolist()


def test_a_mask_that_bans_every_token():
    """A mask that bans every token raises an EmptySupportError for its row."""
    state = SamplingState(GREEDY)
    masks = np.array([[0xFF], [0]], np.uint32)
    with pytest.raises(EmptySupportError) as caught:
        Sampler(VOCAB_SIZE).verify(LOGITS[:2], state, [3, 1], bitmasks=masks)
    assert (caught.value.row, state.position) == (1, 0)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("draft_token_ids", {"draft_token_ids": [3, 1]}),
        ("draft_token_ids", {"draft_token_ids": [3, 1, 4, 1, 5]}),
        ("draft_token_ids", {"draft_token_ids": [3, 1, -1]}),
        ("draft_token_ids", {"draft_token_ids": 3}),
        ("state", {"state": SamplingParams()}),
        ("bitmasks", {"bitmasks": np.zeros((3, 1), np.uint32)}),
        ("bitmasks", {"bitmasks": np.zeros(4, np.uint32)}),
        ("bitmasks", {"bitmasks": [[0]] * 4}),
        ("bitmasks", {"bitmasks": np.zeros((4, 1), np.int64)}),
        ("bitmask", {"bitmasks": np.zeros((4, 2), np.uint32)}),
    ],
)
def test_arguments(name, arguments):
    """A wrong argument raises an error that names it, and nothing is recorded."""
    state = SamplingState(SamplingParams())
    good = {"logits": LOGITS, "state": state, "draft_token_ids": [3, 1, 4]}
    with pytest.raises(ParameterError) as caught:
        Sampler(VOCAB_SIZE).verify(**(good | arguments))
    assert [problem.parameter.partition("[")[0] for problem in caught.value.problems] == [name]
    assert state.position == 0


def test_logits_are_checked():
    """Logits of a wrong dtype raise a LogitsError."""
    with pytest.raises(LogitsError, match="float64"):
        Sampler(VOCAB_SIZE).verify(LOGITS.astype(np.float64), SamplingState(SamplingParams()), [3, 1, 4])
