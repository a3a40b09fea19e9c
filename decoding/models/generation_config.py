"""generation_config.json: sampling parameters that a model's authors recommend; never applied by default."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from decoding.errors import CheckpointError, ParameterError
from decoding.json_file import read_json_object
from decoding.params import SamplingParams

_FILE = "generation_config.json"
_FIELDS = {
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    **{
        name: name
        for name in (
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "typical_p",
            "epsilon_cutoff",
            "eta_cutoff",
            "repetition_penalty",
            "no_repeat_ngram_size",
        )
    },
}
"""Keys of the file, and the fields of SamplingParams that mean the same."""

_ZERO_IS_OFF = {"top_k", "no_repeat_ngram_size"}


def generation_defaults(folder: Path) -> dict[str, Any]:
    """Return the recommendations of the file in `folder` as arguments of SamplingParams; empty if there are none.

    Only values of the file count: transformers' own defaults (top_k=50 in older versions) are not added.
    `do_sample: false` is temperature 0. Raises CheckpointError if the file is broken, or a value is outside
    the range of its parameter.
    """
    path = folder / _FILE
    try:
        values = read_json_object(path) if os.path.lexists(path) else {}
        defaults = {_FIELDS[key]: value for key, value in values.items() if key in _FIELDS and value is not None}
        for name in _ZERO_IS_OFF & defaults.keys():
            if defaults[name] == 0:
                defaults[name] = None
        if values.get("do_sample") is False:
            defaults["temperature"] = 0.0
        SamplingParams(**defaults)
    except ParameterError as error:
        raise CheckpointError(path, None, f"recommends {error}") from None
    except ValueError as error:
        raise CheckpointError(path, None, str(error)) from None
    return defaults
