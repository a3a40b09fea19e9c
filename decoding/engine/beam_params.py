"""BeamSearchParams: the arguments of a beam search, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from decoding.domains import Boolean, Domain, Integer, Number, OrNone, TokenIds
from decoding.errors import ParameterError, Problem, shown
from decoding.params import PARAMETERS, SamplingParams
from decoding.validation import RuleError

MAX_BEAMS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamSearchParams:
    """Arguments of a beam search (docs/beam_search.md).

    beam_width: hypotheses that are extended side by side, 1 to 256.
    n: hypotheses to return, at most beam_width; None is all of them.
    max_tokens: >= 1; None is to the end of the context.
    length_penalty: a hypothesis of L tokens scores its log-probability divided by L to the power of this.
    early_stopping: True ends a group when it has as many finished hypotheses as beams; False also ends it when its best
        running one would not be better now; "never" only when length_penalty does not allow it to become better.
    num_beam_groups: groups that are searched one after another at each position; a divisor of beam_width.
    diversity_penalty: >= 0; subtracted from a token's log-probability for each beam of the earlier groups that has
        just chosen it. Only with groups.
    stop_token_ids: ids that end a hypothesis, beside the model's own.
    ignore_eos: the model's own end-of-sequence ids do not end a hypothesis.
    logprobs: report log-probabilities, and this many of the most likely tokens; None reports none.
    skip_special_tokens: leave special tokens out of the text.

    ParameterError names every argument that breaks its rule.
    """

    beam_width: int = 4
    n: int | None = None
    max_tokens: int | None = 16
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        problems = []
        for field in fields(self):
            value = getattr(self, field.name)
            try:
                object.__setattr__(self, field.name, CHECKS[field.name](value))
            except RuleError as error:
                problems.append(Problem(field.name, shown(value), str(error)))
        problems = problems or self._cross_checks()
        if problems:
            raise ParameterError(problems)

    def _cross_checks(self) -> list[Problem]:
        problems = []
        if self.n is not None and self.n > self.beam_width:
            problems.append(Problem("n", str(self.n), f"must be at most beam_width={self.beam_width}"))
        if self.beam_width % self.num_beam_groups:
            rule = f"must divide beam_width={self.beam_width}"
            problems.append(Problem("num_beam_groups", str(self.num_beam_groups), rule))
        if self.diversity_penalty and self.num_beam_groups == 1:
            rule = "must be 0 without groups (num_beam_groups=1)"
            problems.append(Problem("diversity_penalty", str(self.diversity_penalty), rule))
        return problems

    @property
    def num_returned(self) -> int:
        """The number of hypotheses to return."""
        return self.beam_width if self.n is None else self.n

    @property
    def sampling(self) -> SamplingParams:
        """These parameters as SamplingParams. The seed is 0, because a beam search draws nothing."""
        return SamplingParams(
            max_tokens=self.max_tokens,
            stop_token_ids=self.stop_token_ids,
            ignore_eos=self.ignore_eos,
            logprobs=self.logprobs,
            skip_special_tokens=self.skip_special_tokens,
            seed=0,
        )


SHARED = ("max_tokens", "n", "stop_token_ids", "ignore_eos", "logprobs", "skip_special_tokens")
"""Sampling parameters that are also arguments of a beam search."""

OWN = ("length_penalty", "early_stopping", "num_beam_groups", "diversity_penalty")
"""Arguments of a beam search, other than its width, that are no sampling parameters."""


def beams_of(params: SamplingParams, own: Mapping[str, Any]) -> BeamSearchParams:
    """Return the arguments of a beam search that was asked for with sampling parameters.

    own: the arguments that are no sampling parameters. Without a beam_width, best_of is the width, or n.
    Raises ParameterError for sampling parameters that have no meaning where nothing is drawn.
    """
    problems = [
        Problem(name, shown(getattr(params, name)), "must be absent in a beam search, which draws nothing")
        for name, row in PARAMETERS.items()
        if name not in (*SHARED, "best_of", "temperature") and getattr(params, name) != row.default
    ]
    if params.temperature not in (0.0, 1.0):
        rule = "must be 1, 0 or absent in a beam search, which draws nothing"
        problems.append(Problem("temperature", shown(params.temperature), rule))
    width = own.get("beam_width", params.num_candidates)
    shared = {name: getattr(params, name) for name in SHARED}
    if "beam_width" in own and params.n == 1:
        shared["n"] = None
    try:
        beams = BeamSearchParams(**{**shared, "beam_width": width, **own})
    except ParameterError as error:
        raise ParameterError([*problems, *error.problems]) from None
    if problems:
        raise ParameterError(problems)
    return beams


def _early_stopping(value: Any) -> object:
    if not isinstance(value, bool) and value != "never":
        raise RuleError('must be True, False or "never"')
    return value


CHECKS: dict[str, Callable[[Any], object] | Domain] = {
    "beam_width": Integer(1, MAX_BEAMS),
    "n": OrNone(Integer(1)),
    "max_tokens": OrNone(Integer(1)),
    "length_penalty": Number(-100, 100),
    "early_stopping": _early_stopping,
    "num_beam_groups": Integer(1),
    "diversity_penalty": Number(0, 1e6),
    "stop_token_ids": TokenIds(),
    "ignore_eos": Boolean(),
    "logprobs": OrNone(Integer(0, 1000)),
    "skip_special_tokens": Boolean(),
}
