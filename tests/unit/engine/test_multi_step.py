"""Decoding steps in a row: the tokens of single steps, whatever ends the row early."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding.engine.engine import Engine
from decoding.engine.request import make_request
from decoding.engine.settings import EngineSettings
from decoding.engine.speculation import PromptLookup
from decoding.errors import NonFiniteLogitsError, ParameterError
from decoding.llm import LLM
from decoding.models.batch import ForwardBatch, StepsModel
from decoding.models.native import NativeModel
from decoding.params import SamplingParams
from decoding.sampling.kernel import StepsAhead
from decoding.sampling.sampler import Sampler
from decoding.sampling.state import SamplingState
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits

TOKENIZER = byte_tokenizer([b"ab", b"ba"], ["<eos>"])
VOCAB, EOS = TOKENIZER.vocab_size, TOKENIZER.vocab_size - 1
ALPHABET = [97, 98, 99, 256, 257, EOS]


def scripted(script=None, **settings):
    """Return a scripted model; most_steps is the number of steps in a row."""
    return ScriptedModel(script or hashed_logits(), VOCAB, eos_token_ids=(EOS,), **settings)


def engine_of(model, drafter=None, **settings):
    """Return an engine for four sequences."""
    return Engine(model, TOKENIZER, EngineSettings(**{"max_num_seqs": 4, **settings}), drafter)


def add(engine, model, prompt="x", listener=None, **params):
    """Queue a request."""
    request = make_request(prompt, SamplingParams(**{"seed": 1, "max_tokens": 12, **params}), model.config, TOKENIZER)
    return engine.add_request(request, listener)


def run(engine):
    """Step until nothing is left; return the number of calls."""
    calls = 0
    while engine.has_work:
        engine.step()
        calls += 1
    return calls


def shown(result):
    """Return what must agree of the choices of a result."""
    return [(c.token_ids, c.text, c.finish_reason, c.stop_reason, c.logprobs, c.seed) for c in result.choices]


PARAMS = st.fixed_dictionaries(
    {"seed": st.integers(0, 99), "max_tokens": st.integers(0, 20), "n": st.integers(1, 3)},
    optional={
        "temperature": st.sampled_from([0.0, 0.7, 2.0]),
        "top_p": st.just(0.9),
        "frequency_penalty": st.just(0.7),
        "repetition_penalty": st.just(1.3),
        "dry_multiplier": st.just(0.8),
        "mirostat_tau": st.just(2.0),
        "min_tokens": st.integers(0, 3),
        "logprobs": st.integers(0, 2),
        "ignore_eos": st.booleans(),
        "stop": st.lists(st.text("abc", min_size=1, max_size=3), max_size=2),
        "stop_token_ids": st.just([99]),
        "repetition_detection": st.just({"min_pattern_size": 1, "max_pattern_size": 3, "min_count": 3}),
        "bad_words": st.just(["ac"]),
    },
).filter(lambda params: params.get("min_tokens", 0) <= params["max_tokens"])


@settings(deadline=None, max_examples=80)
@given(st.lists(st.tuples(st.text("abc", min_size=1, max_size=30), PARAMS), min_size=1, max_size=6), st.data())
def test_the_tokens_of_single_steps(requests, data):
    """Texts, tokens, ends and log-probabilities do not depend on the number of steps in a row, even without memory."""
    limits = {
        "max_num_seqs": data.draw(st.integers(1, 6)),
        "kv_cache_bytes": data.draw(st.sampled_from([None, 64, 128])),  # 4 or 8 blocks
        "prefix_cache": data.draw(st.booleans()),
    }
    prompts = [prompt for prompt, _ in requests]
    params = [SamplingParams(allowed_token_ids=ALPHABET, **kw) for _, kw in requests]
    results, counts = [], []
    for most_steps in (1, data.draw(st.integers(2, 9))):
        llm = LLM.from_parts(scripted(max_position_embeddings=60, most_steps=most_steps), TOKENIZER, **limits)
        results.append([shown(result) for result in llm.complete(prompts, params)])
        assert llm.stats.num_blocks_live == 0
        counts.append(llm.stats.num_sampled_tokens)
    assert counts[0] == counts[1]
    assert results[0] == results[1]


def test_several_steps_are_one_call():
    """A request of 12 tokens takes the step of its prompt and three of four tokens; all are counted as steps."""
    model = scripted(most_steps=4)
    engine = engine_of(model)
    task = add(engine, model, ignore_eos=True, max_tokens=13)
    assert run(engine) == 4
    assert engine.stats.num_steps == model.num_forwards == 13
    assert engine.stats.num_sampled_tokens == len(task.result("test").choices[0].token_ids) == 13


def test_the_setting_bounds_the_steps():
    """num_scheduler_steps=1 is a token per step, and 2 are two."""
    model = scripted(most_steps=8)
    for setting, calls in ((1, 13), (2, 7), (None, 3)):
        engine = engine_of(model, num_scheduler_steps=setting)
        add(engine, model, ignore_eos=True, max_tokens=13)
        assert run(engine) == calls, setting
    with pytest.raises(ParameterError, match="num_scheduler_steps=0"):
        LLM(num_scheduler_steps=0)


def test_streams_have_single_steps_unless_a_number_is_set():
    """A stream has a piece per token, and so has its company; with num_scheduler_steps=3 it has a piece per three."""
    for setting, sizes in ((None, [1] * 10), (3, [1, 3, 3, 3])):
        llm = LLM.from_parts(scripted(most_steps=8), TOKENIZER, num_scheduler_steps=setting)
        params = SamplingParams(max_tokens=10, ignore_eos=True, seed=1)
        (beside,) = llm.engine.add(llm.engine.requests("y", params)[0])
        pieces = list(llm.stream("x", params))
        assert [len(piece.token_ids) for piece in pieces] == sizes
        (alone,) = LLM.from_parts(scripted(), TOKENIZER).complete("y", params).choices
        assert beside.result("test").choices[0].token_ids == alone.token_ids
        assert "".join(piece.text for piece in pieces) == llm.complete("x", params).choices[0].text


def test_no_token_is_computed_behind_an_end_token_or_the_length():
    """An end token, a stop id and max_tokens end the row of steps with their own token."""
    counted = dict(enumerate([97, 98, 99, EOS, 97, 98, 99, EOS]))

    def script(token_ids, vocab_size):
        logits = np.zeros(vocab_size, np.float32)
        logits[counted[len(token_ids) - 1]] = 50.0
        return logits

    for params, reason in (({}, "stop"), ({"stop_token_ids": [99]}, "stop"), ({"max_tokens": 2}, "length")):
        model = scripted(script, most_steps=8)
        engine = engine_of(model)
        task = add(engine, model, temperature=0.0, **params)
        run(engine)
        (choice,) = task.result("test").choices
        assert choice.finish_reason == reason
        assert model.num_forwards == task.usage.completion_tokens  # with the end token


def test_what_follows_a_stop_string_is_dropped():
    """Tokens behind a stop string are in no text, no count and no cached block; the state ends with the text."""
    model = scripted(lambda token_ids, size: np.eye(size, dtype=np.float32)[97 + len(token_ids) % 3] * 50, most_steps=8)
    engine = engine_of(model)
    states = []
    task = add(engine, model, "xx", lambda task, candidate: states.append(candidate.state), stop=["b"], max_tokens=30)
    run(engine)
    (choice,) = task.result("test").choices
    assert (choice.text, choice.finish_reason, choice.stop_reason) == ("ca", "stop", "b")
    assert states[-1].output_token_ids == [99, 97, 98]
    assert engine.stats.num_sampled_tokens == 3
    assert model.num_forwards > 3  # or nothing was dropped
    assert engine.stats.num_blocks_used == 0


@pytest.mark.parametrize("most_steps", [1, 2, 5])
def test_a_row_that_fails_in_the_middle(most_steps):
    """The tokens before a row of NaN stay, its error counts output tokens, and its company goes on."""

    def script(token_ids, vocab_size):
        plain = hashed_logits()(token_ids, vocab_size)
        return plain * np.nan if token_ids[0] == 120 and len(token_ids) == 5 else plain

    model = scripted(script, most_steps=most_steps)
    engine = engine_of(model)
    failing, beside = (add(engine, model, prompt, ignore_eos=True) for prompt in ("x", "y"))
    run(engine)
    (choice,) = failing.result("test").choices
    assert (choice.finish_reason, len(choice.token_ids)) == ("error", 4)
    assert isinstance(choice.error, NonFiniteLogitsError)
    assert choice.error.row == 4
    alone = engine_of(plain := scripted(script))
    expected = add(alone, plain, "y", ignore_eos=True)
    run(alone)
    assert shown(beside.result("test")) == shown(expected.result("test"))


def test_a_row_that_fails_behind_the_end_of_its_text():
    """A text that a stop string has ended is not an error because a token behind it could not be drawn."""

    def script(token_ids, vocab_size):
        row = np.eye(vocab_size, dtype=np.float32)[97 + len(token_ids) % 3] * 50
        return row * np.nan if len(token_ids) == 6 else row

    model = scripted(script, most_steps=8)
    engine = engine_of(model)
    task = add(engine, model, "xx", stop=["b"], max_tokens=30)
    run(engine)
    (choice,) = task.result("test").choices
    assert model.num_forwards == 5  # the last one failed
    assert (choice.text, choice.finish_reason, choice.error) == ("ca", "stop", None)


def test_an_interrupt_ends_the_row_of_steps():
    """Once interrupted, a row of steps ends after the current one; the next call is a row of steps again."""
    lengths = []

    def script(token_ids, vocab_size):
        if len(token_ids) == 3:
            engine.interrupt()
        return hashed_logits()(token_ids, vocab_size)

    model = scripted(script, most_steps=6)
    engine = engine_of(model)
    add(engine, model, listener=lambda task, one: lengths.append(one.num_tokens), ignore_eos=True, max_tokens=20)
    run(engine)
    assert lengths == [1, 3, 9, 15, 20]


def test_a_request_that_comes_in_the_middle_interrupts():
    """LLM's engine lets a waiting request in after the current step, and an abort too."""
    model = scripted(most_steps=8)
    llm = LLM.from_parts(model, TOKENIZER)
    lengths = []
    requests, _ = llm.engine.requests(["x", "y"], SamplingParams(max_tokens=30, ignore_eos=True, seed=1))
    llm.engine.add(requests[:1], lambda task, candidate: lengths.append(candidate.num_tokens))
    llm.engine.step()
    second = llm.engine.add(requests[1:])
    llm.engine.step()
    llm.engine.abort(second)
    for _ in range(3):
        llm.engine.step()
    assert lengths == [1, 2, 3, 11, 19]


