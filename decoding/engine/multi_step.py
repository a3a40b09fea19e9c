"""Several decoding steps in a row, with the engine's own work done once for all of them (multi-step scheduling).

A step of a small network is over in a few milliseconds. If the engine did its own work after every one of them, a
tenth of the time would go to bringing the engine's code and objects back into caches that the weights have emptied.
Sequences that need nothing between two tokens therefore decode several of them in one call of the model. The tokens
are those of single steps. What a stop string or an abort cuts off is computed in vain, and dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple

from decoding.engine.candidate import Candidate
from decoding.engine.logprobs import OutputScores, TokenScore
from decoding.engine.sampling_step import numbered, plain_score
from decoding.engine.sequence import Sequence as EngineSequence
from decoding.errors import LogitsError
from decoding.sampling.kernel import DrawnSteps

_CANDIDATE, _IS_PLAIN, _IS_SCORED = map(attrgetter, ("candidate", "is_plain", "is_scored"))
_PROFILE, _IS_STREAMED = map(attrgetter, ("request.profile", "task.is_streamed"))


def plain_candidates(batch: Iterable[EngineSequence]) -> list[Candidate]:
    """Return the candidates of a step's sequences if they can decode several tokens in a row, otherwise none."""
    candidates = list(map(_CANDIDATE, batch))
    are_plain = all(candidates) and all(map(_IS_PLAIN, candidates)) and not any(map(_IS_STREAMED, batch))
    return candidates if are_plain and len(set(map(id, map(_PROFILE, candidates)))) == 1 else []


def fewest_tokens_left(candidates: Iterable[Candidate]) -> int:
    """Return after how many tokens the first candidate ends by its length."""
    return min(candidate.num_output_tokens - candidate.num_tokens for candidate in candidates)


class Tokens(NamedTuple):
    """The tokens that were drawn for one sequence, and why it has no further one.

    scores: with each token its log-probabilities, as `Candidate.append` takes them; None if nothing asks for them.
    """

    token_ids: list[int]
    scores: list[tuple[TokenScore | None, float]] | None
    error: LogitsError | None


def drawn_tokens(drawn: DrawnSteps, candidates: Sequence[Candidate]) -> Iterator[Tokens]:
    """Yield the drawn tokens of each candidate."""
    num_rows = len(candidates)
    scores = OutputScores(drawn.output) if any(map(_IS_SCORED, candidates)) else None
    for row, (candidate, token_ids) in enumerate(zip(candidates, drawn.token_ids.T.tolist(), strict=True)):
        error = drawn.failures.get(row)
        if error is not None:
            token_ids.pop()
        its = None
        if scores is not None and candidate.is_scored:
            its = [plain_score(candidate, scores, step * num_rows + row) for step in range(len(token_ids))]
        yield Tokens(token_ids, its, error)


def append_drawn(sequence: EngineSequence, candidate: Candidate, tokens: Tokens) -> None:
    """Append drawn tokens to a candidate until one ends it, and to its sequence, and take back the others.

    Sets `num_scheduled` to the number of tokens that were computed for those that stay.
    """
    num_kept = 0
    for token_id in tokens.token_ids:
        if tokens.scores is None:
            candidate.append(token_id)
        else:
            candidate.append(token_id, *tokens.scores[num_kept])
        num_kept += 1
        if candidate.finish_reason is not None:
            candidate.state.truncate(candidate.num_tokens)
            break
    sequence.token_ids += tokens.token_ids[:num_kept]
    sequence.num_scheduled = num_kept
    if tokens.error is not None and candidate.finish_reason is None:
        candidate.fail(numbered(tokens.error, candidate))
