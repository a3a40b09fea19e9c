"""Stage draw: one exact draw, by inverse CDF if the mass of the kept tokens is known, otherwise by rejection.

Both draw token i with probability `row.probabilities[i]`. Which of them a row takes depends on its parameters alone: a
truncation that needs the mass of tokens has summed it anyway; with min_p or no truncation, rejection saves the sum.
"""

from __future__ import annotations

import numpy as np

from decoding.params import SamplingParams
from decoding.reference.philox import random_words
from decoding.reference.row import Array, Row
from decoding.reference.weights import probabilities
from decoding.sampling.stages import GREEDY_TEMPERATURE
from decoding.validation import to_float32

BLOCK = 256
"""Tokens of a proposal's block: ids BLOCK * b to BLOCK * b + BLOCK - 1."""


def apply_draw(row: Row) -> None:
    """Set the drawn token, its distribution, and with mirostat or adaptive-p its surprise.

    The surprise is -log2 of the token's probability before the stages adaptive_p and skew.
    """
    row.probabilities = probabilities(row.logits)
    (row.token_id,) = possible_tokens(row, row.probabilities)
    if row.params.mirostat_tau is not None or row.params.adaptive_p_target is not None:
        row.surprise = -float(np.log2(probabilities(row.before_reshaping)[row.token_id]))


def is_by_rejection(row: Row) -> bool:
    """Return True if only the temperature, and min_p after it, shape the row."""
    order = [stage.name for stage in row.profile.stages]
    tempers_first = to_float32(row.params.min_p) == 0.0 or order.index("temperature") < order.index("min_p")
    return tempers_first and not is_weighed(row.params) and row.temperature >= GREEDY_TEMPERATURE


def is_weighed(params: SamplingParams) -> bool:
    """Return True if a truncation that needs more than the largest logit is on, or a stage that changes weights."""
    limits = (params.epsilon_cutoff, params.eta_cutoff, params.top_a, params.xtc_probability)
    return (
        params.top_k is not None
        or to_float32(params.top_h) < 1.0
        or to_float32(params.tfs) < 1.0
        or params.p_less is not None
        or params.min_k is not None
        or to_float32(params.top_p) < 1.0
        or to_float32(params.typical_p) < 1.0
        or params.top_n_sigma is not None
        or any(to_float32(limit) > 0.0 for limit in limits)
        or params.mirostat_tau is not None
        or params.adaptive_p_target is not None
        or to_float32(params.skew) != 0.0
    )


def possible_tokens(row: Row, distribution: Array, slack: float = 0.0) -> set[int]:
    """Return the tokens that the row's random words may select, if `distribution` [vocab] is known up to `slack`.

    Without slack that is one token: the definition. With slack, a test can distinguish a
    wrong draw from one that rounding decides.
    """
    method = _by_rejection if is_by_rejection(row) else _by_inversion
    return method(row, distribution, slack)


def _by_inversion(row: Row, distribution: Array, slack: float) -> set[int]:
    """Return the first token, by id, whose cumulative probability exceeds the uniform number (Devroye 1986, II.2.1)."""
    return set(_at(_uniform(_words(row, 0)[0]), distribution, slack).tolist())


def _by_rejection(row: Row, distribution: Array, slack: float) -> set[int]:
    """Draw by rejection from a dominating step function (Devroye 1986, II.3.1), each step a block of ids.

    Of each attempt's three words the first chooses a block in proportion to its largest probability, the
    second a token in it, the third accepts with the ratio of that token's probability to the largest.
    """
    padded = np.pad(distribution, (0, -len(distribution) % BLOCK)).reshape(-1, BLOCK)  # [blocks, BLOCK]
    largest = padded.max(axis=1)
    chances = largest / largest.sum()
    possible: set[int] = set()
    attempt = 0
    while True:
        words = _words(row, attempt)
        place, uniform = words[1] * BLOCK >> 64, _uniform(words[2])
        ratios = {int(b): padded[b, place] / largest[b] for b in _at(_uniform(words[0]), chances, slack)}
        possible |= {b * BLOCK + place for b, ratio in ratios.items() if ratio > 0.0 and uniform < ratio + slack}
        if all(uniform < ratio - slack for ratio in ratios.values()):
            return possible
        attempt += 1


def _at(point: float, distribution: Array, slack: float) -> Array:
    """Return the indices whose interval [cumulative[i - 1], cumulative[i]), widened by slack, contains the point."""
    cumulative = np.cumsum(distribution)
    cumulative /= cumulative[-1]
    start = np.concatenate([[0.0], cumulative[:-1]])
    return np.flatnonzero((start - slack <= point) & (point < cumulative + slack) & (distribution > 0))


def _words(row: Row, attempt: int) -> tuple[int, int, int, int]:
    return random_words(row.seed, row.stream, len(row.output_token_ids), row.choice, attempt)


def _uniform(word: int) -> float:
    """Return word / 2**64, rounded down to float64 so that it stays below 1."""
    return (word >> 11) / 2**53
