"""From a request's JSON object to prompts and SamplingParams; all problems are reported, each with its field's name."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from decoding.completions_api.body import contains_not_json
from decoding.completions_api.errors import ApiError, given_name, invalid
from decoding.completions_api.fields import BY_NAME, HARMLESS, REQUEST_FIELDS
from decoding.completions_api.settings import ApiSettings, Limits
from decoding.completions_api.structured_fields import merge
from decoding.engine.beam_params import OWN, BeamSearchParams, beams_of
from decoding.errors import ParameterError, Problem, shown
from decoding.params import SamplingParams
from decoding.types import Prompt
from decoding.validation import RuleError, checked_token_ids, is_unicode

_MOST_UNKNOWN = 10
_NOT_SAMPLING = frozenset(field.name for field in REQUEST_FIELDS)
_DEFAULT_SETTINGS = ApiSettings()
_DEFAULT_BEAMS = BeamSearchParams()
_ELSEWHERE = {
    **dict.fromkeys(("max_completion_tokens", "max_new_tokens", "max_output_tokens", "n_predict"), "max_tokens"),
    **dict.fromkeys(("num_return_sequences", "n_choices"), "n"),
    **dict.fromkeys(("stop_sequences", "stop_strings"), "stop"),
}
"""Our fields by their names in other APIs, where the spelling is too different to suggest them."""


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """A request whose fields are valid by themselves and together. Rules that need the model are checked later.

    prompts: at least one; text or token ids.
    include_usage, continuous_usage: what stream_options asked for.
    profile: name of the sampler's profile; None is the model's own.
    given: names of the fields that the request has.
    hints: notes about the request for the server's log, each logged once.
    beams: arguments of the beam search that is asked for, in place of params.
    """

    model: str
    prompts: list[Prompt]
    params: SamplingParams
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    profile: str | None = None
    given: frozenset[str] = frozenset()
    hints: tuple[str, ...] = ()
    beams: BeamSearchParams | None = None


def parse_completion(
    body: Mapping[str, Any], settings: ApiSettings = _DEFAULT_SETTINGS, model: str | None = None
) -> CompletionRequest:
    """Check the JSON object of POST /v1/completions; an explicit null is the same as an absent field.

    model: the default model; None: the request must name one.

    Raises ApiError (400) with all problems; `param` names the first.
    """
    fields = {name: value for name, value in body.items() if value is not None}
    unknown = unknown_fields(fields, (*BY_NAME, *HARMLESS), settings)
    if model is not None:
        fields.setdefault("model", model)
    missing = [Problem(name, "null", "is required") for name in ("model", "prompt") if name not in fields]
    problems: list[Problem] = []
    values: dict[str, Any] = {}
    for name, value in fields.items():
        field = BY_NAME.get(name)
        if field is None:
            continue
        try:
            values[name] = field.check_under(settings)(value)
        except RuleError as error:
            problems.append(Problem(name, shown(value), str(error)))
    merge(values, problems)
    prompts = _prompts(values, settings.limits, problems)
    params = _sampling_params(values, settings, problems)
    problems += _cross_checks(values, prompts, params, settings.limits)
    beams = _beams(values, params, problems)
    if unknown or missing or problems or params is None:
        code = "unknown_field" if unknown else "missing_field" if missing else "invalid_value"
        raise invalid([*unknown, *missing, *problems], code)
    if contains_not_json([value for name, value in body.items() if name not in BY_NAME]):
        raise ApiError(
            400, "body: is not valid JSON (NaN, infinities, a name twice in one object)", code="invalid_json"
        )
    options = values.get("stream_options") or {}
    return CompletionRequest(
        model=values["model"],
        prompts=prompts,
        params=params,
        stream=values.get("stream", False),
        include_usage=bool(options.get("include_usage")),
        continuous_usage=bool(options.get("continuous_usage_stats")),
        profile=values.get("profile"),
        given=frozenset(fields),
        hints=_hints(values, settings),
        beams=beams,
    )


def unknown_fields(fields: Mapping[str, Any], known: Collection[str], settings: ApiSettings) -> list[Problem]:
    """Return problems of the first unknown fields, with the nearest known names; none if settings ignore them."""
    if settings.unknown_fields == "ignore":
        return []
    names = (name for name in fields if name not in known)
    first = list(islice(names, _MOST_UNKNOWN))  # looking for the nearest name takes 0.2 ms
    return [Problem(given_name(name), shown(fields[name]), _unknown_rule(name, known)) for name in first]


def _unknown_rule(name: str, known: Collection[str]) -> str:
    elsewhere = _ELSEWHERE.get(name)
    near = [elsewhere] if elsewhere in known else difflib.get_close_matches(name[:40], known, 1)
    return "must be a field of the API" + (f"; did you mean {near[0]}?" if near else "")


def _prompts(values: Mapping[str, Any], limits: Limits, problems: list[Problem]) -> list[Prompt]:
    """Return the prompts of the field, which has four shapes."""
    if "prompt" not in values:
        return []
    try:
        return _split(values["prompt"], limits)
    except ParameterError as error:
        problems += error.problems
    return []


def _split(prompt: Any, limits: Limits) -> list[Prompt]:
    if isinstance(prompt, str):
        _check_chars(len(prompt), limits)
        return [_text(prompt, "prompt")]
    if not isinstance(prompt, list) or not prompt:
        rule = "must be a string, a list of strings, a list of token ids, or a list of lists of token ids, none empty"
        raise ParameterError.single("prompt", prompt, rule)
    if not isinstance(prompt[0], str | list):
        return [_token_ids(prompt, "prompt", limits.max_prompt_tokens)]
    if len(prompt) > limits.max_prompts:
        raise ParameterError.single(
            "prompt", f"{len(prompt)} of them", f"must be at most {limits.max_prompts} prompts (--max-prompts)"
        )
    _check_chars(sum(len(one) for one in prompt if isinstance(one, str)), limits)
    prompts: list[Prompt] = []
    room = limits.max_prompt_tokens
    for index, one in enumerate(prompt):
        name = f"prompt[{index}]"
        if isinstance(prompt[0], str):
            prompts.append(_text(one, name))
        else:
            prompts.append(_token_ids(one, name, room))
            room -= len(one)
    return prompts


def _check_chars(num_chars: int, limits: Limits, name: str = "prompt") -> None:
    if num_chars > limits.prompt_chars:
        rule = (
            f"must have at most {limits.prompt_chars:,} characters in all prompts and the suffix (--max-prompt-chars)"
        )
        raise ParameterError.single(name, f"{num_chars:,} characters", rule)


def _text(text: Any, name: str) -> str:
    if not isinstance(text, str):
        raise ParameterError.single(name, text, "must be a string, as the first prompt is")
    if not is_unicode(text):
        raise ParameterError.single(name, text, "must be valid Unicode (no lone surrogates)")
    return text


def _token_ids(ids: Any, name: str, room: int) -> list[int]:
    """Return token ids of a prompt. The engine checks them against the vocabulary."""
    if not isinstance(ids, list) or not ids:
        raise ParameterError.single(name, ids, "must be a list of token ids, not empty")
    if len(ids) > room:
        rule = f"must have at most {room:,} token ids in all prompts of the request (--max-prompt-tokens)"
        raise ParameterError.single(name, f"{len(ids)} token ids", rule)
    return list(checked_token_ids(name, ids))


def _sampling_params(
    values: Mapping[str, Any], settings: ApiSettings, problems: list[Problem]
) -> SamplingParams | None:
    """Return SamplingParams of the values that passed their own checks; problems are added to the others."""
    given = {name: value for name, value in values.items() if name not in _NOT_SAMPLING}
    if settings.repetition_penalty_mode == "additive" and "repetition_penalty" in given:
        penalty = given.pop("repetition_penalty")
        if given.setdefault("context_frequency_penalty", penalty) is not penalty:
            rule = "must not come with context_frequency_penalty, which is the same here"
            problems.append(Problem("repetition_penalty", shown(penalty), rule))
    try:
        return SamplingParams(**given)
    except ParameterError as error:
        problems += error.problems
    return None


def _cross_checks(
    values: Mapping[str, Any], prompts: list[Prompt], params: SamplingParams | None, limits: Limits
) -> list[Problem]:
    """Check the rules between fields."""
    problems = []
    if "stream_options" in values and not values.get("stream"):
        problems.append(Problem("stream_options", shown(values["stream_options"]), "must come with stream=true"))
    if params is None:
        return problems
    if values.get("stream") and params.ranks_candidates:
        rule = f"must be null or n={params.n} when streaming: a ranking needs finished candidates"
        problems.append(Problem("best_of", shown(params.best_of), rule))
    if params.suffix is not None:
        num_chars = len(params.suffix) + sum(len(prompt) for prompt in prompts if isinstance(prompt, str))
        if num_chars > limits.prompt_chars:
            rule = f"must have at most {limits.prompt_chars:,} characters with all prompts (--max-prompt-chars)"
            problems.append(Problem("suffix", f"{len(params.suffix):,} characters", rule))
    sequences = len(prompts) * params.num_candidates
    if sequences > limits.max_sequences:
        rule = f"times {len(prompts)} prompts must be at most {limits.max_sequences:,} sequences (--max-sequences)"
        problems.append(Problem("best_of" if params.ranks_candidates else "n", str(params.num_candidates), rule))
    return problems


def _beams(
    values: Mapping[str, Any], params: SamplingParams | None, problems: list[Problem]
) -> BeamSearchParams | None:
    """Return the arguments of a beam search, if one is asked for; its problems join the others."""
    own = {name: values[name] for name in OWN if name in values}
    if not values.get("use_beam_search"):
        rule = "must come with use_beam_search=true"
        changed = [(name, value) for name, value in own.items() if value != getattr(_DEFAULT_BEAMS, name)]
        problems += [Problem(name, shown(value), rule) for name, value in changed]
        return None
    if values.get("stream"):
        rule = "must be false or absent with use_beam_search: the best hypotheses are not known before the end"
        problems.append(Problem("stream", "True", rule))
    try:
        return None if params is None else beams_of(params, own)
    except ParameterError as error:
        problems += error.problems
    return None


def _hints(values: Mapping[str, Any], settings: ApiSettings) -> tuple[str, ...]:
    penalty = values.get("repetition_penalty")
    if settings.repetition_penalty_mode == "additive" and penalty is not None and 1.0 <= penalty <= 1.5:
        return (
            "a request has repetition_penalty from 1.0 to 1.5, which looks multiplicative; here it is additive, with"
            " neutral 0 (--repetition-penalty-mode multiplicative changes that)",
        )
    return ()
