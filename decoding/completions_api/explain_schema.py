"""The answer of POST /v1/explain: a draw, stage by stage."""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from decoding.completions_api.explain import ExplainRequest
from decoding.completions_api.schema import WIRE_MINUS_INFINITY
from decoding.engine.logprobs import own_bytes, text_of_bytes
from decoding.engine.past_draw import PastDraw
from decoding.sampling.explain import Explanation
from decoding.text.tokenizer import Tokenizer


class ExplainedTokenObject(TypedDict):
    """One token. logprob, rank: before all stages; final_rank: in the draw, null if it could not be drawn.

    token, bytes: its text by itself, and its bytes (null without a tokenizer). why_not: why it could not be drawn; null
    if it could.
    """

    token_id: int
    token: str
    bytes: list[int] | None
    logprob: float
    rank: int
    final_rank: int | None
    why_not: str | None


class StepObject(TypedDict):
    """The distribution after one stage ("logits": as the row came in).

    title: the stage and its settings in words. num_kept: tokens that can still be drawn. mass_removed: the probability
    that it took away. entropy: in nats. probabilities: one per token of `tokens`.
    """

    stage: str
    title: str
    num_kept: int
    mass_removed: float
    entropy: float
    probabilities: list[float]


class ExplanationObject(TypedDict):
    """The answer. token_id: the token at the position; drawn: the token that the sampler draws, null if the row fails.

    error: why the row fails. tokens: the token at the position, then the most likely ones before all stages and after
    them. steps: the row as it came in, then each stage that has settings or changed anything.
    """

    object: str
    model: str
    system_fingerprint: str
    position: int
    choice: int
    seed: int
    token_id: int | None
    drawn: int | None
    error: str | None
    tokens: list[ExplainedTokenObject]
    steps: list[StepObject]


def explanation_object(
    request: ExplainRequest, draw: PastDraw, tokenizer: Tokenizer | None, system_fingerprint: str
) -> ExplanationObject:
    """Explain a draw and return the answer. Takes a pass over the logits per stage.

    Raises LogitsError for a row that is not finite, or bans every token.
    """
    explanation = draw.explain()
    given = request.token_ids[request.position] if request.position < len(request.token_ids) else explanation.token_id
    token_ids = _reported_ids(explanation, given, request.num_top)
    return {
        "object": "explanation",
        "model": request.completion.model,
        "system_fingerprint": system_fingerprint,
        "position": request.position,
        "choice": request.choice,
        "seed": draw.state.seed,
        "token_id": given,
        "drawn": explanation.token_id,
        "error": None if explanation.error is None else str(explanation.error),
        "tokens": _token_objects(explanation, draw, token_ids, tokenizer),
        "steps": [
            {
                "stage": step.name,
                "title": step.title,
                "num_kept": step.num_kept,
                "mass_removed": step.mass_removed,
                "entropy": step.entropy,
                "probabilities": step.after[token_ids].tolist(),
            }
            for step in explanation.steps
        ],
    }


def _reported_ids(explanation: Explanation, given: int | None, num_top: int) -> list[int]:
    """Return the given token, if there is one, the drawn one, and the most likely ones before and after the stages."""
    first, last = explanation.steps[0], explanation.steps[-1]
    top = [token_id for token_id, _ in (*first.top_after(num_top), *last.top_after(num_top))]
    own = [token_id for token_id in (given, explanation.token_id) if token_id is not None]
    return list(dict.fromkeys([*own, *top]))


def _token_objects(
    explanation: Explanation, draw: PastDraw, token_ids: list[int], tokenizer: Tokenizer | None
) -> list[ExplainedTokenObject]:
    final = explanation.probabilities
    objects: list[ExplainedTokenObject] = []
    for token_id, (logprob, rank) in zip(token_ids, draw.scores(token_ids), strict=True):
        data, p = own_bytes(tokenizer, token_id), final[token_id]
        before = int(np.count_nonzero(final > p)) + int(np.count_nonzero(final[:token_id] == p))
        objects.append(
            {
                "token_id": token_id,
                "token": f"token_id:{token_id}" if data is None else text_of_bytes(data),
                "bytes": None if data is None else list(data),
                "logprob": logprob if np.isfinite(logprob) else WIRE_MINUS_INFINITY,
                "rank": rank,
                "final_rank": before + 1 if p > 0 else None,
                "why_not": explanation.why_not(token_id),
            }
        )
    return objects
