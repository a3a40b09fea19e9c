"""Flags of the commands that answer requests of the Completions API: `decoding serve` and `decoding batch`."""

from __future__ import annotations

import argparse
import dataclasses
import os
from typing import Any

from decoding.cli.flags import integer, real
from decoding.completions_api.settings import ApiSettings, Limits
from decoding.errors import ParameterError, shown
from decoding.validation import is_unicode

_KIND = {"int": integer, "int | None": integer, "float": real}

_LIMITS = {
    "max_n": "n of a request",
    "max_best_of": "best_of of a request",
    "max_logprobs": "logprobs of a request",
    "max_top_logprobs": "top_logprobs of a chat request",
    "max_prompts": "prompts in a request",
    "max_sequences": "prompts times candidates in a request",
    "max_prompt_tokens": "token ids in all prompts of a request",
    "max_prompt_chars": "characters in them and the suffix (default: 8 times --max-prompt-tokens)",
    "max_stop": "stop strings in a request",
    "max_stop_bytes": "bytes in all stop strings of a request",
    "max_list_entries": "entries of logit_bias, or of another list",
}


def add_models(command: argparse.ArgumentParser) -> None:
    """Add the flag for models by name."""
    command.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="run this model by this name; repeatable (PATH alone: by the name of its folder or file)",
    )


def add_api(command: argparse.ArgumentParser) -> None:
    """Add the flags for the meaning of a request's fields."""
    command.add_argument(
        "--repetition-penalty-mode",
        choices=("additive", "multiplicative"),
        default="additive",
        help="the meaning of the field repetition_penalty (default: %(default)s)",
    )
    command.add_argument(
        "--unknown-fields",
        choices=("error", "ignore"),
        default="error",
        help="refuse or ignore a field that is not in the API (default: %(default)s)",
    )
    command.add_argument(
        "--allow-profiles",
        type=lambda text: tuple(text.split(",")),
        default=(),
        metavar="NAME,...",
        help="profiles that the field profile of a request may name (default: none)",
    )


def add_limits(group: Any) -> None:
    """Add a flag for each limit on a request."""
    add_settings(group, Limits, _LIMITS)


def add_settings(group: Any, settings: type[Any], texts: dict[str, str]) -> None:
    """Add a flag for each field, with the field's own default."""
    for field in dataclasses.fields(settings):
        if field.name in texts:
            group.add_argument(
                "--" + field.name.replace("_", "-"),
                type=_KIND[str(field.type)],
                default=field.default,
                metavar="N",
                help=texts[field.name] + ("" if field.default is None else " (default: %(default)s)"),
            )


def api_settings(options: argparse.Namespace) -> ApiSettings:
    """Return the settings that follow from the flags."""
    given = vars(options)
    return ApiSettings(
        limits=Limits(**{name: given[name] for name in _LIMITS}),
        repetition_penalty_mode=options.repetition_penalty_mode,
        unknown_fields=options.unknown_fields,
        profiles=options.allow_profiles,
    )


def model_folders(options: argparse.Namespace) -> dict[str, str | None]:
    """Return the models to run, name to path; the bundled one has None."""
    from decoding.model_loading import BUNDLED_NAME
    from decoding.models.model_files import model_name

    folders: dict[str, str | None] = {}
    if getattr(options, "path", None) is not None:
        folders[model_name(options.path)] = options.path
    for item in options.model:
        name, path = _named(item)
        if name in folders:
            raise ParameterError.single("--model", item, f"must have a name of its own: {shown(name)} is taken")
        folders[name] = path
    for name in folders:
        if not is_unicode(name):  # the system's arguments may be bytes that are no text
            raise ParameterError.single("name of a model", name, "must be valid Unicode, as JSON is")
    return folders or {BUNDLED_NAME: None}


def _named(item: str) -> tuple[str, str]:
    """Return the name and path of NAME=PATH; an existing path alone is named after itself."""
    from decoding.models.model_files import model_name

    name, separator, path = item.partition("=")
    if not separator or os.path.lexists(item):
        return model_name(item), item
    if not (name and path):
        raise ParameterError.single("--model", item, "must be NAME=PATH")
    return name, path
