"""Save and restore a SamplingState, for copy, pickle and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from decoding.errors import ParameterError
from decoding.params import SamplingParams, with_seed
from decoding.sampling.kernel import STREAM_VERSION

if TYPE_CHECKING:
    from decoding.sampling.state import SamplingState

_FIELDS = {
    "stream_version",
    "params",
    "seed",
    "choice",
    "stream",
    "prompt_token_ids",
    "eos_token_ids",
    "output_token_ids",
    "mirostat_mus",
    "adaptive_p_averages",
    "bitmask",
    "host_parameters",
}


def saved(state: SamplingState) -> dict[str, Any]:
    """Return everything that the next tokens of a state depend on, as a copy."""
    return {
        "stream_version": STREAM_VERSION,
        "params": state.params,
        "seed": state.seed,
        "choice": state.choice,
        "stream": state.stream,
        "prompt_token_ids": state.prompt_token_ids,
        "eos_token_ids": state.eos_token_ids,
        "output_token_ids": tuple(state.output_token_ids),
        "mirostat_mus": tuple(state._mus),
        "adaptive_p_averages": tuple(tuple(average) for average in state._averages),
        "bitmask": None if state.bitmask is None else state.bitmask.copy(),
        "host_parameters": state._host_parameters,
    }


def restored(kind: type[SamplingState], values: Mapping[str, Any]) -> SamplingState:
    """Return the state that was saved; a seed that was chosen for it is kept."""
    if values["stream_version"] != STREAM_VERSION:
        rule = f"must be {STREAM_VERSION}, that of this library: with another one the next tokens differ"
        raise ParameterError.single("stream_version", values["stream_version"], rule)
    params: SamplingParams = values["params"]
    state = kind(
        with_seed(params, values["seed"]),
        values["prompt_token_ids"],
        choice=values["choice"],
        stream=values["stream"],
        eos_token_ids=values["eos_token_ids"],
        host_parameters=values["host_parameters"],
    )
    state._params = params
    state._restore(values["output_token_ids"], values["mirostat_mus"], values["adaptive_p_averages"])
    state.bitmask = values["bitmask"]
    return state


def to_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return saved values in types of JSON."""
    mask = values["bitmask"]
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return plain | {"params": values["params"].to_dict(), "bitmask": None if mask is None else mask.tolist()}


def from_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return saved values of `to_json`. Raise ParameterError naming fields that are missing or unknown."""
    if not isinstance(values, Mapping) or set(values) != _FIELDS:
        rule = f"must be a dict of SamplingState.to_dict, with the keys {', '.join(sorted(_FIELDS))}"
        raise ParameterError.single("values", values, rule)
    mask = values["bitmask"]
    return dict(values) | {
        "params": SamplingParams.from_dict(values["params"]),
        "bitmask": None if mask is None else np.array(mask, np.uint32),
    }
