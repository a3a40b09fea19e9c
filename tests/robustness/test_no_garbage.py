"""A finished request leaves no reference cycle, so its memory is free without the garbage collector."""

import asyncio
import contextlib
import gc
from collections import Counter

import pytest

from decoding.async_engine import AsyncEngine
from decoding.errors import DecodingError
from decoding.llm import LLM
from decoding.params import SamplingParams
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits

PARAMS = SamplingParams(n=3, seed=1, max_tokens=8, ignore_eos=True, stop=["zz"], logprobs=1)


def script(token_ids, vocab_size):
    """Return logits; NaN for prompts that begin with N, MemoryError for prompts that begin with M."""
    if token_ids[0] == ord("M"):
        raise MemoryError
    return hashed_logits()(token_ids, vocab_size) * (float("nan") if token_ids[0] == ord("N") else 1.0)


def make_llm():
    """Return a scripted model with a tokenizer of bytes."""
    return LLM.from_parts(ScriptedModel(script, 257), byte_tokenizer(special=["<eos>"]), max_num_seqs=4)


def garbage_of(work):
    """Return the counts of our objects and tracebacks that only the garbage collector freed after `work`.

    The first call of `work` warms up and is not counted.
    """
    work()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        work()
        gc.collect()
        kinds = Counter(type(one) for one in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    return {
        kind.__name__: count
        for kind, count in kinds.items()
        if kind.__module__.startswith("decoding") or kind.__name__ in ("traceback", "frame")
    }


async def whole(engine, prompt="ab"):
    """Wait for the results."""
    await engine.complete([prompt, "cd"], PARAMS)


async def streamed(engine, prompt="ab"):
    """Read a stream to its end."""
    async for _ in engine.stream(prompt, PARAMS):
        pass


async def left(engine):
    """Read one piece of a stream and close it."""
    handle = await engine.submit("ab", PARAMS, stream=True)
    pieces = handle.__aiter__()
    await anext(pieces)
    await pieces.aclose()


async def aborted(engine):
    """Abort a request and read the error."""
    handle = await engine.submit("ab", PARAMS)
    handle.abort()
    await handle.results()


async def refused(engine):
    """Submit a prompt that is too long."""
    await engine.submit("x" * 5000, PARAMS)


async def failed_rows(engine):
    """Stream a prompt whose logits are NaN."""
    await streamed(engine, "N")


async def failed_rows_of_results(engine):
    """Wait for the results of a prompt whose logits are NaN."""
    await whole(engine, "N")


async def failed_step(engine):
    """Wait for the results of a prompt whose step raises."""
    await whole(engine, "M")


WAYS = (whole, streamed, left, aborted, refused, failed_rows, failed_rows_of_results, failed_step)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_request_of_an_event_loop_leaves_no_garbage(way):
    """A request of AsyncEngine leaves no garbage when it finishes, is closed, aborted or refused, or fails."""
    llm = make_llm()

    async def scenario():
        engine = AsyncEngine(llm)
        for _ in range(3):
            with contextlib.suppress(DecodingError):
                await way(engine)
        await engine.close()

    assert garbage_of(lambda: asyncio.run(scenario())) == {}


@pytest.mark.parametrize("prompt", ["ab", "N", "M"])
@pytest.mark.parametrize("how", ["complete", "stream", "stream and leave"])
def test_a_call_leaves_no_garbage(how, prompt):
    """A call of LLM leaves no garbage when it finishes, is closed or fails."""
    llm = make_llm()

    def call():
        try:
            if how == "complete":
                llm.complete(prompt, PARAMS)
            else:
                for _ in llm.stream(prompt, PARAMS):
                    if how != "stream":
                        break
        except DecodingError:
            pass

    assert garbage_of(call) == {}
