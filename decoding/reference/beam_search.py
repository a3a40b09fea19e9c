r"""The definition of beam search: all continuations of all beams, sorted, without a cache.

Score of a hypothesis y of L tokens:  (\sum_i \log p(y_i \mid y_{<i}) - \lambda \Delta_i) / L^\alpha,  where \Delta_i is
the number of beams in earlier groups that have chosen y_i at position i (Vijayakumar et al. 2016, Diverse Beam Search;
Wu et al. 2016 for the division, here by a power of the length as in transformers).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Logits = Callable[[list[int]], NDArray[np.float32]]
"""Returns the logits [vocab] that follow token ids."""


class Hypothesis(NamedTuple):
    """Token ids behind the prompt, and their score."""

    token_ids: list[int]
    score: float


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return log-probabilities in float64."""
    shifted = logits.astype(np.float64) - float(logits.max())
    logprobs: NDArray[np.float64] = shifted - math.log(np.exp(shifted).sum())
    return logprobs


def beam_search(
    logits: Logits,
    prompt: Sequence[int],
    *,
    width: int,
    max_tokens: int,
    ends: Sequence[int] = (),
    length_penalty: float = 1.0,
    early_stopping: bool | str = False,
    num_groups: int = 1,
    diversity_penalty: float = 0.0,
) -> list[Hypothesis]:
    """Return the finished hypotheses of all groups, the best first; see `BeamSearchParams` for the arguments."""
    size = width // num_groups
    running = [[Hypothesis([], 0.0)] for _ in range(num_groups)]
    finished: list[list[Hypothesis]] = [[] for _ in range(num_groups)]
    is_done = [False] * num_groups
    for length in range(1, max_tokens + 1):
        chosen: list[int] = []
        for group in range(num_groups):
            if is_done[group]:
                continue
            best = sorted(
                (
                    (
                        -(beam.score + logprob - diversity_penalty * chosen.count(token_id)),
                        number,
                        -row[token_id],
                        token_id,
                    )
                    for number, beam in enumerate(running[group])
                    for row in [logits([*prompt, *beam.token_ids])]
                    for token_id, logprob in enumerate(log_softmax(row).tolist())
                ),
            )[: max(2, 1 + len(ends)) * size]
            longer = [Hypothesis([*running[group][beam].token_ids, token], -cost) for cost, beam, _, token in best]
            ended = [length == max_tokens or one.token_ids[-1] in ends for one in longer]
            new = [Hypothesis(one.token_ids, one.score / length**length_penalty) for one in longer]
            ranked = [one for one, has_ended in zip(new[:size], ended, strict=False) if has_ended]
            finished[group] = sorted([*finished[group], *ranked], key=lambda one: -one.score)[:size]
            running[group] = [one for one, has_ended in zip(longer, ended, strict=True) if not has_ended][:size]
            chosen += [one.token_ids[-1] for one in running[group]]
            is_done[group] = not running[group] or (
                len(finished[group]) == size
                and (
                    early_stopping is True
                    or not _can_improve(
                        running[group][0], finished[group][-1], length, max_tokens, length_penalty, early_stopping
                    )
                )
            )
    return sorted((one for group in finished for one in group), key=lambda one: -one.score)


def _can_improve(
    best: Hypothesis, worst: Hypothesis, length: int, max_tokens: int, length_penalty: float, early_stopping: bool | str
) -> bool:
    """Return True if the best running hypothesis, now or at its greatest length, beats the worst finished one."""
    hypothetical = max_tokens if early_stopping == "never" and length_penalty > 0 else length
    return best.score / float(hypothetical**length_penalty) > worst.score
