"""Strategies of traffic: concurrent requests that arrive and are aborted."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st

from decoding.params import SamplingParams
from decoding.testing.strategies.rows import token_ids
from decoding.testing.strategies.texts import stop_sets


class Arrival(NamedTuple):
    """A request that arrives before step `step`, and is aborted after `abort_after` steps of its own; None: never."""

    step: int
    prompt_token_ids: list[int]
    params: SamplingParams
    abort_after: int | None


@st.composite
def request_mixes(
    draw: st.DrawFn, vocab_size: int, *, max_requests: int = 8, max_prompt: int = 12, max_tokens: int = 8
) -> list[Arrival]:
    """Draw requests in order of arrival, some in the same step, some aborted before or while they run.

    Parameters are those that matter to a scheduler and a decoding loop: lengths, choices, candidates, stop strings,
    greedy or not; those of the distribution are for `sampling_params`. Shrinks to one minimal request.
    """
    mix, step = [], 0
    for _ in range(draw(st.integers(1, max_requests))):
        prompt = draw(token_ids(vocab_size, max_size=max_prompt).filter(bool))
        abort_after = draw(st.none() | st.integers(0, max_tokens))
        mix.append(Arrival(step, prompt, draw(_request_params(max_tokens)), abort_after))
        step += draw(st.integers(0, 3))
    return mix


@st.composite
def _request_params(draw: st.DrawFn, max_tokens: int) -> SamplingParams:
    n = draw(st.integers(1, 3))
    most = draw(st.integers(0, max_tokens))
    return SamplingParams(
        max_tokens=most,
        min_tokens=draw(st.integers(0, most)),
        n=n,
        best_of=draw(st.none() | st.integers(n, n + 2)),
        seed=draw(st.integers(0, 2**16)),
        temperature=draw(st.sampled_from([0.0, 1.0])),
        stop=draw(stop_sets()),
        ignore_eos=draw(st.booleans()),
        logprobs=draw(st.none() | st.integers(0, 2)),
        echo=draw(st.booleans()),
    )
