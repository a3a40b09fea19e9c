"""The fields of a completion request, as data: the parser checks by this table, the OpenAPI page and the docs show it.

Ranges are the API reference's, narrower than those of SamplingParams, which checks what is left.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from decoding import checks
from decoding.checks import INT32_MAX, Check, RuleError
from decoding.completions_api.settings import ApiSettings, Limits
from decoding.errors import shown
from decoding.types import LOGPROBS_MODES, REPETITION_SCOPES

Schema: TypeAlias = dict[str, Any]

_FLOAT32_MAX = (2 - 2**-23) * 2.0**127
_ROUNDS_TO_0 = 2.0**-150
"""The largest number that is 0 as a float32."""

_TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,9}")


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the request's JSON object.

    description: one sentence for the OpenAPI page.
    schema: its JSON Schema, without null.
    check: from settings to the check of a value (null is absent); None where SamplingParams' own check says it all.
    standard: whether the API's reference has it.
    """

    name: str
    description: str
    schema: Schema
    check: Callable[[ApiSettings], Check] | None = None
    standard: bool = False


def _any(value: Any) -> object:
    return value


def _string(value: Any) -> object:
    if not isinstance(value, str):
        raise RuleError("must be a string")
    return checks.text_or_none(value)


def _off_or(low: int) -> Check:
    """An integer from `low`; 0 and -1 mean off, which is None in the library."""
    rule = f"must be an integer from {low} to {INT32_MAX:,}, or 0 or -1 for off"

    def check(value: Any) -> int | None:
        try:
            return None if checks.integer(-1)(value) in (0, -1) else int(value)
        except RuleError:
            raise RuleError(rule) from None

    return check


def _stop(limits: Limits) -> Check:
    def check(value: Any) -> object:
        if isinstance(value, list) and len(value) > limits.max_stop:
            raise RuleError(f"must be a string or at most {limits.max_stop} of them")
        if not isinstance(value, str | list):
            raise RuleError("must be a string or a list of strings")
        strings = checks.strings(value)
        if sum(len(string.encode()) for string in strings) > limits.max_stop_bytes:
            raise RuleError(f"must have at most {limits.max_stop_bytes:,} bytes in all")
        return strings

    return check


def _logit_bias(limits: Limits) -> Check:
    """An object; JSON's keys are strings, so an id has one spelling: decimal, no sign, no leading zero."""
    in_range = checks.real_in(-100, 100)

    def check(value: Any) -> object:
        """The ids and biases, as numbers; RuleError names the key that breaks a rule."""
        if not isinstance(value, Mapping):
            raise RuleError("must be an object of token ids and numbers from -100 to 100")
        if len(value) > limits.max_list_entries:
            raise RuleError(f"must have at most {limits.max_list_entries:,} entries")
        for key, bias in value.items():
            if not _TOKEN_ID.fullmatch(key) or int(key) > INT32_MAX:
                raise RuleError(f"must have token ids as keys; {shown(key)} is none")
            try:
                in_range(bias)
            except RuleError as error:
                raise RuleError(f"{error} for each token id; key {shown(key)} has {shown(bias)}") from None
        return {int(key): float(bias) for key, bias in value.items()}

    return check


def _list_of(check: Check, limits: Limits) -> Check:
    """A JSON array with at most as many entries, and bytes in its strings, as the limits say."""

    def check_list(value: Any) -> object:
        if not isinstance(value, list):
            raise RuleError("must be an array")
        inner = sum(len(item) for item in value if isinstance(item, list))
        if max(len(value), inner) > limits.max_list_entries:
            raise RuleError(f"must have at most {limits.max_list_entries:,} entries")
        if sum(4 * len(item) for item in value if isinstance(item, str)) > 4 * limits.max_stop_bytes:
            raise RuleError(f"must have at most {limits.max_stop_bytes:,} characters in all")
        return check(value)

    return check_list


def _repetition_penalty(settings: ApiSettings) -> Check:
    if settings.repetition_penalty_mode == "additive":
        return checks.real_in(-2, 2)
    return checks.positive


def _stream_options(value: Any) -> object:
    if not isinstance(value, Mapping):
        raise RuleError("must be an object")
    known = ("include_usage", "continuous_usage_stats", "include_obfuscation")
    for key, flag in value.items():
        if key not in known:
            raise RuleError(f"may have {', '.join(known)}; {shown(key)} is none of them")
        if flag is not None and not isinstance(flag, bool):
            raise RuleError(f"must have True or False for {key}, not {shown(flag)}")
    return value


def _integer(low: int, high: int = INT32_MAX) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


def _number(low: float = -_FLOAT32_MAX, high: float = _FLOAT32_MAX) -> Schema:
    return {"type": "number", "minimum": low, "maximum": high}


