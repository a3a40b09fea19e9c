"""SamplingParams: what a request asks of the sampler and of the decoding loop, checked once, at the door."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

from decoding.errors import ParameterError, Problem, shown
from decoding.types import LOGPROBS_MODES, REPETITION_SCOPES, LogprobsMode, RepetitionScope

INT32_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SamplingParams:
    """Sampling and decoding parameters of one request.

    Each takes its quantity's mathematical domain; the narrower ranges of the HTTP API are checked at the HTTP edge.
    All problems are reported together in one ParameterError. Instances are immutable, hashable and picklable.

    Length
        max_tokens: int >= 0 or None; tokens to generate at most, None is "to the end of the context".
        min_tokens: int >= 0; until so many tokens are there, stop ids and EOS are banned, stop strings ignored.
    Choices
        n: int >= 1; completions to return for each prompt.
        best_of: int >= n, None or 0 (both mean n); candidates to generate, ranked by mean raw log-probability.
        seed: signed 64-bit int or None; None takes 64 bits from the operating system and reports them.
    Distribution, in the order of the pipeline (decoding.stages.PIPELINE)
        repetition_penalty: float > 0; multiplicative (Keskar et al. 2019, "CTRL"): logits of seen tokens become
            l / r when positive, l * r otherwise. Neutral 1.
        repetition_penalty_scope: "prompt+output", "output", or an int >= 1: the last so many of prompt + output.
        frequency_penalty, presence_penalty: finite float; additive, over generated tokens only. Neutral 0.
        context_frequency_penalty: finite float; additive, per occurrence in prompt + output. Neutral 0.
        logit_bias: mapping {token id: finite float}, or pairs; added to the logits. Kept as pairs sorted by id.
        allowed_token_ids: at least one id, or None for all; every other token is banned.
        banned_token_ids: ids that are never drawn.
        temperature: float >= 0; 0, and anything below 2**-20, is greedy.
        top_k: int >= 1 or None (off); exactly the k first of the total order (higher logit, then lower id).
        top_p: float in [0, 1]; shortest prefix of that order with mass >= top_p (Holtzman et al. 2020).
            0 keeps one token, 1 is off.
        min_p: float in [0, 1]; tokens with at least min_p times the largest probability (Nguyen et al. 2024).
    Stopping
        stop: a string or several, none empty; text ends before the first match.
        stop_token_ids: ids that end a sequence.
        include_stop_str_in_output: keep the stop string in the text.
        ignore_eos: do not end at the model's end-of-sequence tokens.
    Output
        logprobs: int >= 0 or None; how many of the most likely tokens to report besides the drawn one.
        logprobs_mode: "raw", "penalized", "scaled" or "final" (docs/semantics.md, section 5); echoed prompts are raw.
        echo: the prompt comes first in the result.
        suffix: text that follows the completion (fill-in-the-middle).
        skip_special_tokens: special tokens have no bytes in the text.

    Sequences are kept as tuples (a lone stop string as a tuple of one), duplicates dropped; None is an empty one.
    Floats are rounded to float32 when a SamplingState is made, so each must be finite as a float32.
    """

    max_tokens: int | None = 16
    min_tokens: int = 0
    n: int = 1
    best_of: int | None = None
    seed: int | None = None
    repetition_penalty: float = 1.0
    repetition_penalty_scope: RepetitionScope | int = "prompt+output"
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    context_frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | Sequence[tuple[int, float]] = ()
    allowed_token_ids: Sequence[int] | None = None
    banned_token_ids: Sequence[int] = ()
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    stop: str | Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    logprobs: int | None = None
    logprobs_mode: LogprobsMode = "raw"
    echo: bool = False
    suffix: str | None = None
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        problems: list[Problem] = []
        for field in fields(self):
            value = getattr(self, field.name)
            try:
                object.__setattr__(self, field.name, _CHECKS[field.name](value))
            except _RuleError as error:
                problems.append(Problem(field.name, shown(value), str(error)))
        if not problems:
            problems = list(self._cross_checks())
        if problems:
            raise ParameterError(problems)

    def __repr__(self) -> str:
        """Only what differs from the defaults, so that a log line says what was asked for."""
        given = ((f.name, getattr(self, f.name)) for f in fields(self))
        changed = [f"{name}={value!r}" for name, value in given if value != _DEFAULTS[name]]
        return f"SamplingParams({', '.join(changed)})"

    def _cross_checks(self) -> Iterable[Problem]:
        """Rules between parameters, looked at once each parameter is well-formed by itself."""
        if self.best_of and self.best_of < self.n:
            yield Problem("best_of", shown(self.best_of), f"must be at least n={self.n}")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            yield Problem("min_tokens", shown(self.min_tokens), f"must be at most max_tokens={self.max_tokens}")

    @property
    def num_candidates(self) -> int:
        """Sequences to generate for each prompt: best_of, or n where best_of is None or 0."""
        return self.best_of or self.n

    @property
    def ranks_candidates(self) -> bool:
        """Whether best_of ranks anything: best_of = n keeps the candidates in their order."""
        return self.num_candidates > self.n


class _RuleError(Exception):
    """The rule that a value breaks, as text; `SamplingParams` adds the name and the value."""


def to_float32(value: float) -> float:
    """The float32 nearest to `value`, as a float; OverflowError where that is not finite."""
    rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return rounded


def _is_integer(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _integer(low: int, high: int, *, or_none: bool = False) -> Callable[[object], int | None]:
    nothing = " or None" if or_none else ""
    rule = f"must be an integer from {low:,} to {high:,}{nothing}"

    def check(value: Any) -> int | None:
        if or_none and value is None:
            return None
        if not _is_integer(value) or not low <= value <= high:
            raise _RuleError(rule)
        return int(value)

    return check


def _real(rule: str, accepts: Callable[[float], bool]) -> Callable[[object], float]:
    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise _RuleError(rule)
        try:
            number = float(value)
            fits = math.isfinite(number) and accepts(number) and accepts(to_float32(number))
        except OverflowError:
            fits = False
        if not fits:
            raise _RuleError(rule)
        return number

    return check


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise _RuleError("must be True or False")
    return value


def _one_of(words: tuple[str, ...]) -> Callable[[object], str]:
    def check(value: object) -> str:
        if not isinstance(value, str) or value not in words:
            raise _RuleError("must be one of " + ", ".join(repr(word) for word in words))
        return value

    return check


def _scope(value: Any) -> str | int:
    if isinstance(value, str) and value in REPETITION_SCOPES:
        return value
    if _is_integer(value) and 1 <= value <= INT32_MAX:
        return int(value)
    raise _RuleError("must be 'prompt+output', 'output', or an integer >= 1 (the last so many tokens)")


def _elements(value: Any, rule: str) -> tuple[Any, ...]:
    """What can be iterated, as a tuple; a 0-d array claims to be iterable and is not."""
    try:
        return tuple(value)
    except TypeError:
        raise _RuleError(rule) from None


def _token_ids(value: Any) -> tuple[int, ...]:
    rule = "must be token ids: integers from 0 to 2,147,483,647"
    if value is None:
        return ()
    if isinstance(value, (str, bytes, Mapping)):
        raise _RuleError(rule)
    ids = _elements(value, rule)
    if not all(_is_integer(token_id) and 0 <= token_id <= INT32_MAX for token_id in ids):
        raise _RuleError(rule)
    return tuple(dict.fromkeys(int(token_id) for token_id in ids))


def _allowed_token_ids(value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    ids = _token_ids(value)
    if not ids:
        raise _RuleError("must name at least one token id, or be None for all of them")
    return ids


def _logit_bias(value: Any) -> tuple[tuple[int, float], ...]:
    rule = "must map token ids (integers from 0 to 2,147,483,647) to finite numbers"
    if value is None:
        return ()
    pairs = tuple(value.items()) if isinstance(value, Mapping) else value
    pairs = tuple(pairs) if isinstance(pairs, list) else pairs
    if not isinstance(pairs, tuple) or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        raise _RuleError(rule)
    finite = _real(rule, lambda number: True)
    biases: dict[int, float] = {}
    for token_id, bias in pairs:
        if not _is_integer(token_id) or not 0 <= token_id <= INT32_MAX:
            raise _RuleError(f"{rule}; key {shown(token_id)} is none")
        try:
            biases[int(token_id)] = finite(bias)
        except _RuleError:
            raise _RuleError(f"{rule}; key {shown(token_id)} has {shown(bias)}") from None
    if len(biases) != len(pairs):
        raise _RuleError("must name each token id once")
    return tuple(sorted(biases.items()))


def _stop(value: Any) -> tuple[str, ...]:
    rule = "must be a string or several, none of them empty"
    strings = (value,) if isinstance(value, str) else value
    if strings is None:
        return ()
    if isinstance(strings, (bytes, Mapping)):
        raise _RuleError(rule)
    strings = _elements(strings, rule)
    if not all(isinstance(string, str) and string for string in strings):
        raise _RuleError(rule)
    if not all(_is_encodable(string) for string in strings):
        raise _RuleError("must be valid Unicode (no lone surrogates)")
    return tuple(dict.fromkeys(strings))


def _suffix(value: object) -> str | None:
    if value is not None and (not isinstance(value, str) or not _is_encodable(value)):
        raise _RuleError("must be a string of valid Unicode, or None")
    return value


def _is_encodable(string: str) -> bool:
    try:
        string.encode()
    except UnicodeEncodeError:
        return False
    return True


_unit_interval = _real("must be a number from 0 to 1", lambda number: 0.0 <= number <= 1.0)
_finite = _real("must be a finite number (as a float32)", lambda number: True)

_DEFAULTS: dict[str, object] = {f.name: f.default for f in fields(SamplingParams)}

_CHECKS: dict[str, Callable[[Any], object]] = {
    "max_tokens": _integer(0, INT32_MAX, or_none=True),
    "min_tokens": _integer(0, INT32_MAX),
    "n": _integer(1, INT32_MAX),
    "best_of": _integer(0, INT32_MAX, or_none=True),
    "seed": _integer(-(2**63), 2**63 - 1, or_none=True),
    "repetition_penalty": _real("must be a finite number > 0 (as a float32)", lambda number: number > 0.0),
    "repetition_penalty_scope": _scope,
    "frequency_penalty": _finite,
    "presence_penalty": _finite,
    "context_frequency_penalty": _finite,
    "logit_bias": _logit_bias,
    "allowed_token_ids": _allowed_token_ids,
    "banned_token_ids": _token_ids,
    "temperature": _real("must be a finite number >= 0 (as a float32)", lambda number: number >= 0.0),
    "top_k": _integer(1, INT32_MAX, or_none=True),
    "top_p": _unit_interval,
    "min_p": _unit_interval,
    "stop": _stop,
    "stop_token_ids": _token_ids,
    "include_stop_str_in_output": _boolean,
    "ignore_eos": _boolean,
    "logprobs": _integer(0, INT32_MAX, or_none=True),
    "logprobs_mode": _one_of(LOGPROBS_MODES),
    "echo": _boolean,
    "suffix": _suffix,
    "skip_special_tokens": _boolean,
}
