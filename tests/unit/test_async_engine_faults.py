"""AsyncEngine under faults: lack of memory, a failing engine, and tokenisation whose request was cancelled."""

import asyncio
import threading
import time

import pytest

from decoding.async_engine import AsyncEngine, start_text_work
from decoding.async_engine.delivery import Delivery
from decoding.engine.tasks.completion import CompletionTask
from decoding.errors import EngineClosedError, EngineError, EngineMemoryError
from decoding.llm import LLM
from decoding.params import SamplingParams
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits

PARAMS = SamplingParams(seed=1, max_tokens=5, ignore_eos=True)
SECONDS = 120
"""Timeout of events that come at once, however busy the machine is."""


def make_llm(script=None):
    """Return an LLM over all bytes."""
    return LLM.from_parts(ScriptedModel(script or hashed_logits(), 257), byte_tokenizer(special=["<eos>"]))


def run(scenario, llm=None, **settings):
    """Run a scenario with an engine that is closed at the end, within `SECONDS`."""

    async def main():
        engine = AsyncEngine(llm or make_llm(), **settings)
        try:
            return await scenario(engine)
        finally:
            await engine.close()

    return asyncio.run(asyncio.wait_for(main(), SECONDS))


def expected():
    """Return the result of a request to a healthy engine."""
    return [make_llm().complete("ab", PARAMS)]


def gated():
    """Return a model that waits for an event before it computes, and the event, so that a test can prepare a fault."""
    gate = threading.Event()

    def script(token_ids, vocab_size):
        assert gate.wait(SECONDS)
        return hashed_logits()(token_ids, vocab_size)

    return make_llm(script), gate


async def everything(handle):
    """Read the stream to its end, if there is one, and return the results."""
    if handle.is_streamed:
        async for _ in handle:
            pass
    return await handle.results()


def raising(error, times=1):
    """Return a decorator whose function raises the error on its first `times` calls."""
    left = [times]

    def patch(real):
        def patched(*args, **kwargs):
            if left[0]:
                left[0] -= 1
                raise error
            return real(*args, **kwargs)

        return patched

    return patch


def test_a_step_without_memory_fails_its_requests_alone():
    """A MemoryError in a step becomes an EngineMemoryError of its requests; the next request is served."""

    def script(token_ids, vocab_size):
        if token_ids[0] == ord("M"):
            raise MemoryError
        return hashed_logits()(token_ids, vocab_size)

    async def scenario(engine):
        (result,) = await (await engine.submit("M", PARAMS)).results()
        assert isinstance(result.choices[0].error, EngineMemoryError)
        assert isinstance(result.choices[0].error.__cause__, MemoryError)
        return await engine.complete("ab", PARAMS)

    assert run(scenario, make_llm(script)) == expected()


@pytest.mark.parametrize(("fault", "kind"), [(MemoryError(), EngineMemoryError), (OSError(), EngineError)])
@pytest.mark.parametrize("stream", [False, True])
def test_a_failing_delta_fails_its_request_alone(monkeypatch, fault, kind, stream):
    """If a result or delta cannot be built, only its own request fails."""
    llm, gate = gated()

    async def scenario(engine):
        bad = await engine.submit("xy", PARAMS, stream=stream)
        good = await engine.submit("ab", PARAMS)
        real = getattr(CompletionTask, "deltas" if stream else "result")

        def patched(task, *args):
            if task.request is bad.requests[0]:
                raise fault
            return real(task, *args)

        monkeypatch.setattr(CompletionTask, real.__name__, patched)
        gate.set()
        with pytest.raises(kind) as caught:
            await everything(bad)
        assert caught.value.__cause__ is fault
        return await good.results()

    assert run(scenario, llm) == expected()


def test_a_command_without_memory_fails_its_request_alone():
    """A request that cannot be queued gets an EngineMemoryError; the engine continues."""

    async def scenario(engine):
        engine._engine.add = raising(MemoryError())(engine._engine.add)
        with pytest.raises(EngineMemoryError):
            await engine.complete("xy", PARAMS)
        return await engine.complete("ab", PARAMS)

    assert run(scenario) == expected()


def test_results_that_cannot_be_posted_are_posted_later():
    """The result still arrives if the event loop could not be called three times for lack of memory."""
    llm, gate = gated()

    async def scenario(engine):
        loop = asyncio.get_running_loop()
        handle = await engine.submit("ab", PARAMS)
        loop.call_soon_threadsafe = raising(MemoryError(), 3)(loop.call_soon_threadsafe)
        gate.set()
        return await handle.results()

    assert run(scenario, llm) == expected()


def test_a_delivery_that_cannot_be_continued_is_continued_later():
    """If there is no memory to schedule the rest of a step's results, the engine's thread schedules it again."""

    async def scenario(engine):
        loop = asyncio.get_running_loop()
        real, failures = loop.call_soon, []

        def call_soon(callback, *args, **kwargs):
            if getattr(callback, "__func__", None) is Delivery.deliver and len(failures) < 2:
                failures.append(callback)
                raise MemoryError
            return real(callback, *args, **kwargs)

        handle = await engine.submit(["ab"] * 24, one_token)
        loop.call_soon = call_soon
        time.sleep(0.5)  # the loop does not run, so the whole step waits for delivery
        results = await handle.results()
        assert len(failures) == 2
        return results

    one_token = SamplingParams(seed=1, max_tokens=1, ignore_eos=True)  # the engine's thread sleeps after this step
    assert run(scenario) == [make_llm().complete("ab", one_token)] * 24


