"""AsyncEngine: its results equal those of LLM; cancellation, overload and shutdown."""

import asyncio
import threading
import time

import numpy as np
import pytest

from decoding.async_engine import AsyncEngine, RequestHandle
from decoding.errors import (
    ContextLengthError,
    EngineClosedError,
    EngineError,
    NonFiniteLogitsError,
    OverloadedError,
    ParameterError,
)
from decoding.llm import LLM
from decoding.params import SamplingParams
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits

ENDLESS = SamplingParams(max_tokens=None, ignore_eos=True, seed=1)


def make_llm(script=None, **settings):
    """Return an LLM over all bytes, with a context of 1,024 tokens and four sequences at a time."""
    model = ScriptedModel(script or hashed_logits(), 257, eos_token_ids=(256,))
    return LLM.from_parts(model, byte_tokenizer(special=["<eos>"]), **{"max_num_seqs": 4, **settings})


def run(scenario, llm=None, **settings):
    """Run a scenario with an engine, close the engine, and assert that its thread has ended."""

    async def main():
        engine = AsyncEngine(llm or make_llm(), **settings)
        try:
            return await scenario(engine)
        finally:
            await engine.close()

    result = asyncio.run(main())
    assert not [thread for thread in threading.enumerate() if thread.name == "decoding engine"]
    return result


