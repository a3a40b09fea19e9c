"""AsyncEngine under faults: memory that runs out, an engine that dies, work on text that nobody waits for any more."""

import asyncio
import threading

import pytest

from decoding.async_engine import AsyncEngine, start_text_work
from decoding.engine.tasks.completion import CompletionTask
from decoding.errors import EngineClosedError, EngineError, EngineMemoryError
from decoding.llm import LLM
from decoding.params import SamplingParams
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits

PARAMS = SamplingParams(seed=1, max_tokens=5, ignore_eos=True)
SECONDS = 30
"""For what comes at once, however busy the machine is."""


def make_llm(script=None):
    """Bytes."""
    return LLM.from_parts(ScriptedModel(script or hashed_logits(), 257), byte_tokenizer(special=["<eos>"]))


def run(scenario, llm=None, **settings):
    """Run a scenario with an engine that is closed in the end, all within `SECONDS`."""

    async def main():
        engine = AsyncEngine(llm or make_llm(), **settings)
        try:
            return await scenario(engine)
        finally:
            await engine.close()

    return asyncio.run(asyncio.wait_for(main(), SECONDS))


def expected():
    """What a request gets from a healthy engine."""
    return [make_llm().complete("ab", PARAMS)]


def gated():
    """A model that computes nothing until the event is set, and the event: a test may prepare a fault meanwhile."""
    gate = threading.Event()

    def script(token_ids, vocab_size):
        assert gate.wait(SECONDS)
        return hashed_logits()(token_ids, vocab_size)

    return make_llm(script), gate


async def everything(handle):
    """Read a stream, and wait for the results."""
    if handle.is_streamed:
        async for _ in handle:
            pass
    return await handle.results()


def raising(error, times=1):
    """A function that raises so many times, and then calls another; given as a patch for it."""
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
    """They get an EngineMemoryError with the MemoryError as its cause; the next request is served."""

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
def test_news_that_cannot_be_made_fail_their_request_alone(monkeypatch, fault, kind, stream):
    """Another request in the same steps gets all of its text."""
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
    """A request that cannot be queued gets its error; the engine goes on."""

    async def scenario(engine):
        engine._engine.add = raising(MemoryError())(engine._engine.add)
        with pytest.raises(EngineMemoryError):
            await engine.complete("xy", PARAMS)
        return await engine.complete("ab", PARAMS)

    assert run(scenario) == expected()


def test_news_that_cannot_be_posted_are_posted_later():
    """The event loop could not be called for want of memory, three times: the result comes all the same."""
    llm, gate = gated()

    async def scenario(engine):
        loop = asyncio.get_running_loop()
        handle = await engine.submit("ab", PARAMS)
        loop.call_soon_threadsafe = raising(MemoryError(), 3)(loop.call_soon_threadsafe)
        gate.set()
        return await handle.results()

    assert run(scenario, llm) == expected()


def test_an_engine_that_dies_tells_everybody_and_then_says_so():
    """Requests that run and that wait get an EngineError with the cause; then `on_failure` is called, once."""
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
    """Make the tokeniser wait; the event that it waits."""
    begun, real = threading.Event(), llm.tokenizer.encode

    def encode(*args, **kwargs):
        begun.set()
        assert going_on.wait(SECONDS)
        return real(*args, **kwargs)

    llm.tokenizer.encode = encode
    return begun


def test_closing_does_not_wait_for_the_tokeniser():
    """The engine is closed, and the loop ends, while a text is still being tokenised; its request is told."""
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


def test_a_request_that_is_cancelled_is_tokenised_no_further():
    """Of 50 prompts, one has been tokenised when the call is cancelled; no other is."""
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
    """The event loop could not be called for want of memory, twice; then it is, and the threads go on."""

    async def scenario():
        loop = asyncio.get_running_loop()
        loop.call_soon_threadsafe = raising(MemoryError(), 2)(loop.call_soon_threadsafe)
        return [await start_text_work(1, lambda check, i=i: i) for i in range(3)]

    assert asyncio.run(asyncio.wait_for(scenario(), SECONDS)) == [0, 1, 2]


def test_two_long_texts_at_once_at_most():
    """Of six pieces of long work two run at a time, while short work is done beside them."""
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
