"""Flags of the command line: one for each row of the table of parameters, and readers of numbers for other flags.

Flags parse text. Ranges are checked by SamplingParams, so that the command and the library have the same messages.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from decoding.domains import (
    Boolean,
    Integer,
    LogitBias,
    Number,
    OrNone,
    Strings,
    Text,
    TokenIds,
    TokenSequences,
    WordOrCount,
    Words,
    required,
)
from decoding.errors import shown
from decoding.object_domains import ObjectDomain
from decoding.parameters import Parameter
from decoding.params import PARAMETERS


def add_sampling_flags(parser: argparse.ArgumentParser, *, max_tokens: int | None) -> None:
    """Add a flag for every parameter; one that is not given is not in the namespace.

    max_tokens: the command's own default, for the help text; None is to the end of the context.
    """
    sampling = parser.add_argument_group("sampling parameters")
    defaults = {"max_tokens": "to the end of the context" if max_tokens is None else str(max_tokens)}
    for name, row in PARAMETERS.items():
        sampling.add_argument(row.flag, dest=name, default=argparse.SUPPRESS, **flag_options(row, defaults))


def given_parameters(options: argparse.Namespace) -> dict[str, Any]:
    """Return the sampling parameters that were given."""
    return {name: value for name, value in vars(options).items() if name in PARAMETERS}


def flag_options(row: Parameter, defaults: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments of `add_argument` for a parameter. `defaults` replace the table's, as text."""
    default = defaults.get(row.name, row.default_text)
    help_text = f"{row.help} (default: {default})" if default else row.help
    repeated = f"{row.help}; may be repeated"
    match required(row.domain):
        case Integer():
            return {"type": _kind(row, integer, _optional_integer), "metavar": "N", "help": help_text}
        case Number():
            return {"type": _kind(row, real, _optional_real), "metavar": "X", "help": help_text}
        case Boolean():
            return {"action": argparse.BooleanOptionalAction, "help": help_text}
        case TokenIds():
            return {"type": token_ids, "action": "extend", "metavar": "ID,...", "help": repeated}
        case LogitBias():
            text = f"{repeated}; or a JSON object of ids and numbers"
            return {"type": _logit_bias, "action": "extend", "metavar": "ID=X", "help": text}
        case Strings() | TokenSequences():
            return {"action": "append", "metavar": "TEXT", "help": repeated}
        case Words():
            return {"type": _words, "metavar": "WORD,...", "help": help_text}
        case WordOrCount():
            return {"type": _word_or_count, "metavar": "WORD|N", "help": help_text}
        case Text():
            return {"type": str, "metavar": "TEXT", "help": help_text}
        case ObjectDomain():
            return {"type": _json_object, "metavar": "JSON", "help": help_text}
    return {"type": str, "metavar": "WORD", "help": help_text}


def _kind(row: Parameter, plain: Any, optional: Any) -> Any:
    return optional if isinstance(row.domain, OrNone) else plain


def _number(convert: type[int] | type[float], what: str, *, or_none: bool = False) -> Any:
    def parse(text: str) -> int | float | None:
        if or_none and text.lower() == "none":
            return None
        try:
            return convert(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{shown(text)} is not {what}") from None

    return parse


integer = _number(int, "an integer")
real = _number(float, "a number")
_optional_integer = _number(int, "an integer or none", or_none=True)
_optional_real = _number(float, "a number or none", or_none=True)


def token_ids(text: str) -> list[int]:
    """Parse token ids with commas between them."""
    return [integer(part) for part in text.split(",")]


def _logit_bias(text: str) -> list[tuple[int, float]]:
    """Parse `ID=X`, or a JSON object {"ID": X, ...}."""
    if not text.lstrip().startswith("{"):
        token_id, separator, value = text.partition("=")
        if not separator:
            raise argparse.ArgumentTypeError(f"{shown(text)} is neither ID=X nor a JSON object")
        return [(integer(token_id), real(value))]
    try:
        pairs = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not valid JSON") from None
    return [(integer(token_id), value) for token_id, value in pairs]


def _json_object(text: str) -> Any:
    """Parse a JSON object, or `none`."""
    if text.lower() == "none":
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a JSON object")
    return value


def _word_or_count(text: str) -> str | int:
    """Parse a number as such; the parameter's domain checks words."""
    return int(integer(text)) if text[:1].isdigit() or text[:1] == "-" else text


def _words(text: str) -> str | list[str]:
    """Parse one word, or several with commas between them."""
    return text.split(",") if "," in text else text