async def until(condition):
    """Wait until the condition holds, up to 60 seconds, however busy the machine is."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.001)


def test_concurrent_requests_get_the_results_of_llm():
    """Thirty requests at once get the results and the streamed texts of LLM.complete."""
    requests = [(f"prompt {i}", SamplingParams(seed=i, n=1 + i % 3, logprobs=1, max_tokens=i)) for i in range(30)]

    async def scenario(engine):
        async def streamed(prompt, params):
            texts = [""] * params.n
            async for delta in engine.stream(prompt, params):
                texts[delta.index] += delta.text
            return texts

        results = await asyncio.gather(*(engine.complete(*request) for request in requests))
        return results, await asyncio.gather(*(streamed(*request) for request in requests))

    results, texts = run(scenario)
    expected = [make_llm().complete(*request) for request in requests]
    assert [result for (result,) in results] == expected
    assert texts == [[choice.text for choice in result.choices] for result in expected]


def test_several_prompts_are_one_request():
    """Results are in the order of the prompts, and a stream numbers the choices across all prompts."""

    async def scenario(engine):
        params = [SamplingParams(n=2, seed=1), SamplingParams(seed=2)]
        results = await engine.complete(["ab", "cd"], params)
        ends = [delta.index async for delta in engine.stream(["ab", "cd"], params) if delta.finish_reason]
        return results, ends

    results, ends = run(scenario)
    assert [len(result.choices) for result in results] == [2, 1]
    assert sorted(ends) == [0, 1, 2]


@pytest.mark.parametrize("how", ["break", "cancel", "abort"])
def test_leaving_early_frees_everything(how):
    """A request that is left by break, cancel or abort leaves no running or waiting sequence and no block."""

    async def scenario(engine):
        handle = await engine.submit(["a", "b"], SamplingParams(n=40, max_tokens=500, ignore_eos=True), stream=True)

        async def read():
            async for _ in handle:
                if how == "break":
                    break

        task = asyncio.create_task(read())
        await until(lambda: handle.tasks and engine.stats().num_sampled_tokens > (0 if how == "break" else 20))
        if how == "cancel":
            task.cancel()
        elif how == "abort":
            handle.abort()
        await asyncio.wait([task])
        await until(lambda: engine.stats().num_running == 0)
        assert task.cancelled() if how == "cancel" else (task.exception() is None) == (how == "break")
        return engine.stats()

    stats = run(scenario)
    assert (stats.num_waiting, stats.num_blocks_live) == (0, 0)


def test_a_cancelled_wait_for_results_aborts():
    """A timeout of asyncio.wait_for on `complete` aborts the request."""

    async def scenario(engine):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(engine.complete("a", SamplingParams(n=128, max_tokens=900, ignore_eos=True)), 0.05)
        await until(lambda: engine.stats().num_running == 0)
        return await engine.complete("ab", SamplingParams(seed=1))

    (result,) = run(scenario)
    assert result == make_llm().complete("ab", SamplingParams(seed=1))


def test_bad_arguments_raise_in_submit():
    """Bad prompts and parameters raise in submit, with the errors of LLM.complete."""

    async def scenario(engine):
        for prompt, params, error in (
            ("x" * 5000, None, ContextLengthError),
            ("x", {"n": 1}, ParameterError),
            ("x", SamplingParams(best_of=2), ParameterError),
        ):
            with pytest.raises(error):
                await engine.submit(prompt, params, stream=True)
        handle = await engine.submit("x", SamplingParams(max_tokens=1))
        with pytest.raises(ParameterError, match="stream"):
            async for _ in handle:
                pass

    run(scenario)
    with pytest.raises(ParameterError, match="max_waiting=0"):
        AsyncEngine(make_llm(), max_waiting=0)


def test_the_waiting_queue_is_bounded():
    """Requests beyond max_waiting are refused with a retry_after, and all accepted ones are served."""
    go_on, refused = threading.Event(), []

    def patient(token_ids, vocab_size):
        assert go_on.wait(60)
        return hashed_logits()(token_ids, vocab_size)

    async def scenario(engine):
        async def one():
            try:
                return await engine.complete("ab", SamplingParams(seed=1, max_tokens=30, ignore_eos=True))
            except OverloadedError as error:
                refused.append(error)
                if len(refused) == 192:
                    go_on.set()
                return None

        found = await asyncio.gather(*(one() for _ in range(200)))
        return [result for result in found if result is not None], await one()

    accepted, later = run(scenario, make_llm(patient), max_waiting=8)
    assert all(error.retry_after >= 1 and "try again" in str(error) for error in refused)
    assert (len(accepted), len(refused)) == (8, 192)
    assert all(result == later for result in accepted)


def test_more_prompts_than_max_waiting_if_none_waits():
    """A request of more than max_waiting prompts is accepted only if no other request waits."""
    go_on = threading.Event()

    def patient(token_ids, vocab_size):
        assert token_ids[-1] != ord("!") or go_on.wait(30)
        return hashed_logits()(token_ids, vocab_size)

    async def scenario(engine):
        params = SamplingParams(seed=1, max_tokens=3)
        assert len(await engine.complete(["a", "b", "c"], params)) == 3
        waiting = await engine.submit("!", params)
        with pytest.raises(OverloadedError):
            await engine.submit(["a", "b", "c"], params)
        go_on.set()
        await waiting.results()

    run(scenario, make_llm(patient), max_waiting=2)


def test_closing_waits_and_then_ends_the_rest():
    """Closing lets a short request finish, ends an endless one with an EngineClosedError and refuses new ones."""

    def slow(token_ids, vocab_size):
        threading.Event().wait(0.002)
        return hashed_logits()(token_ids, vocab_size)

    async def scenario(engine):
        short = await engine.submit("a", SamplingParams(seed=1, max_tokens=3, ignore_eos=True))
        endless = await engine.submit("b", ENDLESS)
        closing = asyncio.create_task(engine.close(grace=60))
        assert len((await short.results())[0].choices[0].token_ids) == 3
        with pytest.raises(EngineClosedError):
            await engine.submit("c")
        await engine.close()  # ends the grace period
        with pytest.raises(EngineClosedError):
            await endless.results()
        await closing

    run(scenario, make_llm(slow))


def test_errors_of_a_choice():
    """The error of a choice is raised by default; with "status" it is in the result and in the last delta."""

    def bad(token_ids, vocab_size):
        logits = hashed_logits()(token_ids, vocab_size)
        return logits * float("nan") if len(token_ids) > 3 else logits

    async def scenario(engine):
        with pytest.raises(NonFiniteLogitsError):
            await engine.complete("ab")
        with pytest.raises(NonFiniteLogitsError):
            async for _ in engine.stream("ab"):
                pass
        (result,) = await engine.complete("ab", on_error="status")
        deltas = [delta async for delta in engine.stream("ab", on_error="status")]
        return result.choices[0], deltas[-1]

    choice, delta = run(scenario, make_llm(bad))
    assert choice.finish_reason == delta.finish_reason == "error"


def test_a_model_that_raises_fails_the_step_and_not_the_engine():
    """If the model raises, the step's requests get an EngineError with the cause, and later requests succeed."""
    broken = threading.Event()

    def script(token_ids, vocab_size):
        if broken.is_set():
            raise OSError("the disk is gone")
        return hashed_logits()(token_ids, vocab_size)

    async def scenario(engine):
        handle = await engine.submit("a", ENDLESS, stream=True)
        deltas = []
        async for delta in handle:
            deltas.append(delta)
            broken.set()
        broken.clear()
        results = await engine.complete("ab", SamplingParams(seed=1))
        await until(lambda: engine.stats().num_blocks_live == 0)
        return deltas[-1].error, results

    error, (result,) = run(scenario, make_llm(script))
    assert isinstance(error, EngineError)
    assert isinstance(error.__cause__, OSError)
    assert result == make_llm().complete("ab", SamplingParams(seed=1))


