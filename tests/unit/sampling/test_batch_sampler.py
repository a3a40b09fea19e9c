"""BatchSampler: it draws the same tokens as single states, while sequences are added, removed and forked."""

import json
import pickle

import numpy as np
import pytest

from decoding import BatchSampler, Sampler, SamplingParams, SamplingState
from decoding.errors import NonFiniteLogitsError, ParameterError

VOCAB_SIZE = 50
RNG = np.random.default_rng(5)
KINDS = [
    {"temperature": 0.8, "top_p": 0.9},
    {"presence_penalty": 0.4, "repetition_penalty": 1.2, "repetition_penalty_scope": 5, "logprobs": 3},
    {"mirostat_tau": 2.0, "mirostat_eta": 0.4},
    {"no_repeat_ngram_size": 2, "dry_multiplier": 0.8, "frequency_penalty": 0.3},
    {"min_tokens": 4, "stop_token_ids": [1, 2], "banned_token_ids": [3]},
    {"adaptive_p_target": 0.3, "presence_penalty": 0.5},
    {"mirostat_tau": 3.0, "mirostat_version": 1, "skew": 0.5, "tfs": 0.9, "top_h": 0.7},
    {"temperature": 0.0, "logprobs": 1, "logprobs_mode": ["final", "raw"], "repetition_penalty_scope": "output"},
]
PARAMS = [SamplingParams(seed=seed, **kind) for seed, kind in enumerate(KINDS)]
PROMPT = [4, 5, 4, 6]


def logits_of(num_rows):
    """Return random logits."""
    return RNG.standard_normal((num_rows, VOCAB_SIZE)).astype(np.float32) * 2


def filled():
    """Return a batch with one sequence of each kind, its sequence ids, and single states with the same arguments."""
    batch = BatchSampler(VOCAB_SIZE)
    names = [batch.add(params, PROMPT, stream=9, eos_token_ids=[0]) for params in PARAMS]
    states = [SamplingState(params, PROMPT, stream=9, eos_token_ids=[0]) for params in PARAMS]
    return batch, names, states


def assert_same(batch, names, states, num_steps):
    """Assert that steps of the batch report the same bits as calls of a sampler with the single states."""
    sampler = Sampler(VOCAB_SIZE)
    for _ in range(num_steps):
        logits = logits_of(len(names))
        expected = sampler.sample(logits, states)
        output = batch.step(logits, names)
        assert output.words.tobytes() == expected.words.tobytes()
        assert output.all_top_logprobs.tobytes() == expected.all_top_logprobs.tobytes()


def test_steps_agree_with_single_states():
    """A batch draws as single states do, for all kinds of parameters and beyond its initial memory."""
    batch, names, states = filled()
    assert_same(batch, names, states, 150)
    for name, state in zip(names, states, strict=True):
        assert batch.state(name).to_dict() == state.to_dict()


def test_any_rows_in_any_order():
    """A step may name a subset of the sequences in any order; the others stay unchanged."""
    batch, names, states = filled()
    for chosen in ([2, 0], [5, 4, 3, 2, 1, 0], [1]):
        assert_same(batch, [names[i] for i in chosen], [states[i] for i in chosen], 3)
    assert [batch.state(name).position for name in names] == [6, 6, 6, 3, 3, 3, 0, 0]


def test_sequences_are_added_and_removed():
    """By default a step covers all sequences; a removed state can be pickled and added again."""
    batch, names, states = filled()
    assert_same(batch, names, states, 5)
    removed = pickle.loads(pickle.dumps(batch.remove(names[2])))
    assert names[2] not in batch
    assert batch.sequences == tuple(names[:2] + names[3:])
    again = batch.add(removed)
    assert again == max(names) + 1
    assert_same(batch, [again, names[0]], [states[2], states[0]], 5)
    assert len(batch.step(logits_of(len(batch)))) == len(batch) == len(PARAMS)


@pytest.mark.parametrize("index", range(len(PARAMS)))
def test_fork(index):
    """A fork starts with the tokens so far and another choice; the fork and its origin are independent."""
    batch, names, states = filled()
    assert_same(batch, names, states, 4)
    fork = batch.fork(names[index], choice=3)
    twin = states[index].fork(choice=3)
    assert (twin.choice, twin.output_token_ids) == (3, states[index].output_token_ids)
    assert_same(batch, [fork, names[index]], [twin, states[index]], 6)


