"""Settings of the API: limits on requests, and the meaning of fields that servers read differently (docs/server.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

from decoding.domains import Domain, Integer, Word
from decoding.errors import ParameterError, Problem, shown
from decoding.sampling.stages import PROFILES
from decoding.validation import RuleError

_CHARS_PER_TOKEN = 8
_CHAR_BYTES = 12
"""Bytes of a character in JSON, if it is written as two escapes of six."""
_ID_BYTES = 16
"""Bytes of a token id with its comma and a space, or of the brackets around a list."""
_BIAS_BYTES = 64
_OTHER_BYTES = 1 << 16
"""Bytes of all other fields together: names, numbers and metadata."""
_OTHER_VALUES = 1 << 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits on a request. A value at the limit is served, one beyond it is refused.

    max_n, max_best_of, max_logprobs: the largest value of the parameter of that name.
    max_top_logprobs: the largest value of a chat request's field of that name.
    max_prompts: prompts in a request.
    max_sequences: prompts times candidates (n or best_of).
    max_prompt_tokens: token ids in all prompts of a request. Text that cannot fit is refused before it is tokenized.
    max_prompt_chars: characters in all prompts of a request and its suffix. None: 8 times max_prompt_tokens.
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
    max_prompt_chars: int | None = None
    max_stop: int = 16
    max_stop_bytes: int = 16_384
    max_list_entries: int = 1024

    def __post_init__(self) -> None:
        given = [field.name for field in fields(self) if getattr(self, field.name) is not None]
        check_fields(self, dict.fromkeys(given, Integer(1)))

    @property
    def prompt_chars(self) -> int:
        """The limit on characters in all prompts of a request and its suffix."""
        return _CHARS_PER_TOKEN * self.max_prompt_tokens if self.max_prompt_chars is None else self.max_prompt_chars

    @property
    def json_bytes(self) -> int:
        """Bytes of the longest request that these limits allow, its text written as escapes.

        That is one to explain a token, which has the tokens of a completion beside its prompt.
        """
        prompt = max(_CHAR_BYTES * self.prompt_chars, _ID_BYTES * self.max_prompt_tokens) + 4 * self.max_prompts
        strings = 3 * _CHAR_BYTES * self.max_stop_bytes
        entries = (_BIAS_BYTES + 5 * _ID_BYTES) * self.max_list_entries
        return prompt + _ID_BYTES * self.max_prompt_tokens + strings + entries + _OTHER_BYTES

    @property
    def json_values(self) -> int:
        """Values of the request with the most that these limits allow."""
        entries = 7 * self.max_list_entries + self.max_stop
        return 2 * (self.max_prompt_tokens + self.max_prompts) + entries + _OTHER_VALUES


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """Meaning and limits of the fields of a request.

    repetition_penalty_mode: "additive", as in the API's reference (-2 to 2, 0 is off), or "multiplicative", as on most
        local servers (> 0, 1 is off).
    unknown_fields: "error" refuses a field that is not in the API, "ignore" ignores it.
    profiles: names of the profiles of the sampler that a request may choose.
    """

    limits: Limits = field(default_factory=Limits)
    repetition_penalty_mode: Literal["additive", "multiplicative"] = "additive"
    unknown_fields: Literal["error", "ignore"] = "error"
    profiles: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(
            self,
            {
                "repetition_penalty_mode": Word(("additive", "multiplicative")),
                "unknown_fields": Word(("error", "ignore")),
            },
        )
        for name in self.profiles:
            if name not in PROFILES:
                raise ParameterError.single("profiles", name, f"must be of {', '.join(map(repr, PROFILES))}")


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