def test_llm_and_async_engine_share_one_model():
    """Blocking calls from other threads and concurrent streams on one LLM do not affect each other."""
    llm = make_llm()
    params = SamplingParams(seed=3, max_tokens=50, ignore_eos=True)

    async def scenario(engine):
        streams = [asyncio.create_task(engine.complete(f"s{i}", params)) for i in range(6)]
        calls = [asyncio.to_thread(llm.complete, f"c{i}", params) for i in range(6)]
        return await asyncio.gather(*calls), [(await stream)[0] for stream in streams]

    calls, streams = run(scenario, llm)
    alone = make_llm()
    assert calls == [alone.complete(f"c{i}", params) for i in range(6)]
    assert streams == [alone.complete(f"s{i}", params) for i in range(6)]


def test_held_text_comes_before_the_error_that_ends_a_request():
    """Text that is held for a stop string is delivered if the request is ended or the engine closed."""
    waits = threading.Event()

    def script(token_ids, vocab_size):
        reply = b"abSTO"
        index = len(token_ids) - 1
        if index == len(reply):
            waits.set()
            threading.Event().wait(0.01)
        logits = np.zeros(vocab_size, np.float32)
        logits[reply[index] if index < len(reply) else ord("O")] = 30.0
        return logits

    async def read(handle):
        text = ""
        try:
            async for delta in handle:
                text += delta.text
        except EngineError as error:
            return text, error
        return text, None

    async def scenario(engine, end):
        params = SamplingParams(temperature=0.0, stop=f"ST{'O' * 500}P", max_tokens=None)
        handle = await engine.submit("x", params, stream=True)
        reader = asyncio.create_task(read(handle))
        await until(waits.is_set)
        await end(engine, handle)
        return await reader

    async def end_request(engine, handle):
        handle.end(EngineError("too late"))

    async def close(engine, handle):
        await engine.close()

    for end, error in ((end_request, "too late"), (close, "shutting down")):
        waits.clear()
        text, caught = run(lambda engine, end=end: scenario(engine, end), make_llm(script))
        assert text.startswith("abSTO")
        assert error in str(caught)


def test_a_draw_is_made_again_among_other_work():
    """While other requests run, each draw of a completion is made again: same token, cached prefix, no seat kept."""
    params = SamplingParams(seed=3, n=2, max_tokens=40, ignore_eos=True, top_p=0.9)

    async def scenario(engine):
        (result,) = await engine.complete("prompt", params)
        others = asyncio.gather(*(engine.complete(f"other {i}", ENDLESS) for i in range(3)))
        ids = result.choices[1].token_ids
        draws = [await engine.past_draw("prompt", params, ids, index, choice=1) for index in range(len(ids))]
        await others
        with pytest.raises(ParameterError, match="seed=None: must be that of the completion"):
            await engine.past_draw("prompt", SamplingParams(), ids, 0)
        return ids, [draw.explain().token_id for draw in draws]

    given, drawn = run(scenario)
    assert drawn == given


