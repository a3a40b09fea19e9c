"""Values that SamplingParams must refuse, by parameter: for tests of code that takes parameters from outside."""

from __future__ import annotations

from typing import Any, NamedTuple

from hypothesis import strategies as st

from decoding.params import PARAMETERS
from decoding.testing.strategies.domains import invalid_values


class InvalidParams(NamedTuple):
    """Arguments that SamplingParams must refuse, and the rule that each of them breaks."""

    arguments: dict[str, Any]
    reasons: dict[str, str]


INVALID_VALUES: dict[str, tuple[Any, ...]] = {name: invalid_values(row.domain) for name, row in PARAMETERS.items()}
"""Values that break the rule of each parameter of SamplingParams by themselves."""


def invalid_sampling_params() -> st.SearchStrategy[InvalidParams]:
    """Draw one or more bad arguments, all of which an error must report. Shrinks to one."""
    pairs = [st.tuples(st.just(name), st.sampled_from(values)) for name, values in INVALID_VALUES.items()]
    several = st.lists(st.one_of(pairs), unique_by=lambda pair: pair[0], min_size=1, max_size=10)
    return several.map(dict).map(_with_reasons)


def _with_reasons(arguments: dict[str, Any]) -> InvalidParams:
    return InvalidParams(arguments, {name: f"{name} {PARAMETERS[name].domain.rule}" for name in arguments})
