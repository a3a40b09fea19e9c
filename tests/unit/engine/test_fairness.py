"""A large request beside small ones: seats are shared by request, and prompts are computed in turn."""

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
    """Four seats, 64 tokens per step."""
    return Engine(MODEL, TOKENIZER, EngineSettings(**{"max_num_seqs": 4, "max_batched_tokens": 64, **settings}))


def add(engine, prompts, **params):
    """Queue the prompts as one request; its share and tasks."""
    share = Share()
    params = SamplingParams(**{"seed": 1, "ignore_eos": True, **params})
    requests = [make_request(prompt, params, MODEL.config, TOKENIZER) for prompt in prompts]
    return share, [engine.add_request(request, None, share) for request in requests]


def steps_until(engine, condition):
    """The number of steps until it holds."""
    for number in range(5000):
        if condition():
            return number
        engine.step()
    raise AssertionError("it never held")


@pytest.mark.parametrize("prompts", [["ab"], [f"prompt {i}" for i in range(20)]])
def test_a_request_has_no_more_seats_than_its_share(prompts):
    """However many prompts and candidates it has; another one has its first token after two steps."""
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


def test_a_free_seat_goes_to_the_request_that_has_fewest():
    """Without a bound the large request takes all seats; of those that become free, the small one gets the first."""
    engine = engine_with()
    big, _ = add(engine, [f"prompt {i}" for i in range(30)], n=8, max_tokens=20)
    steps_until(engine, lambda: big.num_running == 4)
    small, (task,) = add(engine, ["cd"], n=4, max_tokens=40)
    assert steps_until(engine, lambda: small.num_running == 1) <= 20
    steps_until(engine, lambda: small.num_running + big.num_running == 4 and small.num_running == 2)
    assert big.num_running == 2
    steps_until(engine, lambda: task.is_done)


def test_equal_requests_are_served_in_the_order_in_which_they_came():
    """Each waits for those before it, as one after another they get the only seat."""
    engine = engine_with(max_num_seqs=1)
    ends, tasks = [], []
    for i in range(5):
        _, (task,) = add(engine, [f"{i}"], n=2, max_tokens=3)
        task.listener = lambda task, candidate: ends.append(task) if candidate.is_finished else None
        tasks.append(task)
    steps_until(engine, lambda: len(ends) == 10)
    assert [tasks.index(task) for task in ends] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_prompts_are_computed_in_turn():
    """Long prompts take the whole budget of 40 steps; a short one that comes behind them has its token after four."""
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
    """One new request per step, of a prompt that takes the whole budget: the old one goes on in every other step."""
    engine = engine_with(max_num_seqs=8)
    _, (old,) = add(engine, ["x" * 64 * 10], max_tokens=1)
    engine.step()
    for i in range(40):
        add(engine, [f"{i:02d}" + "y" * 62], max_tokens=1)
        engine.step()
    assert old.is_done


def test_a_share_is_at_least_one_sequence():
    """0 is refused by name."""
    with pytest.raises(ParameterError, match="max_num_seqs_per_request=0"):
        EngineSettings(max_num_seqs_per_request=0)
