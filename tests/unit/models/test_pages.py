"""Pages: memory is taken where it is written to, and given back."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from decoding.models.pages import Pages

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/smaps")


def resident(pages: Pages) -> int:
    """Bytes of memory that the mapping takes at the moment."""
    address, inside = pages.array.ctypes.data, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0] and not line.split()[0].endswith(":"):
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            inside = start <= address < end
        elif inside and line.startswith("Rss:"):
            return 1024 * int(line.split()[1])
    raise AssertionError("no such mapping")


@LINUX
def test_memory_follows_what_is_written() -> None:
    """A gigabyte of address space costs nothing; a megabyte written is a megabyte; released it is gone."""
    pages = Pages(1 << 28)
    before = resident(pages)
    assert before < 1 << 16
    pages.array[: 1 << 18] = 1.0
    assert (1 << 20) <= resident(pages) <= before + (1 << 20) + 8192
    pages.release(1000, 1 << 18)
    assert resident(pages) <= before + 16384


@pytest.mark.parametrize(("first", "after"), [(0, 5000), (5, 5000), (5, 100), (1024, 2048), (1023, 2049), (7, 7)])
def test_released_is_zero_and_the_rest_stays(first: int, after: int) -> None:
    """To the number, wherever the borders of the pages are."""
    pages = Pages(5, 1000)
    pages.array[:] = 1.0
    pages.release(first, after)
    flat = pages.array.ravel()
    assert not flat[first:after].any()
    assert np.count_nonzero(flat) == 5000 - (after - first)


def test_without_madvise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system cannot take pages back, they are zeroed all the same."""
    monkeypatch.delattr("mmap.MADV_DONTNEED", raising=False)
    pages = Pages(10_000)
    pages.array[:] = 1.0
    pages.release(10, 9_990)
    assert np.count_nonzero(pages.array) == 20


@LINUX
def test_an_engine_stays_within_its_bytes() -> None:
    """With a real model: after many sequences of all lengths, the cache has never more than was said."""
    from decoding.llm import LLM
    from decoding.params import SamplingParams

    llm = LLM(kv_cache_bytes=4 << 20, max_num_seqs=8)
    runner = llm.host._engine._runner
    token_bytes = runner.token_bytes
    most = 0
    prompts = [[5 + i] * (1 + 37 * i) for i in range(10)]
    stream = llm.stream(prompts, SamplingParams(n=2, max_tokens=60, ignore_eos=True, seed=1))
    for number, _ in enumerate(stream):
        if number % 50 == 0:
            most = max(most, resident(runner._cache._pages))
    assert token_bytes * 500 < most <= 4 << 20  # a block of this model is whole pages
    assert llm.stats.num_preemptions > 0 or llm.stats.num_waiting == 0