def test_a_listener_that_aborts_its_neighbour():
    """A sequence that is aborted while a row of steps is reported gets none of its tokens, and leaves no block."""
    model = scripted(most_steps=5)
    engine = engine_of(model)
    tasks, told = [], []

    def listen(task, candidate):
        told.append((task, candidate.num_tokens))
        if candidate.num_tokens == 6:
            engine.abort(tasks[1 - tasks.index(task)])

    tasks += [add(engine, model, prompt, listen, ignore_eos=True) for prompt in ("x", "y")]
    run(engine)
    assert told == [(tasks[0], 1), (tasks[1], 1), (tasks[0], 6), (tasks[0], 11), (tasks[0], 12)]
    assert engine.stats.num_sampled_tokens == 13
    assert engine.stats.num_blocks_live == 0


@pytest.mark.parametrize(("num_blocks", "length", "max_tokens"), [(5, 16, 40), (3, 10, 8)])
def test_a_preempted_sequence_is_computed_again(num_blocks, length, max_tokens):
    """Two sequences have single steps where memory is short; the younger one is preempted, and continues later."""
    model = scripted(most_steps=8)
    engine = engine_of(model, kv_cache_bytes=num_blocks * 16, prefix_cache=False)
    params = {"ignore_eos": True, "max_tokens": max_tokens}
    tasks = [add(engine, model, prompt * length, **params) for prompt in "xy"]
    run(engine)
    assert engine.stats.num_preemptions > 0
    for task, prompt in zip(tasks, "xy", strict=True):
        alone = engine_of(plain := scripted())
        expected = add(alone, plain, prompt * length, **params)
        run(alone)
        assert shown(task.result("test")) == shown(expected.result("test"))


