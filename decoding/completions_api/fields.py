"""The fields of a completion request: five of its own, and one for each row of the table of parameters.

The parser checks by these fields, and the OpenAPI document and the page /docs describe them. A field whose value is
null is absent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from decoding.completions_api.domain_schema import BOOLEAN, IDS, STRING, Schema, can_be_off, schema_of
from decoding.completions_api.settings import ApiSettings, Limits
from decoding.completions_api.structured_fields import (
    RESPONSE_FORMAT_SCHEMA,
    STRUCTURED_OUTPUTS_SCHEMA,
    response_format,
    structured_outputs,
)
from decoding.domains import (
    POSITIVE,
    Boolean,
    Domain,
    Integer,
    LogitBias,
    Number,
    Strings,
    Text,
    TokenIds,
    TokenSequences,
    Word,
)
from decoding.engine.beam_params import CHECKS, MAX_BEAMS
from decoding.errors import shown
from decoding.parameters import Parameter
from decoding.params import PARAMETERS
from decoding.validation import INT32_MAX, RuleError

Check: TypeAlias = Callable[[Any], Any]
"""Returns the value in the form in which it is passed on, or raises RuleError."""

_TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,9}")
_ADDITIVE = Number(-2, 2)
_ADDITIVE_TEXT = (
    "Additive, as in the API's reference: subtract this from a token's logit for each time that it is in the prompt and"
    " the text so far. (If the server runs with --repetition-penalty-mode multiplicative: > 0, and 1 is off.)"
)


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the request's JSON object.

    description: text for the OpenAPI document.
    schema: its JSON Schema, without null, with the default limits.
    check_under: a function from settings to the check of a value that is not null.
    standard: True if the API's reference has it.
    parameter: its row in the table of parameters, or None for the request's own fields.
    """

    name: str
    description: str
    schema: Schema
    check_under: Callable[[ApiSettings], Check]
    standard: bool = True
    parameter: Parameter | None = None

    def schema_under(self, settings: ApiSettings) -> Schema:
        """Return the JSON Schema with the limits and meanings of these settings."""
        if self.name == "repetition_penalty" and settings.repetition_penalty_mode == "multiplicative":
            return {**schema_of(POSITIVE), "default": 1}
        if self.name == "profile":
            return {**STRING, "enum": list(settings.profiles)}
        limits, kind = settings.limits, self.schema.get("type")
        if self.parameter is not None and isinstance(self.parameter.api, LogitBias):
            keys = {"pattern": f"^({_TOKEN_ID.pattern})$"}
            return {**self.schema, "maxProperties": limits.max_list_entries, "propertyNames": keys}
        if kind == "integer":
            return {**self.schema, "maximum": getattr(limits, f"max_{self.name}", self.schema["maximum"])}
        return self.schema


def _field_of(row: Parameter) -> Field:
    """Return the field of a parameter."""
    is_additive = row.name == "repetition_penalty"
    schema = schema_of(_ADDITIVE if is_additive else row.api)
    if can_be_off(row.domain):
        schema = {**schema, "minimum": -1}
    if row.default is not None and row.default != ():
        schema = {**schema, "default": 0 if is_additive else row.default}
    text = _ADDITIVE_TEXT if is_additive else row.sentence
    if can_be_off(row.domain):
        text += f" 0 and -1 mean {row.none}."
    return Field(row.name, text, schema, lambda settings: _check_of(row, settings), row.standard, row)


def _check_of(row: Parameter, settings: ApiSettings) -> Check:
    """Return the check of a parameter's value as JSON."""
    domain, limits = row.api, settings.limits
    if row.name == "repetition_penalty" and settings.repetition_penalty_mode == "additive":
        return _ADDITIVE
    if can_be_off(row.domain):
        return _count_or_off
    match domain:
        case Integer(low) if hasattr(limits, f"max_{row.name}"):
            return _limited(Integer(low, getattr(limits, f"max_{row.name}")), f"max_{row.name}")
        case LogitBias(number):
            return _logit_bias(number, limits)
        case Strings():
            name = "max_stop" if row.name == "stop" else "max_list_entries"
            return _strings(domain, limits, name)
        case TokenIds() | TokenSequences():
            return _list_of(domain, limits)
        case Text():
            return _string
    return domain


