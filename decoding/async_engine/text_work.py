"""Work on text beside an event loop: in a few threads of our own, for which the end of the loop does not wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from decoding.async_engine.worker_threads import Check, WorkerThreads

_T = TypeVar("_T")

_LONG = 1 << 15
"""Characters from which work counts as long (30 ms or more) and goes to other threads than short work."""
_SHORT_WORK = WorkerThreads(2, "decoding text")
_LONG_WORK = WorkerThreads(2, "decoding long text")


def start_text_work(num_characters: int, work: Callable[[Check], _T]) -> asyncio.Future[_T]:
    """Run `work` in a worker thread; return the future of its outcome.

    At most two calls with long texts run at the same time in the process, and two with short ones.
    work: called with a function that it calls between two pieces, and that raises once the future is cancelled.
    """
    return (_LONG_WORK if num_characters > _LONG else _SHORT_WORK).start(work)


def num_characters(value: Any) -> int:
    """Return the number of characters in all strings of nested sequences, token ids counted as one each."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping) or not isinstance(value, Sequence):
        return 0
    if value and not isinstance(value[0], (str, Sequence)):
        return len(value)
    return sum(map(num_characters, value))


def num_characters_in_params(params: Any) -> int:
    """Return the number of characters to work on in parameters, one SamplingParams or a list of them."""
    several = params if isinstance(params, (list, tuple)) else [params]
    names = ("suffix", "stop", "bad_words", "dry_sequence_breakers")
    return sum(num_characters(getattr(one, name, None)) for one in several for name in names)