def test_truncate_and_append():
    """A sequence can be truncated, with its mirostat bound, and extended by tokens from elsewhere."""
    batch, names, states = filled()
    assert_same(batch, names, states, 6)
    for name, state in zip(names, states, strict=True):
        surprise = 1.5 if state.needs_surprise else None
        batch.truncate(name, 2)
        state.truncate(2)
        batch.append(name, 7, surprise)
        state.append(7, surprise)
    assert_same(batch, names, states, 6)


def test_masks_of_a_step():
    """Each row has its own mask for one step, and the rows of the masks may have any stride."""
    batch = BatchSampler(VOCAB_SIZE)
    names = [batch.add(SamplingParams(seed=1)) for _ in range(3)]
    masks = np.zeros((3, 4), np.uint32)
    for row, token_id in enumerate((7, 33, 49)):
        masks[row, token_id // 32] = 1 << token_id % 32
    for given in (masks[:, :2], masks[:, :2].view(np.int32)):
        assert batch.step(np.zeros((3, VOCAB_SIZE), np.float32), names, bitmasks=given).token_ids.tolist() == [
            7,
            33,
            49,
        ]
    steps = [batch.step(np.zeros((3, VOCAB_SIZE), np.float32)).token_ids.tolist() for _ in range(3)]
    assert steps != [[7, 33, 49]] * 3
    for wrong in (masks, masks[:2, :2], [[1, 2]]):
        with pytest.raises(ParameterError, match="bitmasks"):
            batch.step(np.zeros((3, VOCAB_SIZE), np.float32), bitmasks=wrong)


def test_a_failed_row():
    """By default a failed row leaves all sequences unchanged; with "status" the other rows are recorded."""
    batch, names, _ = filled()
    logits = logits_of(len(names))
    logits[1, 3] = np.nan
    before = [batch.state(name).to_dict() for name in names]
    with pytest.raises(NonFiniteLogitsError, match=r"logits\[1\]"):
        batch.step(logits)
    assert [batch.state(name).to_dict() for name in names] == before
    output = batch.step(logits, on_error="status")
    assert [error is None for error in output.errors] == [row != 1 for row in range(len(PARAMS))]
    assert [batch.state(name).position for name in names] == [int(row != 1) for row in range(len(PARAMS))]


def test_wrong_arguments():
    """Unknown, removed or repeated sequences and wrong arguments raise an error that names the parameter."""
    batch, names, _ = filled()
    batch.remove(names[0])
    rows = logits_of(2)
    for call, name in (
        (lambda: batch.step(rows, [names[0], names[1]]), "sequence"),
        (lambda: batch.step(rows, [names[1], names[1]]), "sequences"),
        (lambda: batch.step(rows, names[1:]), "logits.shape"),
        (lambda: batch.step(rows, names[1:3], on_error="skip"), "on_error"),
        (lambda: batch.remove(99), "sequence"),
        (lambda: batch.fork(names[1], choice=-1), "choice"),
        (lambda: batch.add(SamplingParams(stop="x")), "stop"),
        (lambda: batch.add(SamplingParams(presence_penalty=1.0), [VOCAB_SIZE]), "prompt_token_ids"),
        (lambda: batch.add(SamplingState(SamplingParams()), [1]), "params"),
    ):
        with pytest.raises(ParameterError) as caught:
            call()
        assert caught.value.problems[0].parameter == name
    assert repr(batch) == "<BatchSampler(50) with 7 sequences>"


@pytest.mark.parametrize("params", PARAMS)
def test_a_state_restored_from_json_draws_the_same(params):
    """A state restored from JSON draws the same tokens in a batch as the original with a sampler."""
    sampler, state = Sampler(VOCAB_SIZE), SamplingState(params, PROMPT, choice=2, stream=3)
    for _ in range(5):
        sampler.sample(logits_of(1), [state])
    restored = SamplingState.from_dict(json.loads(json.dumps(state.to_dict())))
    batch = BatchSampler(VOCAB_SIZE)
    assert_same(batch, [batch.add(restored)], [state], 5)