POSITIVE: Schema = {"type": "number", "exclusiveMinimum": _ROUNDS_TO_0, "maximum": _FLOAT32_MAX}
_BOOLEAN: Schema = {"type": "boolean"}
_STRING: Schema = {"type": "string"}
_IDS: Schema = {"type": "array", "items": _integer(0)}
_SEQUENCES: Schema = {
    "type": "array",
    "items": {"anyOf": [{"type": "string", "minLength": 1}, {**_IDS, "minItems": 1}]},
}
_MODE: Schema = {"type": "string", "enum": list(LOGPROBS_MODES)}


def _standard(name: str, description: str, schema: Schema, check: Callable[[ApiSettings], Check]) -> Field:
    return Field(name, description, schema, check, standard=True)


def _extension(
    name: str, description: str, schema: Schema, check: Callable[[ApiSettings], Check] | None = None
) -> Field:
    return Field(name, description, schema, check)


PROMPT_SCHEMA: Schema = {
    "anyOf": [
        _STRING,
        {"type": "array", "items": _STRING, "minItems": 1},
        {**_IDS, "minItems": 1},
        {"type": "array", "items": {**_IDS, "minItems": 1}, "minItems": 1},
    ]
}

FIELDS: tuple[Field, ...] = (
    _standard("model", "The name of one of the server's models (GET /v1/models).", _STRING, lambda s: _string),
    _standard(
        "prompt",
        "Text, several texts, token ids, or several lists of token ids. Token ids are taken as they are: no start token"
        " is added.",
        PROMPT_SCHEMA,
        lambda s: _any,
    ),
    _standard(
        "max_tokens",
        "Tokens to generate at most. 0 with echo scores the prompt.",
        {**_integer(0), "default": 16},
        lambda s: checks.integer(0),
    ),
    _standard(
        "stream", "Send the completion as server-sent events.", {**_BOOLEAN, "default": False}, lambda s: checks.boolean
    ),
    _standard(
        "stream_options",
        "Only with stream. include_usage: a last chunk without choices has the usage; continuous_usage_stats: every"
        " chunk has it.",
        {
            "type": "object",
            "properties": {
                name: {"anyOf": [_BOOLEAN, {"type": "null"}]}
                for name in ("include_usage", "continuous_usage_stats", "include_obfuscation")
            },
            "additionalProperties": False,
        },
        lambda s: _stream_options,
    ),
    _standard(
        "stop",
        "A string or several; the text ends before the first of them, also across token borders.",
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "items": {"type": "string", "minLength": 1}},
            ]
        },
        lambda s: _stop(s.limits),
    ),
    _standard("temperature", "0 is greedy.", {**_number(0, 2), "default": 1}, lambda s: checks.real_in(0, 2)),
    _standard(
        "top_p",
        "Keep the likeliest tokens up to this mass; 1 is off, 0 keeps one token.",
        {**_number(0, 1), "default": 1},
        lambda s: checks.real_in(0, 1),
    ),
    _standard(
        "frequency_penalty",
        "Subtracted from a token's logit for each time that it was generated.",
        {**_number(-2, 2), "default": 0},
        lambda s: checks.real_in(-2, 2),
    ),
    _standard(
        "presence_penalty",
        "Subtracted from a token's logit once it was generated.",
        {**_number(-2, 2), "default": 0},
        lambda s: checks.real_in(-2, 2),
    ),
    _standard(
        "repetition_penalty",
        "Additive, as in the API's reference: subtracted from a token's logit for each time that it is in the prompt"
        " and the text so far. (Where the server runs with --repetition-penalty-mode multiplicative: > 0, neutral 1.)",
        {**_number(-2, 2), "default": 0},
        _repetition_penalty,
    ),
    _standard(
        "logit_bias",
        "An object of token ids and what is added to their logits.",
        {"type": "object", "additionalProperties": _number(-100, 100)},
        lambda s: _logit_bias(s.limits),
    ),
    _standard(
        "logprobs",
        "How many of the most likely tokens to report besides the drawn one; 0 reports the drawn one alone.",
        _integer(0, 5),
        lambda s: checks.integer(0, s.limits.max_logprobs),
    ),
    _standard(
        "n",
        "Completions for each prompt.",
        {**_integer(1, 128), "default": 1},
        lambda s: checks.integer(1, s.limits.max_n),
    ),
    _standard(
        "best_of",
        "Candidates for each prompt, of which the n with the highest mean log-probability per token are returned; 0 is"
        " n. At least n; not with stream, unless it is n.",
        _integer(0, 20),
        lambda s: checks.integer(0, s.limits.max_best_of),
    ),
    _standard("echo", "The prompt comes first in the text.", {**_BOOLEAN, "default": False}, lambda s: checks.boolean),
    _standard(
        "seed",
        "The same request with the same seed gives the same completion.",
        {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
        lambda s: checks.integer(-(2**63), 2**63 - 1),
    ),
    _standard("suffix", "Text that follows the completion (fill in the middle).", _STRING, lambda s: _string),
    _standard("user", "Who asks, for the caller's own records; without effect.", _STRING, lambda s: _string),
    _extension("min_tokens", "Tokens before which nothing ends the text.", _integer(0)),
    _extension("ignore_eos", "Do not end at the model's end-of-sequence token.", _BOOLEAN),
    _extension("stop_token_ids", "Token ids that end the text.", _IDS, lambda s: _list_of(checks.token_ids, s.limits)),
    _extension("include_stop_str_in_output", "Keep the stop string in the text.", _BOOLEAN),
    _extension("skip_special_tokens", "Special tokens have no text (default: true).", _BOOLEAN),
    _extension(
        "logprobs_mode",
        "Which distribution log-probabilities speak of (default: raw).",
        {"anyOf": [_MODE, {"type": "array", "items": _MODE, "minItems": 1}]},
    ),
    _extension("top_k", "Keep the k likeliest tokens; 0 and -1 are off.", _integer(-1), lambda s: _off_or(1)),
    _extension("min_p", "Keep tokens at least so many times as likely as the likeliest.", _number(0, 1)),
    _extension("typical_p", "Keep the tokens of most typical surprise up to this mass.", _number(0, 1)),
    _extension("top_n_sigma", "Keep logits within so many deviations of the largest.", _number(0)),
    _extension("epsilon_cutoff", "Keep tokens of at least this probability.", _number(0, 1)),
    _extension("eta_cutoff", "Keep tokens of at least a probability that falls with the entropy.", _number(0, 1)),
    _extension("top_a", "Keep tokens of at least this times the square of the largest probability.", _number(0, 1)),
    _extension("xtc_probability", "How often the most likely tokens are excluded (XTC).", _number(0, 1)),
    _extension("xtc_threshold", "From which probability XTC excludes.", _number(0, 1)),
    _extension("mirostat_tau", "Mirostat 2's target surprise in bits.", POSITIVE),
    _extension("mirostat_eta", "Mirostat 2's learning rate.", POSITIVE),
    _extension("dynatemp_range", "The entropy chooses the temperature within this range.", _number(0)),
    _extension("dynatemp_exponent", "... by this power of it.", POSITIVE),
    _extension("smoothing_factor", "Quadratic smoothing's factor.", _number(0)),
    _extension("smoothing_curve", "Quadratic smoothing's curve.", _number(1, 3)),
    _extension("dry_multiplier", "DRY's strength; 0 is off.", _number(0)),
    _extension("dry_base", "DRY's growth with the length of a repetition.", _number(1)),
    _extension("dry_allowed_length", "The shortest repetition that DRY looks at.", _integer(1)),
    _extension(
        "dry_range", "How many of the last tokens DRY searches; 0 and -1 are all.", _integer(-1), lambda s: _off_or(1)
    ),
    _extension(
        "dry_sequence_breakers",
        "Across these no repetition reaches.",
        _SEQUENCES,
        lambda s: _list_of(checks.token_sequences, s.limits),
    ),
    _extension(
        "context_frequency_penalty",
        "The additive repetition_penalty by a name that means it in both modes of the server.",
        _number(),
    ),
    _extension(
        "repetition_penalty_scope",
        "What a multiplicative repetition_penalty looks at: a word, or the number of last tokens.",
        {"anyOf": [{"type": "string", "enum": list(REPETITION_SCOPES)}, _integer(1)]},
    ),
    _extension(
        "no_repeat_ngram_size",
        "No n-gram of this size comes twice; 0 and -1 are off.",
        _integer(-1),
        lambda s: _off_or(1),
    ),
    _extension(
        "bad_words",
        "Sequences that are never completed, each a string or token ids.",
        _SEQUENCES,
        lambda s: _list_of(checks.token_sequences, s.limits),
    ),
    _extension(
        "allowed_token_ids",
        "All other tokens are banned.",
        {**_IDS, "minItems": 1},
        lambda s: _list_of(checks.some_token_ids, s.limits),
    ),
    _extension(
        "banned_token_ids", "Tokens that are never drawn.", _IDS, lambda s: _list_of(checks.token_ids, s.limits)
    ),
)

HARMLESS = (
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
)
"""Fields that gateways and newer clients add: accepted, without effect."""

BY_NAME: dict[str, Field] = {one.name: one for one in FIELDS}
