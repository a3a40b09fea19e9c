"""Logits, token ids and masks, as Hypothesis strategies.

A row is a background made from a few numbers (kind, scale, seed of a Philox generator) with a handful of
logits overridden. Such a row shrinks in a few steps, to a short flat one with the one override that
matters, and needs no more of Hypothesis's entropy at 4,097 tokens than at 3.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

# Around every size where code turns a corner: words of a bitmask, lanes, blocks, and the plain small ones.
VOCAB_SIZES = (1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1000)
LARGE_VOCAB_SIZES = (4095, 4096, 4097, 32_000)

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_SUBNORMAL = float(np.finfo(np.float32).smallest_subnormal)
_SPECIAL_LOGITS = (0.0, -0.0, 1.0, -1.0, -np.inf, 30.0, _SUBNORMAL, -_SUBNORMAL, 1e38, -1e38, _FLOAT32_MAX)


def vocab_sizes(*, large: bool = False) -> st.SearchStrategy[int]:
    """Draw vocabulary sizes at and around powers of two; with `large` also from 4,095 to 32,000. Shrinks to 1."""
    return st.sampled_from(VOCAB_SIZES + (LARGE_VOCAB_SIZES if large else ()))


@cache
def token_ids(vocab_size: int, *, max_size: int = 12) -> st.SearchStrategy[list[int]]:
    """Draw histories of token ids, in any order, with repetitions; the first and the last id are favoured."""
    one = st.one_of(st.sampled_from((0, vocab_size - 1)), st.integers(0, vocab_size - 1))
    return st.lists(one, max_size=max_size)


@cache
def bitmasks(vocab_size: int) -> st.SearchStrategy[Array]:
    """Draw grammar masks, uint32 [ceil(vocab_size / 32)]; the spare bits of the last word are random."""
    num_words = -(-vocab_size // 32)
    words = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=8)
    return words.map(lambda some: np.resize(np.array(some, dtype=np.uint32), num_words))


@st.composite
def logits_rows(draw: st.DrawFn, vocab_size: int, *, nonfinite: bool = False) -> Array:
    """Draw one row of float32 logits [vocab_size]: flat, peaked, tied, spread to 1e38, with some tokens banned.

    Args:
        draw: supplied by Hypothesis.
        vocab_size: length of the row.
        nonfinite: NaN, +inf and rows of only -inf may occur.
    """
    background = draw(st.sampled_from(_BACKGROUNDS))
    generator = np.random.Generator(np.random.Philox(key=draw(st.integers(0, 2**16))))
    row = background(generator, vocab_size).astype(np.float32)
    special = st.sampled_from(_SPECIAL_LOGITS + ((np.nan, np.inf) if nonfinite else ()))
    value = st.one_of(special, st.floats(-50.0, 50.0, width=32))
    for token_id in draw(token_ids(vocab_size, max_size=6)):
        row[token_id] = draw(value)
    if not nonfinite and not (row > -np.inf).any():
        row[draw(st.integers(0, vocab_size - 1))] = 0.0
    return row


def logits_batches(vocab_size: int, num_rows: int, *, nonfinite: bool = False) -> st.SearchStrategy[Array]:
    """Draw float32 logits [num_rows, vocab_size], each row from `logits_rows`."""
    rows = [logits_rows(vocab_size, nonfinite=nonfinite) for _ in range(num_rows)]
    return st.tuples(*rows).map(lambda drawn: np.stack(drawn))


def _flat(_: np.random.Generator, n: int) -> Array:
    return np.zeros(n)


def _normal(generator: np.random.Generator, n: int) -> Array:
    return generator.normal(0.0, 3.0, n)


def _peaked(generator: np.random.Generator, n: int) -> Array:
    return generator.normal(0.0, 12.0, n)


def _tied(generator: np.random.Generator, n: int) -> Array:
    """Return normal logits with the 8 significant bits of bfloat16, so that rows have hundreds of ties."""
    bits = generator.normal(0.0, 2.0, n).astype(np.float32).view(np.uint32)
    return (bits & np.uint32(0xFFFF0000)).view(np.float32)


def _spread(generator: np.random.Generator, n: int) -> Array:
    """Return logits of all magnitudes of float32 and both signs, including subnormals."""
    uniform = generator.random((n, 2))  # token by token, so that a shorter row is the beginning of a longer one
    return np.where(uniform[:, 0] < 0.5, -1.0, 1.0) * 10.0 ** (83.0 * uniform[:, 1] - 45.0)


def _half_banned(generator: np.random.Generator, n: int) -> Array:
    normal = generator.normal(0.0, 3.0, (n, 2))
    return np.where(normal[:, 0] < 0.0, -np.inf, normal[:, 1])


def _all_banned(_: np.random.Generator, n: int) -> Array:
    return np.full(n, -np.inf)  # with what overrides it: the one survivor


_BACKGROUNDS: tuple[Callable[[np.random.Generator, int], Array], ...] = (
    _flat,
    _normal,
    _peaked,
    _tied,
    _spread,
    _half_banned,
    _all_banned,
)
