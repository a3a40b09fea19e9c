"""A large request beside small ones: sequences are shared fairly between requests, and prompts take turns."""

import pytest

from decoding.engine.engine import Engine
from decoding.engine.request import make_request
from decoding.engine.settings import EngineSettings
from decoding.engine.share import Share
from decoding.errors import ParameterError
from decoding.params import SamplingParams
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits

TOKENIZER = byte_tokenizer(special=["<eos>"])
MODEL = ScriptedModel(hashed_logits(), 257, max_position_embeddings=4096)


def engine_with(**settings):
    """Return an engine that runs four sequences and 64 tokens per step, unless settings differ."""
    return Engine(MODEL, TOKENIZER, EngineSettings(**{"max_num_seqs": 4, "max_batched_tokens": 64, **settings}))


def add(engine, prompts, **params):
    """Add the prompts as one request. Return its share and its tasks."""
    share = Share()
    params = SamplingParams(**{"seed": 1, "ignore_eos": True, **params})
    requests = [make_request(prompt, params, MODEL.config, TOKENIZER) for prompt in prompts]
    return share, [engine.add_request(request, None, share) for request in requests]


def steps_until(engine, condition):
    """Run steps until the condition holds. Return their number."""
    for number in range(5000):
        if condition():
            return number
        engine.step()
    raise AssertionError("it never held")


@pytest.mark.parametrize("prompts", [["ab"], [f"prompt {i}" for i in range(20)]])
def test_a_request_runs_no_more_sequences_than_its_share(prompts):
    """A request never runs more than max_num_seqs_per_request sequences, so a new one is done in two steps."""
    engine = engine_with(max_num_seqs_per_request=3)
    big, tasks = add(engine, prompts, n=80 // len(prompts), max_tokens=10)
    steps_until(engine, lambda: big.num_running == 3)
    for _ in range(50):
        engine.step()
        assert big.num_running <= 3
    small, (task,) = add(engine, ["cd"], max_tokens=1)
    assert steps_until(engine, lambda: task.is_done) <= 2
    steps_until(engine, lambda: all(task.is_done for task in tasks))
    assert (big.num_running, small.num_running) == (0, 0)


def test_a_free_slot_goes_to_the_request_with_fewest_sequences():
    """Without a limit, a free sequence slot goes to the request that runs the fewest sequences."""
    engine = engine_with()
    big, _ = add(engine, [f"prompt {i}" for i in range(30)], n=8, max_tokens=20)
    steps_until(engine, lambda: big.num_running == 4)
    small, (task,) = add(engine, ["cd"], n=4, max_tokens=40)
    assert steps_until(engine, lambda: small.num_running == 1) <= 20
    steps_until(engine, lambda: small.num_running + big.num_running == 4 and small.num_running == 2)
    assert big.num_running == 2
    steps_until(engine, lambda: task.is_done)


def test_equal_requests_are_served_in_order_of_arrival():
    """Equal requests that share one sequence slot finish in the order of arrival."""
    engine = engine_with(max_num_seqs=1)
    ends, tasks = [], []
    for i in range(5):
        _, (task,) = add(engine, [f"{i}"], n=2, max_tokens=3)
        task.listener = lambda task, candidate: ends.append(task) if candidate.is_finished else None
        tasks.append(task)
    steps_until(engine, lambda: len(ends) == 10)
    assert [tasks.index(task) for task in ends] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_prompts_are_computed_in_turn():
    """A short prompt that arrives behind long ones has its token after four steps, because prompts take turns."""
    engine = engine_with(max_num_seqs=8, max_num_seqs_per_request=4)
    _, long = add(engine, ["x" * 64 * 10 + str(i) for i in range(4)], max_tokens=1)
    for _ in range(3):
        engine.step()
    _, (short,) = add(engine, ["y" * 40], max_tokens=1)
    assert steps_until(engine, lambda: short.is_done) <= 4
    assert not any(task.is_done for task in long)
    _, (other,) = add(engine, ["z" * 64 * 5], max_tokens=1)
    assert steps_until(engine, lambda: other.is_done) <= 2 * 5 + 4
    assert steps_until(engine, lambda: all(task.is_done for task in long)) <= 40


def test_many_small_requests_do_not_starve_a_large_one():
    """A long prompt is finished although a new prompt that fills the token budget arrives in every step."""
    engine = engine_with(max_num_seqs=8)
    _, (old,) = add(engine, ["x" * 64 * 10], max_tokens=1)
    engine.step()
    for i in range(40):
        add(engine, [f"{i:02d}" + "y" * 62], max_tokens=1)
        engine.step()
    assert old.is_done


def test_a_share_is_at_least_one_sequence():
    """max_num_seqs_per_request=0 raises a ParameterError."""
    with pytest.raises(ParameterError, match="max_num_seqs_per_request=0"):
        EngineSettings(max_num_seqs_per_request=0)
