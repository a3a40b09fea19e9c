"""Scores of given tokens, for echo and for scoring."""

from __future__ import annotations

from collections.abc import Sequence

from decoding.engine.logprobs import OutputScores, TokenScore
from decoding.models.batch import Logits
from decoding.sampling.sampler import Sampler

_MAX_ELEMENTS = 2**22


def max_score_rows(vocab_size: int) -> int:
    """Return how many rows of logits to score per step: 16 MB of float32, at least one row."""
    return max(1, _MAX_ELEMENTS // vocab_size)


def token_scores(
    sampler: Sampler, logits: Logits, token_ids: Sequence[int], num_top: int, chosen: Sequence[int] = ()
) -> list[TokenScore]:
    """Return the raw score of each token, given the row that predicts it; rows without a token are not scored.

    chosen: ids whose log-probabilities are reported, too.
    Raises LogitsError for a row that is not finite.
    """
    scores = OutputScores(sampler.score(logits[: len(token_ids)], token_ids, num_top=num_top, chosen=chosen))
    return [scores.of_row(row, num_top, chosen=chosen) for row in range(len(token_ids))]
