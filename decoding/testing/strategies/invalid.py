"""Values that SamplingParams must refuse, by parameter: for tests of whatever takes parameters from outside."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st


class InvalidParams(NamedTuple):
    """Arguments that SamplingParams must refuse, and for each of them the rule that it breaks."""

    arguments: dict[str, Any]
    reasons: dict[str, str]


def invalid_sampling_params() -> st.SearchStrategy[InvalidParams]:
    """One bad argument or several; whoever refuses them must tell of every one. Shrinks to one."""
    bad = {name: st.sampled_from(values) for name, values in INVALID_VALUES.items()}
    return st.fixed_dictionaries({}, optional=bad).filter(bool).map(_with_reasons)


def _with_reasons(arguments: dict[str, Any]) -> InvalidParams:
    return InvalidParams(arguments, {name: f"{name} must be {RULES[name]}" for name in arguments})


_NOT_INTEGERS: tuple[Any, ...] = (1.0, 1.5, "1", True, [1], float("nan"), b"1", 1j)
_NOT_FINITE: tuple[Any, ...] = (np.nan, np.inf, -np.inf, 1e39, 10**400, "1", True, None, [], 1j)
_NOT_BOOLEANS: tuple[Any, ...] = (0, 1, "true", None, 1.0)
_NOT_TOKEN_IDS: tuple[Any, ...] = (1, "12", b"12", [-1], [2**31], [1.0], [True], ["1"], [None], {1: 2})
_NOT_PROBABILITIES: tuple[Any, ...] = (*_NOT_FINITE, -0.1, 1.1, 2)
_NOT_SEQUENCES: tuple[Any, ...] = (
    1,
    "",
    b"x",
    [1, 2],
    [[]],
    [""],
    [[-1]],
    [[1.0]],
    [b"x"],
    ["\ud800"],
    {"a": 1},
    [None],
)
_NOT_BIASES: tuple[Any, ...] = ({1: float("nan")}, {1: 1e39}, {1: "1"}, [1], [(1, 1), (1, 2)], [(1, 1, 1)])

INVALID_VALUES: dict[str, tuple[Any, ...]] = {
    "max_tokens": (*_NOT_INTEGERS, -1, 2**31, 10**4000),
    "min_tokens": (*_NOT_INTEGERS, None, -1, 2**31, 10**4000),
    "n": (*_NOT_INTEGERS, None, 0, -1, 2**31),
    "best_of": (*_NOT_INTEGERS, -1, 2**31),
    "seed": (*_NOT_INTEGERS, 2**63, -(2**63) - 1, 10**4000),
    "repetition_penalty": (*_NOT_FINITE, 0, 0.0, -0.0, -1.0, 1e-60),
    "repetition_penalty_scope": (None, "prompt", "", 0, -1, 1.0, True, 2**31),
    "frequency_penalty": _NOT_FINITE,
    "presence_penalty": _NOT_FINITE,
    "dry_multiplier": (*_NOT_FINITE, -1, -1e-9),
    "dry_base": (*_NOT_FINITE, 0.99, 0, -1),
    "dry_allowed_length": (*_NOT_INTEGERS, None, 0, -1, 2**31),
    "dry_range": (*_NOT_INTEGERS, 0, -1, 2**31),
    "dry_sequence_breakers": _NOT_SEQUENCES,
    "context_frequency_penalty": _NOT_FINITE,
    "logit_bias": (1, "1", {"1": 1.0}, {-1: 1.0}, {True: 1.0}, *_NOT_BIASES),
    "allowed_token_ids": (*_NOT_TOKEN_IDS, [], ()),
    "banned_token_ids": _NOT_TOKEN_IDS,
    "no_repeat_ngram_size": (*_NOT_INTEGERS, 0, -1, 2**31),
    "bad_words": _NOT_SEQUENCES,
    "temperature": (*_NOT_FINITE, -1, -1e-9),
    "dynatemp_range": (*_NOT_FINITE, -1, -1e-9),
    "dynatemp_exponent": (*_NOT_FINITE, 0, -1, 1e-60),
    "smoothing_factor": (*_NOT_FINITE, -1, -1e-9),
    "smoothing_curve": (*_NOT_FINITE, 0.99, 3.01, 0, -1),
    "top_k": (*_NOT_INTEGERS, 0, -1, 2**31),
    "top_p": _NOT_PROBABILITIES,
    "min_p": _NOT_PROBABILITIES,
    "typical_p": _NOT_PROBABILITIES,
    "top_n_sigma": (np.nan, np.inf, 1e39, "1", True, [], -1, -1e-9),
    "epsilon_cutoff": _NOT_PROBABILITIES,
    "eta_cutoff": _NOT_PROBABILITIES,
    "top_a": _NOT_PROBABILITIES,
    "xtc_probability": _NOT_PROBABILITIES,
    "xtc_threshold": _NOT_PROBABILITIES,
    "mirostat_tau": (np.nan, np.inf, 1e39, "1", True, [], 0, -1, 1e-60),
    "mirostat_eta": (*_NOT_FINITE, 0, -1, 1e-60),
    "stop": (1, b"x", "", ["a", ""], [1], {"a": 1}, "\ud800", [None]),
    "stop_token_ids": _NOT_TOKEN_IDS,
    "include_stop_str_in_output": _NOT_BOOLEANS,
    "ignore_eos": _NOT_BOOLEANS,
    "logprobs": (*_NOT_INTEGERS, -1, 2**31),
    "logprobs_mode": (None, "", "RAW", 1, [], ["raw", "RAW"], [1], {"raw": 1}, b"raw"),
    "echo": _NOT_BOOLEANS,
    "suffix": (1, b"x", ["x"], "\udfff"),
    "skip_special_tokens": _NOT_BOOLEANS,
}
"""Values that break the rule of each parameter of SamplingParams by themselves."""

_BOOLEAN = "True or False"
_FINITE = "a number that is finite as a float32"
_NOT_NEGATIVE = f"{_FINITE}, >= 0"
_POSITIVE = f"{_FINITE}, > 0"
_SHARE = "a number from 0 to 1"
_COUNT_OR_NONE = "an integer from 1 to 2**31 - 1, or None"
_NUMBER_OF_TOKENS = "an integer from 0 to 2**31 - 1"
_IDS = "token ids: integers from 0 to 2**31 - 1"
_SEQUENCES = "sequences, none empty, each a string or token ids"

RULES: dict[str, str] = {
    "max_tokens": f"{_NUMBER_OF_TOKENS}, or None",
    "min_tokens": _NUMBER_OF_TOKENS,
    "n": "an integer from 1 to 2**31 - 1",
    "best_of": f"{_NUMBER_OF_TOKENS}, or None",
    "seed": "an integer from -2**63 to 2**63 - 1, or None",
    "repetition_penalty": _POSITIVE,
    "repetition_penalty_scope": "'prompt+output', 'output', or an integer from 1 to 2**31 - 1",
    "frequency_penalty": _FINITE,
    "presence_penalty": _FINITE,
    "dry_multiplier": _NOT_NEGATIVE,
    "dry_base": f"{_FINITE}, >= 1",
    "dry_allowed_length": "an integer from 1 to 2**31 - 1",
    "dry_range": _COUNT_OR_NONE,
    "dry_sequence_breakers": _SEQUENCES,
    "context_frequency_penalty": _FINITE,
    "logit_bias": f"a mapping or pairs, each token id once, to {_FINITE}",
    "allowed_token_ids": f"{_IDS}, at least one, or None",
    "banned_token_ids": _IDS,
    "no_repeat_ngram_size": _COUNT_OR_NONE,
    "bad_words": _SEQUENCES,
    "temperature": _NOT_NEGATIVE,
    "dynatemp_range": _NOT_NEGATIVE,
    "dynatemp_exponent": _POSITIVE,
    "smoothing_factor": _NOT_NEGATIVE,
    "smoothing_curve": "a number from 1 to 3",
    "top_k": _COUNT_OR_NONE,
    "top_p": _SHARE,
    "min_p": _SHARE,
    "typical_p": _SHARE,
    "top_n_sigma": f"{_NOT_NEGATIVE}, or None",
    "epsilon_cutoff": _SHARE,
    "eta_cutoff": _SHARE,
    "top_a": _SHARE,
    "xtc_probability": _SHARE,
    "xtc_threshold": _SHARE,
    "mirostat_tau": f"{_POSITIVE}, or None",
    "mirostat_eta": _POSITIVE,
    "stop": "a string or several, none empty, all of them Unicode text",
    "stop_token_ids": _IDS,
    "include_stop_str_in_output": _BOOLEAN,
    "ignore_eos": _BOOLEAN,
    "logprobs": f"{_NUMBER_OF_TOKENS}, or None",
    "logprobs_mode": "'raw', 'penalized', 'scaled' or 'final', or several of them",
    "echo": _BOOLEAN,
    "suffix": "Unicode text, or None",
    "skip_special_tokens": _BOOLEAN,
}
"""What each parameter may be: the reason why a value of INVALID_VALUES is refused."""
