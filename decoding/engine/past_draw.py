"""Repeat a draw that a completion has made, to explain it: the row of logits, and the state before the draw."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

from decoding.engine.masks import TokenMasks
from decoding.engine.outputs import CompletionResult
from decoding.engine.request import Request
from decoding.errors import LogitsError, ParameterError
from decoding.models.batch import Logits
from decoding.sampling.explain import Explanation
from decoding.sampling.sampler import Sampler
from decoding.sampling.state import SamplingState
from decoding.validation import checked_integer, checked_token_ids


@dataclass(frozen=True, slots=True, eq=False)
class PastDraw:
    """One draw. logits: float32 [vocab], a copy. state: as it was before the draw, a copy."""

    sampler: Sampler
    logits: Logits
    state: SamplingState

    def explain(self) -> Explanation:
        """Return the effect of each stage. Takes a pass over the logits per stage."""
        return self.sampler.explain(self.logits, self.state)

    def scores(self, token_ids: Sequence[int]) -> list[tuple[float, int]]:
        """Return log-probability and rank (1 = most likely) of tokens in the distribution before all stages."""
        scores = [self.sampler.score(self.logits, [token_id]) for token_id in token_ids]
        return [(float(score.logprobs[0]), int(score.ranks[0])) for score in scores]


class PastDrawRecorder:
    """Records the draw of one position of one choice while a request like the completion's runs.

    token_ids: the choice's tokens, without an echoed prompt. position: the index of the token to explain, at most
    len(token_ids), which is the token after them. choice: the number of the candidate.
    """

    def __init__(self, token_ids: Sequence[int], position: int, choice: int) -> None:
        """Raise ParameterError for a position that is not in the tokens or next to them."""
        self._token_ids = checked_token_ids("token_ids", token_ids)
        self._position = checked_integer("position", position, 0, len(self._token_ids))
        self._choice = choice
        self._draw: PastDraw | None = None

    def request(self, request: Request) -> Request:
        """Return the request to run: one step after the tokens before the position, which are computed as a prompt.

        Where a draw depends on more than those tokens, the completion is run again instead: mirostat and adaptive-p
        follow how likely the tokens were, banned strings redraw, and healed tokens have rows of their own.

        request: that of the completion, with its seed. Raises ParameterError if the tokens cannot be its output.
        """
        params = request.params
        checked_integer("choice", self._choice, 0, params.num_candidates - 1)
        checked_token_ids("token_ids", self._token_ids, request.vocab_size)
        if self._position >= request.max_output_tokens:
            rule = f"must be below {request.max_output_tokens}, the maximum number of tokens of the completion"
            raise ParameterError.single("position", self._position, rule)
        one = replace(
            request,
            params=replace(params, n=1, best_of=None, echo=False),
            candidates=(0 if request.is_greedy else self._choice,),
            on_sample=self._record,
        )
        if needs_its_past(request):
            return one if request.banned is not None else replace(one, max_output_tokens=self._position + 1)
        _check_grammar(one, self._token_ids[: self._position])
        before = list(self._token_ids[: self._position])
        return replace(
            one,
            token_ids=[*request.token_ids, *before],
            num_continued=len(before),
            max_output_tokens=1,
        )

    def draw(self, result: CompletionResult) -> PastDraw:
        """Return the draw once the request has run. Raise an error if it failed or drew other tokens."""
        (choice,) = result.choices
        if choice.error is not None and (self._draw is None or not isinstance(choice.error, LogitsError)):
            raise choice.error
        rule = "must be the tokens of the completion that this request and this seed give"
        if self._draw is None:
            raise ParameterError.single("token_ids", list(self._token_ids), f"{rule} (it has {len(choice.token_ids)})")
        again = self._draw.state.output_token_ids
        for index, (token_id, was) in enumerate(zip(again, self._token_ids, strict=False)):
            if token_id != was:
                raise ParameterError.single(f"token_ids[{index}]", was, f"{rule} (here it is {token_id})")
        return self._draw

    def _record(self, sampler: Sampler, logits: Logits, states: Sequence[SamplingState]) -> None:
        """Copy row and state at the position: explaining them here would hold up the other sequences of the step."""
        (state,) = states
        if state.position == self._position:  # comes again if banned strings go back; the last time counts
            self._draw = PastDraw(sampler, logits[0].copy(), copy.copy(state))


def needs_its_past(request: Request) -> bool:
    """Return True if a draw depends on more than the logits behind the tokens before it."""
    return request.new_state(0).needs_surprise or request.banned is not None or request.remainder is not None


def _check_grammar(request: Request, token_ids: Sequence[int]) -> None:
    """Raise ParameterError if the request's grammar does not have these tokens: in a step it would be too late."""
    if request.grammar is None:
        return
    masks = TokenMasks(request.vocab_size, request.grammar, ())
    for token_id in token_ids:
        masks.append(token_id)