def test_requests_that_need_the_engine_after_each_token():
    """Masks and states that follow tokens in Python, and draft tokens, keep the whole step single."""
    model = scripted(most_steps=8)
    for params in (
        {"min_tokens": 2},
        {"mirostat_tau": 2.0},
        {"banned_strings": ["q"]},
        {"structured": {"regex": "[a-c]+"}},
    ):
        engine = engine_of(model)
        add(engine, model, ignore_eos="structured" not in params, **params)
        beside = add(engine, model, "y", ignore_eos=True)
        steps = run(engine)
        assert steps == engine.stats.num_steps, params
        assert beside.result("test").choices[0].finish_reason == "length"
    engine = engine_of(model, PromptLookup())
    add(engine, model, ignore_eos=True)
    assert run(engine) == engine.stats.num_steps


def test_profiles_beside_each_other():
    """Requests of two profiles have single steps, each with its own profile; of one profile, steps in a row."""
    params = SamplingParams(seed=4, max_tokens=30, ignore_eos=True, temperature=3.0, top_p=0.5)

    def tokens(*profiles):
        llm = LLM.from_parts(scripted(most_steps=8), TOKENIZER)
        tasks = [llm.engine.add(llm.engine.requests("x", params, profile=name)[0])[0] for name in profiles]
        while llm.engine.step():
            pass
        return [task.result("test").choices[0].token_ids for task in tasks], llm.stats.num_steps

    (first,), _ = tokens("openai")
    (second,), _ = tokens("llama_cpp")
    assert first != second
    assert tokens("openai", "llama_cpp") == ([first, second], 30)
    assert tokens("openai", "openai") == ([first, first], 30)


