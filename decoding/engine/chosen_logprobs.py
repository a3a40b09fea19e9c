"""Log-probabilities of chosen token ids: of each position, beside the drawn token and the most likely ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from decoding.models.batch import Logits
from decoding.sampling.sampler import Sampler
from decoding.sampling.state import SamplingState
from decoding.types import LogprobsMode


def logprobs_of_ids(
    sampler: Sampler, raw: Logits, row: Logits, state: SamplingState, mode: LogprobsMode, token_ids: Sequence[int]
) -> Mapping[int, float]:
    """Return the log-probabilities of tokens at a position, in the first mode of the request.

    raw: the untouched row [vocab], for mode "raw". row: the row that the sampler draws from with `state`.
    """
    if mode == "raw":
        return raw_logprobs_of_ids(sampler, raw[None], token_ids)[0]
    values = sampler.logprobs_of(row, state, token_ids).tolist()
    return dict(zip(token_ids, values, strict=True))


def raw_logprobs_of_ids(sampler: Sampler, rows: Logits, token_ids: Sequence[int]) -> list[Mapping[int, float]]:
    """Return the raw log-probabilities of tokens in each row [rows, vocab]."""
    found: list[Mapping[int, float]] = []
    for row in rows:
        repeated = np.broadcast_to(row, (len(token_ids), len(row)))
        values = sampler.score(repeated, token_ids).logprobs.tolist()
        found.append(dict(zip(token_ids, values, strict=True)))
    return found
