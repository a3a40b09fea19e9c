"""Parameters that a sampler cannot honour: they need text, or the host's loop over tokens."""

from __future__ import annotations

from decoding.errors import ParameterError, Problem, shown
from decoding.params import PARAMETERS, SamplingParams

_OF_THE_REPORT = ("logprobs_mode", "logprob_token_ids")
HOST_PARAMETERS = tuple(name for name, row in PARAMETERS.items() if not row.stage and name not in _OF_THE_REPORT)
"""Parameters that no stage reads, such as length, number of choices, stop strings and echo."""

_WITH_MIN_TOKENS = ("stop_token_ids", "ignore_eos")
"""Parameters that decide, with min_tokens, which tokens stage hard_masks bans."""

_RULE = (
    "must be at its default: a sampler draws tokens and cannot honour it; a host that does passes host_parameters=True"
)


def check_host_parameters(params: SamplingParams) -> None:
    """Raise ParameterError naming every parameter that is set and that a sampler would ignore.

    max_tokens=None is accepted: a sampler has no limit.
    """
    effective = [
        *(("max_tokens",) if params.max_tokens is None else ()),
        *(_WITH_MIN_TOKENS if params.min_tokens else ()),
    ]
    values = {name: getattr(params, name) for name in HOST_PARAMETERS if name not in effective}
    problems = [
        Problem(name, shown(value), _RULE) for name, value in values.items() if value != PARAMETERS[name].default
    ]
    if problems:
        raise ParameterError(problems)