# The native model, whose rows of steps run in C.


def both(params, prompts, **settings):
    """Return the choices with single steps and with steps in a row, of the bundled model."""
    results = []
    for number in (1, None):
        llm = LLM(num_scheduler_steps=number, **settings)
        results.append([shown(result) for result in llm.complete(prompts, params)])
        calls = llm.stats.num_steps
        assert calls > 1
    return results


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0.0},
        {"top_p": 0.9, "top_k": 20},
        {"frequency_penalty": 0.5, "presence_penalty": 0.2},
        {"repetition_penalty": 1.3, "repetition_penalty_scope": "output"},
        {"dry_multiplier": 0.8, "no_repeat_ngram_size": 3},
        {"stop": ["\n\n", "return"]},
        {"n": 3, "logit_bias": {300: 2.0}},
        {"ignore_eos": True, "max_tokens": 200},
        {"logprobs": 0},
        {"logprobs": 3, "logprobs_mode": ("raw", "final"), "logprob_token_ids": [300, 5]},
        {"n": 2, "best_of": 4},
    ],
    ids=str,
)
def test_the_native_model(params):
    """Rows of steps in C give the bits of single steps, for short and long prompts with their histories."""
    prompts = ["def add(a, b):", "x", "import os\n" * 30, "class A:\n    def f(self):\n"]
    single, several = both(SamplingParams(**{"max_tokens": 64, "seed": 5, **params}), prompts)
    assert single == several


def test_draws_on_several_threads():
    """With so many rows that the draws are divided among threads, the tokens are the same."""
    prompts = [f"def f{number}(" for number in range(64)]
    params = SamplingParams(max_tokens=9, seed=3, top_p=0.95, frequency_penalty=0.3)
    single, several = both(params, prompts, max_num_seqs=64, num_threads=2)
    assert single == several


def native():
    """Return the bundled model."""
    model = LLM().engine.model
    assert isinstance(model, NativeModel)
    assert isinstance(model, StepsModel)
    return model


def batch_of(model, num_sequences, num_blocks):
    """Return a batch of one first token per sequence, with blocks of its own for each."""
    ones = np.ones(num_sequences, np.int32)
    return ForwardBatch(
        token_ids=np.arange(3, 3 + num_sequences, dtype=np.int32),
        num_new=ones,
        start=0 * ones,
        block_tables=list(np.arange(num_sequences * num_blocks, dtype=np.int32).reshape(num_sequences, num_blocks)),
        rope_lengths=ones,
        logits_tokens=np.arange(num_sequences, dtype=np.int32),
    )