def _limited(domain: Integer, limit: str) -> Check:
    """Return the check of an integer whose largest value is a limit; the error names its flag."""

    def check(value: Any) -> Any:
        try:
            return domain(value)
        except RuleError as error:
            raise RuleError(f"{error} ({_flag(limit)})") from None

    return check


def _flag(limit: str) -> str:
    return "--" + limit.replace("_", "-")


def _anything(value: Any) -> Any:
    return value


def _string(value: Any) -> Any:
    if not isinstance(value, str):
        raise RuleError("must be a string")
    return Text()(value)


def _count_or_off(value: Any) -> int | None:
    """Check an integer from 1. 0 and -1 mean off, which is None in the library."""
    try:
        number = Integer(-1)(value)
    except RuleError:
        raise RuleError(f"must be an integer from 1 to {INT32_MAX:,}, or 0 or -1 for off") from None
    return number if number > 0 else None


def _strings(domain: Strings, limits: Limits, limit: str) -> Check:
    """Return the check of a string or a list of strings, as many as the limit of this name."""
    max_strings, flag = getattr(limits, limit), f"--{limit.replace('_', '-')}"

    def check(value: Any) -> object:
        if isinstance(value, list) and len(value) > max_strings:
            raise RuleError(f"must be a string or at most {max_strings:,} of them ({flag})")
        if not isinstance(value, str | list):
            raise RuleError("must be a string or a list of strings")
        strings = domain(value)
        _check_bytes(strings, limits)
        return strings

    return check


def _check_bytes(strings: Iterable[str], limits: Limits) -> None:
    """Raise RuleError if strings, which may have lone surrogates, have too many bytes of UTF-8."""
    limit = limits.max_stop_bytes
    sizes = (len(string if len(string) > limit else string.encode(errors="surrogatepass")) for string in strings)
    if sum(sizes) > limit:
        raise RuleError(f"must have at most {limit:,} bytes in all (--max-stop-bytes)")


def _logit_bias(number: Number, limits: Limits) -> Check:
    """Return the check of an object; JSON's keys are strings, so an id is decimal without sign or leading zero."""
    numbers = number.rule.removeprefix("must be a number ")

    def check(value: Any) -> object:
        """Return the biases by token id."""
        if not isinstance(value, Mapping):
            raise RuleError(f"must be an object of token ids and numbers {numbers}")
        if len(value) > limits.max_list_entries:
            raise RuleError(f"must have at most {limits.max_list_entries:,} entries (--max-list-entries)")
        for key, bias in value.items():
            if not _TOKEN_ID.fullmatch(key) or int(key) > INT32_MAX:
                raise RuleError(f"must have token ids as keys; {shown(key)} is not a token id")
            try:
                number(bias)
            except RuleError as error:
                raise RuleError(f"{error} for each token id; key {shown(key)} has {shown(bias)}") from None
        return {int(key): float(bias) for key, bias in value.items()}

    return check


def _list_of(domain: Domain, limits: Limits) -> Check:
    """Return the check of an array with at most as many entries, and bytes in its strings, as the limits allow."""

    def check(value: Any) -> object:
        if not isinstance(value, list):
            raise RuleError("must be an array")
        inner = sum(len(item) for item in value if isinstance(item, list))
        if max(len(value), inner) > limits.max_list_entries:
            raise RuleError(f"must have at most {limits.max_list_entries:,} entries (--max-list-entries)")
        _check_bytes((item for item in value if isinstance(item, str)), limits)
        return domain(value)

    return check


_STREAM_OPTIONS = ("include_usage", "continuous_usage_stats", "include_obfuscation")


def _stream_options(value: Any) -> object:
    if not isinstance(value, Mapping):
        raise RuleError("must be an object")
    for key, flag in value.items():
        if key not in _STREAM_OPTIONS:
            raise RuleError(f"may have {', '.join(_STREAM_OPTIONS)}; {shown(key)} is none of them")
        if flag is not None and not isinstance(flag, bool):
            raise RuleError(f"must have True or False for {key}, not {shown(flag)}")
    return value


def _profile_under(settings: ApiSettings) -> Check:
    """Return the check of a profile's name: one that the server allows."""
    if settings.profiles:
        return Word(settings.profiles)

    def refuse(value: Any) -> Any:
        raise RuleError("must be absent: this server allows none to be chosen (--allow-profiles)")

    return refuse


