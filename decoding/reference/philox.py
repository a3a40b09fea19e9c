"""Philox4x64-10, the counter-based generator behind every draw, in plain Python integers.

Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). The block for a counter
is computed directly, without any state, so any draw of any sequence can be replayed by itself.
`numpy.random.Philox` is the same generator, except that it increments its counter before the first block.
"""

from __future__ import annotations

from typing import TypeAlias

Counter: TypeAlias = tuple[int, int, int, int]
Key: TypeAlias = tuple[int, int]

_MASK = 2**64 - 1
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_NUM_ROUNDS = 10

SAMPLING_DRAW = 0
"""Draw id of the token itself; other ids separate other uses of randomness at the same position."""
XTC_DRAW = 1
"""Draw id of XTC's random decision."""


def philox4x64(counter: Counter, key: Key) -> Counter:
    """Return the four 64-bit output words for a counter of four and a key of two 64-bit words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_NUM_ROUNDS):
        high0, low0 = divmod(_MULTIPLIERS[0] * c0, 2**64)
        high1, low1 = divmod(_MULTIPLIERS[1] * c2, 2**64)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def random_words(
    seed: int, stream: int, position: int, choice: int, attempt: int = 0, *, draw_id: int = SAMPLING_DRAW
) -> Counter:
    """Return the random bits that draw the token at `position` (the number of output tokens before it), four words.

    Key = (seed, stream), counter = (position, choice, draw id, attempt). A negative seed is taken as its
    two's complement.
    """
    key = (seed & _MASK, stream & _MASK)
    return philox4x64((position, choice, draw_id, attempt), key)
