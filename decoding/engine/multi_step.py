"""Several decoding steps in a row, with the engine's own work done once for all of them (multi-step scheduling).

A step of a small network is over in a few milliseconds. If the engine did its own work after every one of them, a
tenth of the time would go to bringing the engine's code and objects back into caches that the weights have emptied.
Sequences that need nothing between two tokens therefore decode several of them in one call of the model. The tokens
are those of single steps. What a stop string or an abort cuts off is computed in vain, and dropped.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from decoding.engine.candidate import Candidate
from decoding.engine.logprobs import OutputScores, TokenScore
from decoding.engine.model_runner import ModelRunner
from decoding.engine.sampling_step import numbered, plain_score
from decoding.engine.scheduler import Scheduler
from decoding.engine.sequence import Sequence
from decoding.errors import LogitsError
from decoding.models.batch import Model, StepsModel
from decoding.sampling.kernel import DrawnSteps, StepsAhead
from decoding.sampling.sampler import Sampler
from decoding.sampling.stages import Profile

_CANDIDATE, _IS_PLAIN, _IS_SCORED = map(attrgetter, ("candidate", "is_plain", "is_scored"))
_PROFILE, _STATE, _ENDING_IDS = map(attrgetter, ("request.profile", "state", "ending_ids"))
_IS_STREAMED = attrgetter("task.is_streamed")


class Tokens(NamedTuple):
    """The tokens that were drawn for one sequence, and why it has no further one.

    scores: with each token its log-probabilities, as `Candidate.append` takes them; None if nothing asks for them.
    """

    token_ids: list[int]
    scores: list[tuple[TokenScore | None, float]] | None
    error: LogitsError | None


class Drawn(NamedTuple):
    """The outcome of steps in a row: their number, and each sequence with its candidate and its tokens."""

    num_steps: int
    tokens: Iterable[tuple[Sequence, Candidate, Tokens]]


class MultiStep:
    """Runs several decoding steps where a step's sequences need nothing else.

    model: single steps only, unless it is a StepsModel. most_steps: the setting num_scheduler_steps.
    """

    def __init__(self, model: Model, scheduler: Scheduler, runner: ModelRunner, most_steps: int | None) -> None:
        self._model = model if isinstance(model, StepsModel) else None
        self._scheduler = scheduler
        self._runner = runner
        self._most_steps = sys.maxsize if most_steps is None else most_steps
        self._interrupted = np.zeros(1, np.int32)

    def interrupt(self) -> None:
        """Let steps that run now end after the current one; from any thread."""
        self._interrupted[0] = 1

    def clear_interrupt(self) -> None:
        """Let the next steps run to their end."""
        self._interrupted[0] = 0

    def run(self, batch: list[Sequence], sampler_of: Callable[[Profile], Sampler]) -> Drawn | None:
        """Run several decoding steps; return None, with nothing done, if there must be a single one.

        sampler_of: returns the sampler of a profile.
        """
        model = self._model
        candidates = _plain_candidates(batch) if model is not None and self._scheduler.only_decodes else []
        if model is None or not candidates:
            return None
        num_steps = min(self._most_steps, model.max_steps(len(batch)), _fewest_tokens_left(candidates))
        if num_steps < 2 or not self._scheduler.reserve_ahead(batch, num_steps):
            return None
        ahead = StepsAhead(num_steps, frozenset().union(*map(_ENDING_IDS, candidates)), self._interrupted)
        sampler = sampler_of(candidates[0].request.profile)
        drawn = self._runner.decode(model, batch, sampler, list(map(_STATE, candidates)), ahead)
        return Drawn(len(drawn.token_ids), zip(batch, candidates, _tokens(drawn, candidates), strict=True))


def _plain_candidates(batch: list[Sequence]) -> list[Candidate]:
    """Return the candidates of a step's sequences if they can decode several tokens in a row, otherwise none."""
    candidates = list(map(_CANDIDATE, batch))
    are_plain = all(candidates) and all(map(_IS_PLAIN, candidates)) and not any(map(_IS_STREAMED, batch))
    return candidates if are_plain and len(set(map(id, map(_PROFILE, candidates)))) == 1 else []


def _fewest_tokens_left(candidates: Iterable[Candidate]) -> int:
    """Return after how many tokens the first candidate ends by its length."""
    return min(candidate.num_output_tokens - candidate.num_tokens for candidate in candidates)


def _tokens(drawn: DrawnSteps, candidates: list[Candidate]) -> Iterator[Tokens]:
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


def append_drawn(sequence: Sequence, candidate: Candidate, tokens: Tokens) -> None:
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