_PROMPT_SCHEMA: Schema = {
    "anyOf": [
        STRING,
        {"type": "array", "items": STRING, "minItems": 1},
        {**IDS, "minItems": 1},
        {"type": "array", "items": {**IDS, "minItems": 1}, "minItems": 1},
    ]
}

_STREAM_OPTIONS_SCHEMA: Schema = {
    "type": "object",
    "properties": {name: {"anyOf": [BOOLEAN, {"type": "null"}]} for name in _STREAM_OPTIONS},
    "additionalProperties": False,
}

_LENGTH_PENALTY: Schema = {"type": "number", "minimum": -100, "maximum": 100, "default": 1}
_DIVERSITY: Schema = {"type": "number", "minimum": 0, "maximum": 1e6, "default": 0}
_GROUPS: Schema = {"type": "integer", "minimum": 1, "maximum": MAX_BEAMS, "default": 1}
_EARLY_STOPPING: Schema = {"anyOf": [BOOLEAN, {"const": "never"}], "default": False}

_BEAM_ARGUMENTS: tuple[tuple[str, str, Schema], ...] = (
    ("length_penalty", "the power of its length that divides a hypothesis's log-probability", _LENGTH_PENALTY),
    ("early_stopping", 'when to stop: true, false or "never"', _EARLY_STOPPING),
    ("num_beam_groups", "groups that are to differ", _GROUPS),
    ("diversity_penalty", "the cost of a token for each beam of an earlier group that chose it", _DIVERSITY),
)


def _beam_field(name: str, text: str, schema: Schema) -> Field:
    """Return the field of an argument of a beam search."""
    return Field(name, f"Only with use_beam_search: {text}.", schema, lambda settings: CHECKS[name], standard=False)


BEAM_FIELDS: tuple[Field, ...] = (
    Field(
        "use_beam_search",
        "Return the n best hypotheses of a beam search, which draws nothing. Its width is best_of, or n.",
        {**BOOLEAN, "default": False},
        lambda settings: Boolean(),
        standard=False,
    ),
    *(_beam_field(*one) for one in _BEAM_ARGUMENTS),
)
"""Fields of a beam search."""

REQUEST_FIELDS: tuple[Field, ...] = (
    Field(
        "model",
        "The name of one of the server's models (GET /v1/models); may be absent where there is one.",
        STRING,
        lambda settings: _string,
    ),
    Field(
        "prompt",
        "Text, several texts, token ids, or several lists of token ids. Token ids are used as they are: no start token"
        " is added.",
        _PROMPT_SCHEMA,
        lambda settings: _anything,
    ),
    Field(
        "stream",
        "Send the completion as server-sent events.",
        {**BOOLEAN, "default": False},
        lambda settings: Boolean(),
    ),
    Field(
        "stream_options",
        "Only with stream. include_usage: a last chunk without choices has the usage; continuous_usage_stats: every"
        " chunk has it.",
        _STREAM_OPTIONS_SCHEMA,
        lambda settings: _stream_options,
    ),
    Field(
        "profile",
        "The order and the rules of the sampler's stages, one of those that the server lists in --allow-profiles"
        " (default: the server's own).",
        STRING,
        _profile_under,
        standard=False,
    ),
    Field(
        "structured_outputs",
        "The grammar of the text in vLLM's spelling: one of json, regex, choice, grammar, json_object.",
        STRUCTURED_OUTPUTS_SCHEMA,
        lambda settings: structured_outputs,
        standard=False,
    ),
    Field(
        "response_format",
        "The grammar of the text as in the chat API: text, json_object, or json_schema with its schema.",
        RESPONSE_FORMAT_SCHEMA,
        lambda settings: response_format,
        standard=False,
    ),
    *BEAM_FIELDS,
    Field("user", "The caller's own name for its user; without effect.", STRING, lambda settings: _string),
)
"""Fields that are no sampling parameters."""

FIELDS: tuple[Field, ...] = (
    *REQUEST_FIELDS,
    *sorted(map(_field_of, PARAMETERS.values()), key=lambda field: not field.standard),
)
"""All fields: the request's own, then the parameters of the API's reference, then extensions."""

HARMLESS = (
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
)
"""Fields that gateways and newer clients add: accepted, without effect."""

BY_NAME: dict[str, Field] = {field.name: field for field in FIELDS}
