"""Rows: states for the rows of a batch that another engine runs, and draws for them.

A row gets the tokens that `LLM.complete` draws from the same logits: its random numbers follow from seed, prompt
and the number of the row among those with the same prompt and parameters, so they do not depend on other rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from decoding.engine.request import rng_stream_of
from decoding.errors import EngineError, ParameterError, Problem, shown
from decoding.params import SamplingParams
from decoding.sampling.sampler import Sampler
from decoding.sampling.stages import Profile
from decoding.sampling.state import SamplingState

_DEFAULTS = SamplingParams()

OF_OUR_LOOP = (
    *("n", "best_of", "stop", "include_stop_str_in_output", "logprobs", "logprobs_mode", "echo", "suffix"),
    "skip_special_tokens",
)
"""Parameters that need our decoding loop: a sampler alone cannot honour them."""

OF_ANY_LOOP = (*OF_OUR_LOOP, "stop_token_ids")
"""Parameters that the host's decoding loop has to honour, because it decides where a text ends."""


def check_params(params: SamplingParams, refused: Sequence[str]) -> SamplingParams:
    """Return parameters; ParameterError if one of the refused ones is not at its default."""
    given = [name for name in refused if getattr(params, name) != getattr(_DEFAULTS, name)]
    rule = "must be left at its default: only the engine that ends the text can do this"
    if given:
        raise ParameterError([Problem(name, shown(getattr(params, name)), rule) for name in given])
    return params


def new_state(
    params: SamplingParams, prompt_token_ids: Sequence[int], *, choice: int = 0, eos_token_ids: Sequence[int] = ()
) -> SamplingState:
    """Return the state with which `LLM.complete` would draw candidate number `choice` of this prompt.

    params: checked with `check_params`: the caller's loop honours every parameter that no sampler can honour.
    """
    ids = list(prompt_token_ids)
    stream = rng_stream_of(ids)
    return SamplingState(params, ids, choice=choice, stream=stream, eos_token_ids=eos_token_ids, host_parameters=True)


class RowSampler:
    """Draws for the rows of one call of another engine's `generate`, which shows all tokens at each step.

    params: for all rows, or one per row. max_tokens bounds min_tokens only, and must be None or left at its default.
    eos_token_ids: tokens that min_tokens bans, and behind which a row is finished.
    pad_token_id: fills finished rows, and is ignored on the left of a prompt. None if rows are not padded.
    """

    def __init__(
        self,
        vocab_size: int,
        params: SamplingParams | Sequence[SamplingParams],
        *,
        eos_token_ids: Sequence[int] = (),
        pad_token_id: int | None = None,
        profile: str | Profile = "openai",
    ) -> None:
        self._params = params
        for one in [params] if isinstance(params, SamplingParams) else params:
            check_params(one, OF_ANY_LOOP)
            if one.max_tokens not in (None, _DEFAULTS.max_tokens):
                rule = "must be None or left at its default: the engine that runs the loop limits the length"
                raise ParameterError.single("max_tokens", one.max_tokens, rule)
        self._eos = tuple(eos_token_ids)
        self._pad = pad_token_id
        self._sampler = Sampler(vocab_size, profile=profile)
        self._length = 0
        self._is_finished: list[bool] = []
        self.states: list[SamplingState] = []
        """The states of the rows, once the first tokens were drawn."""

    def draw(self, token_ids: Sequence[Sequence[int]], logits: Any) -> list[int | None]:
        """Draw one token per row; None for a row that is finished.

        token_ids: prompt and output of each row, equally long, with what was drawn before at their ends.
        logits: [rows, vocab], as of Sampler.
        Raises EngineError if tokens were not appended as they were drawn, LogitsError for a bad row.
        """
        if not self.states:
            self._begin(token_ids)
        else:
            self._follow(token_ids)
        self._length = len(token_ids[0])
        open_rows = [row for row, finished in enumerate(self._is_finished) if not finished]
        drawn: list[int | None] = [None] * len(self.states)
        if open_rows:
            rows = logits if len(open_rows) == len(self.states) else logits[open_rows]
            output = self._sampler.sample(rows, [self.states[row] for row in open_rows])
            for row, token_id in zip(open_rows, output.token_ids.tolist(), strict=True):
                drawn[row] = token_id
        return drawn

    def _begin(self, token_ids: Sequence[Sequence[int]]) -> None:
        if isinstance(self._params, SamplingParams):
            params: Sequence[SamplingParams] = [self._params] * len(token_ids)
        else:
            params = self._params
        if len(params) != len(token_ids):
            raise ParameterError.single("params", f"{len(params)} of them", f"must be one per row ({len(token_ids)})")
        numbers: Counter[Any] = Counter()
        for one, ids in zip(params, token_ids, strict=True):
            prompt = self._without_padding(ids)
            key = (tuple(prompt), one)
            state = new_state(one, prompt, choice=numbers[key], eos_token_ids=self._eos)
            numbers[key] += 1
            self.states.append(state)
        self._is_finished = [False] * len(token_ids)

    def _without_padding(self, ids: Sequence[int]) -> list[int]:
        prompt = list(ids)
        first = next((place for place, token_id in enumerate(prompt) if token_id != self._pad), len(prompt))
        return prompt[first:]

    def _follow(self, token_ids: Sequence[Sequence[int]]) -> None:
        """Check that the drawn tokens have been appended, and find the rows that are finished."""
        rule = "a sampler serves one call, and each row must continue with the token drawn for it"
        if len(token_ids) != len(self.states) or len(token_ids[0]) != self._length + 1:
            shape = f"{len(token_ids)} rows of {len(token_ids[0])} tokens"
            raise EngineError(f"{shape} after {len(self.states)} rows of {self._length}: {rule}")
        for row, (state, ids) in enumerate(zip(self.states, token_ids, strict=True)):
            if self._is_finished[row]:
                continue
            drawn, found = state.output_token_ids[-1], ids[-1]
            if drawn != found and found != self._pad:
                raise EngineError(f"row {row} has token {found} where {drawn} was drawn: {rule}")
            self._is_finished[row] = drawn != found or (drawn in self._eos and not state.params.ignore_eos)
