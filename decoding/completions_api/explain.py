"""From the JSON object of POST /v1/explain to a completion request and the draw of it that is to be explained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from decoding.completions_api.domain_schema import IDS, Schema
from decoding.completions_api.errors import invalid
from decoding.completions_api.request import CompletionRequest, parse_completion
from decoding.completions_api.settings import ApiSettings, Limits
from decoding.domains import Integer
from decoding.errors import Problem, shown
from decoding.validation import INT32_MAX, RuleError, checked_token_ids

_DEFAULT_TOP = 5
_SEED_RULE = "must be the seed of the completion (each choice of its answer has it)"


@dataclass(frozen=True, slots=True)
class ExplainField:
    """A field that only this route has. schema: its JSON Schema, without null, under these limits."""

    name: str
    description: str
    schema_under: Callable[[Limits], Schema]
    check_under: Callable[[Limits], Callable[[Any], Any]]


def _count(low: int = 0, default: int | None = None) -> tuple[Callable[[Limits], Schema], Any]:
    schema: Schema = {"type": "integer", "minimum": low, "maximum": INT32_MAX}
    if default is not None:
        schema["default"] = default
    return (lambda limits: schema), (lambda limits: Integer(low))


def _ids_under(limits: Limits) -> Callable[[Any], tuple[int, ...]]:
    def check(value: Any) -> tuple[int, ...]:
        if not isinstance(value, list):
            raise RuleError("must be an array of token ids")
        if len(value) > limits.max_prompt_tokens:
            raise RuleError(f"must have at most {limits.max_prompt_tokens:,} token ids (--max-prompt-tokens)")
        return checked_token_ids("token_ids", value)

    return check


def _top_under(limits: Limits) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        try:
            return Integer(0, limits.max_top_logprobs)(value)
        except RuleError as error:
            raise RuleError(f"{error} (--max-top-logprobs)") from None

    return check


EXPLAIN_FIELDS: tuple[ExplainField, ...] = (
    ExplainField(
        "token_ids",
        "The token ids of the choice, as the completion's answer has them, without an echoed prompt.",
        lambda limits: {**IDS, "maxItems": limits.max_prompt_tokens},
        _ids_under,
    ),
    ExplainField(
        "position",
        "The index in token_ids of the token to explain; their number, the default, explains the next token.",
        *_count(),
    ),
    ExplainField("choice", "The index of the choice.", *_count(default=0)),
    ExplainField(
        "top_logprobs",
        "Report this many of the most likely tokens before all stages, and of those after them.",
        lambda limits: {
            "type": "integer",
            "minimum": 0,
            "maximum": limits.max_top_logprobs,
            "default": min(_DEFAULT_TOP, limits.max_top_logprobs),
        },
        _top_under,
    ),
)
"""Fields beside those of the completion."""

_OWN = {field.name: field for field in EXPLAIN_FIELDS}


@dataclass(frozen=True, slots=True)
class ExplainRequest:
    """A request to explain a draw; what depends on the model is not yet checked.

    completion: the request that the draw was made for. num_top: most likely tokens to report.
    """

    completion: CompletionRequest
    token_ids: tuple[int, ...]
    position: int
    choice: int
    num_top: int


def parse_explain(body: Mapping[str, Any], settings: ApiSettings, model: str | None = None) -> ExplainRequest:
    """Check the JSON object of POST /v1/explain. Raises ApiError (400), as `parse_completion` does.

    Fields that decide only how a completion is written (stream, stream_options, echo, logprobs) have no effect.
    model: the model of a request that names none; None if it must name one.
    """
    completion = parse_completion({name: value for name, value in body.items() if name not in _OWN}, settings, model)
    values: dict[str, Any] = {}
    problems = list(_problems(completion))
    for name, field in _OWN.items():
        if body.get(name) is not None:
            try:
                values[name] = field.check_under(settings.limits)(body[name])
            except RuleError as error:
                problems.append(Problem(name, shown(body[name]), str(error)))
    if problems:
        raise invalid(problems)
    if "token_ids" not in values:
        raise invalid([Problem("token_ids", "null", "is required")], "missing_field")
    token_ids = values["token_ids"]
    position = values.get("position", len(token_ids))
    default_top = min(_DEFAULT_TOP, settings.limits.max_top_logprobs)
    return ExplainRequest(
        completion, token_ids, position, values.get("choice", 0), values.get("top_logprobs", default_top)
    )


def _problems(completion: CompletionRequest) -> list[Problem]:
    """Return the problems of a completion, right by itself, whose draws cannot be explained."""
    problems = []
    if completion.beams is not None:
        problems.append(Problem("use_beam_search", "True", "must be false or absent: a beam search draws nothing"))
    if len(completion.prompts) != 1:
        problems.append(Problem("prompt", f"{len(completion.prompts)} of them", "must be one prompt"))
    if completion.params.seed is None:
        problems.append(Problem("seed", "null", _SEED_RULE))
    if completion.params.ranks_candidates:
        rule = f"must be null or n={completion.params.n}: the number of a ranked choice is not that of its candidate"
        problems.append(Problem("best_of", shown(completion.params.best_of), rule))
    return problems
