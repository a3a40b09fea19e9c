"""Results: completions, choices, log-probabilities, and the pieces of a stream.

Everything here is plain data. Lists in a result belong to the caller.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from decoding.engine.outputs_html import choice_html, result_html, score_html
from decoding.errors import DecodingError
from decoding.types import FinishReason, LogprobsMode

if TYPE_CHECKING:
    from decoding.engine.request import Request


class TokenLogprob(NamedTuple):
    r"""One token with its log-probability (natural log), rank (1 = most likely) and most likely alternatives.

    text: the token's text; `bytes:\xe2\x80` where its bytes are not UTF-8 by themselves; `token_id:7` without a
        tokenizer. Special tokens and the token that ended the sequence have theirs, too, though the completion's text
        does not show it.
    text_offset: code points from the start of the prompt to the character that holds the token's first byte.
    logprob, top, rank: None for the first token of an echoed prompt, which nothing predicts.
    top: the most likely tokens, most likely first, and the token itself.
    by_token_id: log-probabilities of the ids of logprob_token_ids, in the first mode (echoed prompts: raw).
    by_mode: log-probability in each mode, where logprobs_mode names several (echoed prompts have the raw one alone).
    data: the token's own bytes, those of `text` before it was made readable; None without a tokenizer.
    """

    text: str
    token_id: int
    logprob: float | None
    top: dict[str, float] | None
    text_offset: int
    rank: int | None
    by_mode: Mapping[LogprobsMode, float] = MappingProxyType({})
    data: bytes | None = None
    by_token_id: Mapping[int, float] = MappingProxyType({})


@dataclass(slots=True)  # not frozen, for the reason that Delta is not
class Logprobs:
    """Log-probabilities of consecutive tokens, as columns of equal length: the fields of `TokenLogprob` in order."""

    tokens: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    token_logprobs: list[float | None] = field(default_factory=list)
    top_logprobs: list[dict[str, float] | None] = field(default_factory=list)
    text_offset: list[int] = field(default_factory=list)
    ranks: list[int | None] = field(default_factory=list)
    by_mode: list[Mapping[LogprobsMode, float]] = field(default_factory=list)
    data: list[bytes | None] = field(default_factory=list)
    by_token_id: list[Mapping[int, float]] = field(default_factory=list)

    @classmethod
    def from_tokens(cls, entries: Iterable[TokenLogprob]) -> Logprobs:
        """Return entries as columns."""
        columns = list(map(list, zip(*entries, strict=True)))
        if not columns:
            return cls()
        columns[3] = [None if top is None else dict(top) for top in columns[3]]  # the caller's, as all lists are
        columns[6], columns[8] = _dicts(columns[6]), _dicts(columns[8])
        return cls(*columns)


def _dicts(mappings: list[Mapping[Any, float]]) -> list[Mapping[Any, float]]:
    """Return copies that can be pickled. Empty ones are one object: a large result would have a million of them."""
    return list(map(dict, mappings)) if any(mappings) else [{}] * len(mappings)


@dataclass(frozen=True, slots=True)
class Score:
    """Raw log-probabilities (natural log) and ranks of given tokens behind a prompt, one per token.

    total: the sum of the log-probabilities, in float64 and in token order.
    """

    token_ids: list[int]
    logprobs: list[float]
    ranks: list[int]
    total: float

    def _repr_html_(self) -> str:
        """Show the tokens in a notebook, coloured by their probability."""
        return score_html(self)


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts: the prompt once, and every token sampled for it, those of discarded candidates included."""

    prompt_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens

    @classmethod
    def sum(cls, usages: Sequence[Usage]) -> Usage:
        """Return the usage of all prompts together."""
        return cls(sum(u.prompt_tokens for u in usages), sum(u.completion_tokens for u in usages))


@dataclass(slots=True)  # not frozen: one is made per token, and frozen ones take twice as long
class Delta:
    """The addition of one step to one choice; the pieces of a choice add up to the `Choice` of `complete`.

    index: the number of the choice; several prompts are numbered prompt by prompt.
    finish_reason: None except in the last piece of the choice.
    num_sampled: tokens sampled for this choice so far, with those that a stop string holds back.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: FinishReason | None
    stop_reason: str | int | None
    logprobs: Logprobs | None
    seed: int
    error: DecodingError | None = None
    num_sampled: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """One completion.

    text: the completion's text, with `echo` the prompt's text first; "" without a tokenizer.
    token_ids: the tokens that begin in that text, and the token that ended the sequence; with `echo` the prompt's
        tokens first.
    finish_reason: "stop", "length", or "error" (no token could be sampled; `error` says why).
    stop_reason: the stop string, stop token id or end-of-sequence id that ended it, or "repetition_detected"; None
        otherwise.
    logprobs: one entry per token of `token_ids`; None where they were not asked for.
    seed: the seed in use; the same request with this seed gives the same tokens again.
    mean_logprob: mean raw log-probability of the sampled tokens where `best_of` ranked by it, else None.
    candidate: its number among the candidates of the prompt, on which its random numbers depend.
    beam_score: its score in a beam search, by which choices are ordered there; otherwise None.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    stop_reason: str | int | None
    logprobs: Logprobs | None
    seed: int
    mean_logprob: float | None = None
    error: DecodingError | None = None
    candidate: int = 0
    beam_score: float | None = None

    def _repr_html_(self) -> str:
        """Show the text in a notebook, coloured by the tokens' probabilities."""
        return choice_html(self)


@dataclass(slots=True)
class Metrics:
    """Times of a prompt in seconds, and counts.

    queue_seconds: until its computation began.
    prefill_seconds: from then until the first token was sampled.
    first_token_seconds: both together.
    per_token_seconds: mean time between the tokens of one candidate, after the first.
    total_seconds: until the last candidate had ended.
    cached_tokens: tokens of the prompt that came from the prefix cache.
    num_draft_tokens: draft tokens that were checked. num_accepted_tokens: those that were accepted.
    num_preemptions: preemptions of its candidates.
    """

    queue_seconds: float = 0.0
    prefill_seconds: float = 0.0
    first_token_seconds: float = 0.0
    per_token_seconds: float = 0.0
    total_seconds: float = 0.0
    cached_tokens: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    num_preemptions: int = 0


@dataclass(frozen=True, slots=True)
class CompletionResult:
    """All choices for one prompt, best first where `best_of` ranks them, and what they cost.

    prompt_token_ids: the tokens that were computed, with an added start token and fill-in-the-middle markers.
    metrics: times and counts; they do not matter to equality.
    origin: the request as the engine had it (`LLM.capsule` makes it a file).
    """

    choices: list[Choice]
    usage: Usage
    prompt_token_ids: list[int]
    model: str
    metrics: Metrics = field(default_factory=Metrics, compare=False)
    origin: Request | None = field(default=None, compare=False, repr=False)

    def _repr_html_(self) -> str:
        """Show the choices in a notebook, coloured by the tokens' probabilities."""
        return result_html(self)
