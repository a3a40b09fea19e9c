"""DRY, "don't repeat yourself": a penalty that grows with the length of the repetition that a token would continue.

p-e-w, 2024: text-generation-webui, pull request 5677; llama.cpp's llama_sampler_dry differs only for overlapping
breakers of several tokens: it stops at the first one from the end.

    context   a b c d a b c d a b c
    d would continue "a b c d a b c", which occurs twice, once at the end: n = 7
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from decoding.params import SamplingParams
from decoding.validation import to_float32

_FLOAT32_MAX = float(np.finfo(np.float32).max)


def dry_penalties(params: SamplingParams, context: Sequence[int]) -> dict[int, np.float32]:
    """Return the penalty of each token: multiplier * base**(n - allowed_length), if n is at least the allowed length.

    n is the longest repetition that the token would continue; a token that is itself a breaker has no penalty.
    """
    multiplier, allowed = to_float32(params.dry_multiplier), params.dry_allowed_length
    if multiplier == 0.0:
        return {}
    breakers = [tuple(int(token_id) for token_id in breaker) for breaker in params.dry_sequence_breakers]
    penalties: dict[int, np.float32] = {}
    for token_id, n in continued_lengths(context[-(params.dry_range or len(context)) :], breakers).items():
        if n >= allowed and (token_id,) not in breakers:
            penalty = multiplier * power(to_float32(params.dry_base), n - allowed)
            penalties[token_id] = np.float32(min(penalty, _FLOAT32_MAX))
    return penalties


def continued_lengths(context: Sequence[int], breakers: Sequence[Sequence[int]]) -> dict[int, int]:
    """Return for each token of the context the length of the context's longest suffix that also ends right before it.

    No repetition reaches across a breaker, so none is longer than the tokens since the last breaker.
    """
    limit = since_breaker(context, breakers)
    lengths: dict[int, int] = {}
    for i, token_id in enumerate(context):
        n = 0
        while n < min(i, limit) and context[i - 1 - n] == context[-1 - n]:
            n += 1
        lengths[token_id] = max(n, lengths.get(token_id, 0))
    return lengths


def since_breaker(context: Sequence[int], breakers: Sequence[Sequence[int]]) -> int:
    """Return the number of tokens since the end of the last breaker, or of all tokens if there is none."""
    for end in range(len(context), 0, -1):
        if any(end >= len(b) and tuple(context[end - len(b) : end]) == tuple(b) for b in breakers):
            return len(context) - end
    return len(context)


def power(base: float, exponent: int) -> float:
    """Return base**exponent in float64 by repeated squaring, whose roundings are the same on every machine."""
    result = 1.0
    while exponent:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result
