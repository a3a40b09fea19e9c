"""Stage 13: one exact draw by inverse CDF in the order of token ids."""

from __future__ import annotations

import numpy as np

from decoding.reference.logits import Row
from decoding.reference.philox import random_word
from decoding.reference.truncation import weights


def apply_draw(row: Row) -> None:
    """The first token, by id, whose cumulative probability exceeds u / 2**64 (Devroye 1986, section II.2.1).

    u is the 64-bit word of Philox for (seed, stream, position, choice). Token i owns the half-open interval
    [cumulative[i - 1], cumulative[i]), which is empty for tokens that were dropped.
    """
    mass = weights(row.logits)
    row.probabilities = mass / mass.sum()
    row.cumulative = np.cumsum(row.probabilities)
    word = random_word(row.seed, row.stream, len(row.output_token_ids), row.choice)
    row.target = (word >> 11) / 2**53  # as much of u / 2**64 as float64 holds without rounding up to 1
    row.token_id = int(np.argmax(row.cumulative > row.target * row.cumulative[-1]))
