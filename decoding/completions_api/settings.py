"""Settings of the API: limits on requests, and the meaning of fields that servers read differently (docs/server.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

from decoding.domains import Domain, Integer, Word
from decoding.errors import ParameterError, Problem, shown
from decoding.validation import RuleError


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits on a request. A value at the limit is served, one beyond it is refused.

    max_n, max_best_of, max_logprobs: the largest value of the parameter of that name.
    max_top_logprobs: the largest value of a chat request's field of that name.
    max_prompts: prompts in a request.
    max_sequences: prompts times candidates (n or best_of).
    max_prompt_tokens: token ids in all prompts of a request. Text that cannot fit is refused before it is tokenized.
    max_stop: stop strings. max_stop_bytes: UTF-8 bytes in all of them, and in other lists of strings.
    max_list_entries: entries of logit_bias, and token ids in any other list.
    """

    max_n: int = 128
    max_best_of: int = 20
    max_logprobs: int = 5
    max_top_logprobs: int = 20
    max_prompts: int = 128
    max_sequences: int = 1024
    max_prompt_tokens: int = 131_072
    max_stop: int = 16
    max_stop_bytes: int = 16_384
    max_list_entries: int = 1024

    def __post_init__(self) -> None:
        check_fields(self, {field.name: Integer(1) for field in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """Meaning and limits of the fields of a request.

    repetition_penalty_mode: "additive", as in the API's reference (-2 to 2, 0 is off), or "multiplicative", as on most
        local servers (> 0, 1 is off).
    unknown_fields: "error" refuses a field that is not in the API, "ignore" ignores it.
    """

    limits: Limits = field(default_factory=Limits)
    repetition_penalty_mode: Literal["additive", "multiplicative"] = "additive"
    unknown_fields: Literal["error", "ignore"] = "error"

    def __post_init__(self) -> None:
        check_fields(
            self,
            {
                "repetition_penalty_mode": Word(("additive", "multiplicative")),
                "unknown_fields": Word(("error", "ignore")),
            },
        )


def check_fields(settings: object, rules: Mapping[str, Domain]) -> None:
    """Raise ParameterError with every field of `settings` that breaks its rule."""
    problems = []
    for name, domain in rules.items():
        try:
            domain(getattr(settings, name))
        except RuleError as error:
            problems.append(Problem(name, shown(getattr(settings, name)), str(error)))
    if problems:
        raise ParameterError(problems)