def test_the_arrays_and_states_after_steps_in_c():
    """The batch has the newest tokens and their positions, and each state its tokens and its history."""
    model = native()
    vocab_size = model.config.vocab_size
    sampler = Sampler(vocab_size)
    states = [SamplingState(SamplingParams(seed=seed, frequency_penalty=0.5), (3,)) for seed in range(3)]
    batch = batch_of(model, 3, 19)
    ahead = StepsAhead(300, (), np.zeros(1, np.int32))  # more tokens than histories and workspace hold at first
    drawn = model.decode(batch, model.new_cache(57), sampler, states, ahead)
    assert (drawn.token_ids.shape, dict(drawn.failures)) == ((300, 3), {})
    assert (batch.token_ids.tolist(), batch.start.tolist()) == (drawn.token_ids[-1].tolist(), [300] * 3)
    for state, token_ids in zip(states, drawn.token_ids.T.tolist(), strict=True):
        assert state.output_token_ids == token_ids == state.history.output.tolist()
        other = SamplingState(state.params, (3,))
        for token_id in token_ids:
            other.append(token_id)
        logits = np.random.default_rng(1).standard_normal((1, vocab_size), np.float32)
        assert sampler.probabilities(logits, [state]).tobytes() == sampler.probabilities(logits, [other]).tobytes()


def test_what_ends_steps_in_c():
    """An end token is the last token of its step; an interrupt that is there already leaves one step."""
    model = native()
    sampler = Sampler(model.config.vocab_size)

    def decode(ending_ids=(), interrupted=0):
        states = [SamplingState(SamplingParams(seed=seed)) for seed in range(2)]
        ahead = StepsAhead(12, ending_ids, np.full(1, interrupted, np.int32))
        return model.decode(batch_of(model, 2, 1), model.new_cache(2), sampler, states, ahead).token_ids

    whole = decode()
    assert len(whole) == 12
    ending = int(whole[4, 1])
    first = next(step for step, row in enumerate(whole.tolist()) if ending in row)
    assert decode(ending_ids=(ending, 5)).tolist() == whole[: first + 1].tolist()
    assert decode(interrupted=1).tolist() == whole[:1].tolist()


def test_a_row_that_fails_in_c():
    """A row of NaN is the last step; other rows have drawn in it, and the failed one has not."""
    model = native()
    sampler = Sampler(model.config.vocab_size, num_valid_tokens=600)
    states = [SamplingState(SamplingParams(seed=1)), SamplingState(SamplingParams(allowed_token_ids=[700]))]
    batch = batch_of(model, 2, 1)
    drawn = model.decode(batch, model.new_cache(2), sampler, states, StepsAhead(9, (), np.zeros(1, np.int32)))
    assert drawn.token_ids.shape == (1, 2)
    assert (drawn.token_ids[0, 0] >= 0, drawn.token_ids[0, 1], list(drawn.failures)) == (True, -1, [1])
    assert [len(state.output_token_ids) for state in states] == [1, 0]
    assert [state.kernel_row.struct.position for state in states] == [1, 0]
    assert (batch.token_ids.tolist(), batch.start.tolist()) == ([drawn.token_ids[0, 0], 4], [1, 0])


def test_refusals():
    """Steps beyond the blocks or the context, and a cache of another model, are refused before anything is drawn."""
    model = native()
    sampler, states = Sampler(model.config.vocab_size), [SamplingState(SamplingParams(seed=1))]
    for ahead, cache, words in (
        (StepsAhead(17, (), np.zeros(1, np.int32)), model.new_cache(1), r"block_tables\[0\]"),
        (StepsAhead(10**6, (), np.zeros(1, np.int32)), model.new_cache(1), "the model's context of"),
        (StepsAhead(2, (), np.zeros(1, np.int32)), None, "cache"),
    ):
        with pytest.raises(Exception, match=words):
            model.decode(batch_of(model, 1, 1), cache, sampler, states, ahead)
        assert states[0].output_token_ids == []
