"""How the command line reads each field of SamplingParams; ranges are SamplingParams' own business."""

from __future__ import annotations

import argparse
import json
from typing import Any

from decoding.errors import shown

DEFAULT_MAX_TOKENS, EXPLAIN_MAX_TOKENS = 128, 8


def add_sampling_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for every field; what is not given is not in the namespace."""
    sampling = parser.add_argument_group("sampling parameters")
    for name, settings in FLAGS.items():
        flag = "--" + name.replace("_", "-")
        sampling.add_argument(flag, dest=name, default=argparse.SUPPRESS, **settings)


def given_parameters(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of SamplingParams that were given."""
    return {name: value for name, value in vars(options).items() if name in FLAGS}


def _number(convert: type[int] | type[float], what: str, *, or_none: bool = False) -> Any:
    def parse(text: str) -> int | float | None:
        if or_none and text.lower() == "none":
            return None
        try:
            return convert(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{shown(text)} is not {what}") from None

    return parse


def token_ids(text: str) -> list[int]:
    """Token ids with commas between them."""
    return [integer(part) for part in text.split(",")]


def _logit_bias(text: str) -> list[tuple[int, float]]:
    """`ID=VALUE`, or a JSON object {"ID": VALUE, ...}."""
    if not text.lstrip().startswith("{"):
        token_id, separator, value = text.partition("=")
        if not separator:
            raise argparse.ArgumentTypeError(f"{shown(text)} is neither ID=VALUE nor a JSON object")
        return [(integer(token_id), real(value))]
    try:
        pairs = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not valid JSON") from None
    return [(integer(token_id), value) for token_id, value in pairs]


integer = _number(int, "an integer")
real = _number(float, "a number")
_optional_integer = _number(int, "an integer or none", or_none=True)
_optional_real = _number(float, "a number or none", or_none=True)


def _scope(text: str) -> str | int:
    """A word, or the number of last tokens; the parameter's own check knows which of them are right."""
    return int(integer(text)) if text[:1].isdigit() or text[:1] == "-" else text


def _modes(text: str) -> str | list[str]:
    """One mode, or several with commas between them."""
    return text.split(",") if "," in text else text


def _flag(kind: Any, metavar: str, help_text: str) -> dict[str, Any]:
    return {"type": kind, "metavar": metavar, "help": help_text}


def _list_flag(kind: Any, metavar: str, help_text: str) -> dict[str, Any]:
    return {"type": kind, "metavar": metavar, "action": "extend", "help": f"{help_text}; may be given several times"}


def _text_flag(help_text: str) -> dict[str, Any]:
    return {"action": "append", "metavar": "TEXT", "help": f"{help_text}; may be given several times"}


def _switch(help_text: str) -> dict[str, Any]:
    return {"action": argparse.BooleanOptionalAction, "help": help_text}


FLAGS: dict[str, dict[str, Any]] = {
    "max_tokens": _flag(
        _optional_integer,
        "N",
        f"tokens to generate at most; none: to the context's end (default: {DEFAULT_MAX_TOKENS};"
        f" of explain: {EXPLAIN_MAX_TOKENS})",
    ),
    "min_tokens": _flag(integer, "N", "tokens before which nothing ends the text (default: 0)"),
    "n": _flag(integer, "N", "completions to print (default: 1)"),
    "best_of": _flag(
        _optional_integer, "N", "candidates to generate; the n likeliest per token are printed (default: n)"
    ),
    "seed": _flag(integer, "SEED", "signed 64-bit integer; same seed, same text (default: from the system)"),
    "temperature": _flag(real, "T", "0 is greedy (default: 1)"),
    "dynatemp_range": _flag(real, "R", "let the entropy choose T from T - R to T + R (default: 0, off)"),
    "dynatemp_exponent": _flag(real, "E", "... by this power of it (default: 1)"),
    "smoothing_factor": _flag(real, "F", "quadratic smoothing (default: 0, off)"),
    "smoothing_curve": _flag(real, "C", "its curve, 1 to 3 (default: 1)"),
    "top_k": _flag(_optional_integer, "K", "keep the K likeliest tokens (default: off)"),
    "top_p": _flag(real, "P", "keep the likeliest tokens up to this mass, 0 to 1 (default: 1, off)"),
    "min_p": _flag(real, "P", "keep tokens at least P times as likely as the likeliest (default: 0, off)"),
    "typical_p": _flag(real, "P", "keep the tokens of most typical surprise up to this mass (default: 1, off)"),
    "top_n_sigma": _flag(_optional_real, "N", "keep logits within N deviations of the largest (default: off)"),
    "epsilon_cutoff": _flag(real, "P", "keep tokens of at least this probability (default: 0, off)"),
    "eta_cutoff": _flag(real, "P", "the same, less strict where the entropy is high (default: 0, off)"),
    "top_a": _flag(real, "A", "keep tokens of at least A times the square of the largest (default: 0, off)"),
    "xtc_probability": _flag(real, "P", "how often the top choices are excluded (default: 0, off)"),
    "xtc_threshold": _flag(real, "P", "what counts as a top choice (default: 0.1)"),
    "mirostat_tau": _flag(_optional_real, "BITS", "mirostat: the surprise to keep to (default: off)"),
    "mirostat_eta": _flag(real, "RATE", "mirostat: its learning rate (default: 0.1)"),
    "repetition_penalty": _flag(real, "R", "multiplicative, > 0, for tokens seen before (default: 1, off)"),
    "repetition_penalty_scope": _flag(
        _scope, "SCOPE", "where it looks: prompt+output, output, or the last so many tokens (default: prompt+output)"
    ),
    "frequency_penalty": _flag(real, "F", "per occurrence in the output (default: 0)"),
    "presence_penalty": _flag(real, "F", "once for tokens in the output (default: 0)"),
    "dry_multiplier": _flag(real, "F", "DRY: what continuing a repetition costs at least (default: 0, off)"),
    "dry_base": _flag(real, "B", "DRY: how fast that grows with the repetition's length (default: 1.75)"),
    "dry_allowed_length": _flag(integer, "N", "DRY: tokens of a repetition that cost nothing yet (default: 2)"),
    "dry_range": _flag(_optional_integer, "N", "DRY: look at the last so many tokens (default: all)"),
    "dry_sequence_breakers": _text_flag("DRY: no repetition reaches across this text"),
    "context_frequency_penalty": _flag(real, "F", "per occurrence in prompt and output (default: 0)"),
    "logit_bias": _list_flag(
        _logit_bias, "ID=VALUE", "add VALUE to a token's logit; or a JSON object of ids to values"
    ),
    "allowed_token_ids": _list_flag(token_ids, "ID,...", "the only tokens that may be drawn"),
    "banned_token_ids": _list_flag(token_ids, "ID,...", "tokens that are never drawn"),
    "no_repeat_ngram_size": _flag(_optional_integer, "N", "never repeat N tokens in a row (default: off)"),
    "bad_words": _text_flag("never complete this text"),
    "stop": _text_flag("end before this text, taken as it is ($'\\n' in bash is a newline)"),
    "stop_token_ids": _list_flag(token_ids, "ID,...", "end at these tokens"),
    "include_stop_str_in_output": _switch("keep the stop text"),
    "ignore_eos": _switch("go on after the model's end-of-sequence token"),
    "logprobs": _flag(
        _optional_integer, "N", "log-probabilities of tokens and their N likeliest rivals (on stderr, without --json)"
    ),
    "logprobs_mode": _flag(_modes, "MODE,...", "raw, penalized, scaled, final, or several of them (default: raw)"),
    "echo": _switch("print the prompt first"),
    "suffix": _flag(str, "TEXT", "what follows the completion: fill in the middle"),
    "skip_special_tokens": _switch("leave special tokens out of the text (default: yes)"),
}
"""What argparse needs to know of each field."""