def test_results_that_were_posted_before_the_engine_failed():
    """If the engine fails after a step, the results of that step are delivered, however many they are."""
    llm = make_llm()
    step = llm.engine.step

    def failing():
        step()
        if handles and handles[0].tasks:
            raise SystemError("after the step")
        return True

    handles = []

    async def scenario(engine):
        llm.engine.step = failing
        handles.append(await engine.submit(["ab"] * 24, one_token))
        time.sleep(0.5)  # the loop does not run, so the whole step waits for delivery
        return await handles[0].results()

    one_token = SamplingParams(seed=1, max_tokens=1, ignore_eos=True)
    assert run(scenario, llm) == [make_llm().complete("ab", one_token)] * 24


def test_an_engine_failure_ends_all_requests():
    """If the engine fails, all requests get an EngineError with the cause, and `on_failure` is called once."""
    deaths = []
    llm, gate = gated()

    async def scenario(engine):
        handles = [await engine.submit("ab", SamplingParams(max_tokens=None)) for _ in range(3)]
        handles.append(await engine.submit("cd", SamplingParams(max_tokens=900, n=60), stream=True))
        engine._engine._engine._scheduler.schedule = raising(OSError("broken"), 10**9)(None)
        gate.set()
        for handle in handles:
            with pytest.raises(EngineError, match="the engine has failed") as caught:
                await everything(handle)
            assert isinstance(caught.value.__cause__, OSError)
        while not deaths:
            await asyncio.sleep(0.001)
        assert not engine.is_open
        assert engine.failure is deaths[0]
        for _ in range(2):
            with pytest.raises(EngineError, match="the engine has failed"):
                await engine.submit("ab")

    run(scenario, llm, on_failure=deaths.append)
    assert [str(death) for death in deaths] == ["broken"]


def blocked(llm, going_on):
    """Make the tokenizer wait for `going_on`. Return the event that it sets when it begins to wait."""
    begun, real = threading.Event(), llm.tokenizer.encode

    def encode(*args, **kwargs):
        begun.set()
        assert going_on.wait(SECONDS)
        return real(*args, **kwargs)

    llm.tokenizer.encode = encode
    return begun


def test_closing_does_not_wait_for_the_tokenizer():
    """The engine closes while a text is being tokenised, and the request gets an EngineClosedError."""
    going_on, llm = threading.Event(), make_llm()
    begun = blocked(llm, going_on)

    async def scenario(engine):
        submission = asyncio.ensure_future(engine.submit("ab"))
        await asyncio.to_thread(begun.wait)
        await engine.close()
        with pytest.raises(EngineClosedError):
            await submission

    run(scenario, llm)
    assert not going_on.is_set()
    going_on.set()


def test_a_cancelled_request_is_tokenised_no_further():
    """A cancelled request of 50 prompts is tokenised no further than its current prompt."""
    going_on, llm = threading.Event(), make_llm()
    begun = blocked(llm, going_on)
    ended, real = threading.Event(), llm.engine.requests
    texts = []

    def requests(*args, check, **kwargs):
        def counted():
            check()
            texts.append(1)

        try:
            return real(*args, check=counted, **kwargs)
        finally:
            ended.set()

    llm.engine.requests = requests

    async def scenario(engine):
        submission = asyncio.ensure_future(engine.submit(["ab"] * 50))
        await asyncio.to_thread(begun.wait)
        submission.cancel()
        with pytest.raises(asyncio.CancelledError):
            await submission
        going_on.set()
        await asyncio.to_thread(ended.wait)

    run(scenario, llm)
    assert len(texts) == 1


def test_work_that_cannot_be_reported_is_reported_later():
    """The result of text work still arrives if the event loop could not be called twice for lack of memory."""

    async def scenario():
        loop = asyncio.get_running_loop()
        loop.call_soon_threadsafe = raising(MemoryError(), 2)(loop.call_soon_threadsafe)
        return [await start_text_work(1, lambda check, i=i: i) for i in range(3)]

    assert asyncio.run(asyncio.wait_for(scenario(), SECONDS)) == [0, 1, 2]


def test_at_most_two_long_texts_at_once():
    """At most two long texts are processed at once, and short texts do not wait for them."""
    running, most, going_on = [], [], threading.Semaphore(0)

    def long_work(check):
        running.append(1)
        most.append(len(running))
        assert going_on.acquire(timeout=SECONDS)
        running.pop()

    async def scenario():
        futures = [start_text_work(10**6, long_work) for _ in range(6)]
        while len(running) < 2:
            await asyncio.sleep(0.001)
        assert await start_text_work(10, lambda check: "short") == "short"
        going_on.release(6)
        await asyncio.gather(*futures)

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))
    assert max(most) == 2