def test_two_calls_of_close_at_once():
    """A second `close`, with less grace, ends the first one's wait, and both return."""

    async def scenario(engine):
        handle = await engine.submit("a", ENDLESS)
        await asyncio.gather(engine.close(grace=600), engine.close(), engine.close())
        with pytest.raises(EngineClosedError):
            await handle.results()

    run(scenario)


def test_a_request_in_the_middle_of_steps_in_a_row():
    """A request that arrives while another decodes several tokens in a row is let in after the current one."""
    reached, sent = threading.Event(), threading.Event()
    lengths = {}

    def script(token_ids, vocab_size):
        lengths.setdefault(token_ids[0], []).append(len(token_ids))
        if token_ids[0] == ord("b"):
            lengths.setdefault("a when b came", lengths[ord("a")][-1])
        elif len(token_ids) == 5:
            reached.set()
            assert sent.wait(60)
        return hashed_logits()(token_ids, vocab_size)

    async def scenario(engine):
        first = await engine.submit("a", SamplingParams(max_tokens=30, ignore_eos=True, seed=1))
        await until(reached.is_set)
        second = await engine.submit("b", SamplingParams(max_tokens=30, ignore_eos=True, seed=1))
        sent.set()
        return [(await handle.results())[0].choices[0].token_ids for handle in (first, second)]

    model = ScriptedModel(script, 257, most_steps=25)
    tokens = run(scenario, LLM.from_parts(model, byte_tokenizer(special=["<eos>"])))
    assert lengths["a when b came"] in (5, 6)  # the longer one if it is computed before b in that step
    assert tokens == [
        make_llm().complete(prompt, SamplingParams(max_tokens=30, ignore_eos=True, seed=1)).choices[0].token_ids
        for prompt in "ab"
    ]


def test_a_step_is_delivered_over_several_turns(monkeypatch):
    """The news of a step of 40 sequences take several turns of the event loop, so that other tasks run in between."""
    turns = []
    turn = 0
    take = RequestHandle.take

    def counted(self, news):
        turns.append(turn)
        take(self, news)

    async def scenario(engine):
        async def count_turns():
            nonlocal turn
            while True:
                turn += 1
                await asyncio.sleep(0)

        counting = asyncio.ensure_future(count_turns())
        params = SamplingParams(max_tokens=5, ignore_eos=True, seed=1)
        results = await asyncio.gather(*(engine.complete(f"prompt {i}", params) for i in range(40)))
        counting.cancel()
        return results

    monkeypatch.setattr(RequestHandle, "take", counted)
    results = run(scenario, make_llm(max_num_seqs=40))
    assert [len(result.choices[0].token_ids) for (result,) in results] == [5] * 40
    assert max(map(turns.count, turns)) <= 16


def test_closing_delivers_everything_of_the_last_step():
    """Results of a step that ends while the engine closes are not lost, however many there are."""
    gate = threading.Event()

    def script(token_ids, vocab_size):
        assert gate.wait(120)
        return hashed_logits()(token_ids, vocab_size)

    async def scenario(engine):
        params = SamplingParams(max_tokens=1, ignore_eos=True)
        handle = await engine.submit([f"prompt {i}" for i in range(40)], params)
        await until(lambda: handle.tasks)
        closing = asyncio.ensure_future(engine.close())
        await asyncio.sleep(0)
        gate.set()
        await closing
        return await handle.results()

    results = run(scenario, make_llm(script, max_num_seqs=40))
    assert [len(result.choices[0].token_ids) for result in results] == [1] * 40
