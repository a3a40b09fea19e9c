"""Tests of SamplingParams: accepted values, their stored form, and the report of all problems at once."""

import dataclasses
import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given

from decoding.domains import Integer, Number
from decoding.errors import ParameterError
from decoding.params import PARAMETERS, SamplingParams, to_float32
from decoding.sampling.stages import PIPELINE
from decoding.testing import INVALID_VALUES, invalid_sampling_params

HUGE = [(name, 10**6000) for name in ("max_tokens", "seed", "temperature", "top_k", "repetition_penalty_scope")]
PAIRS = [(name, value) for name, values in INVALID_VALUES.items() for value in values] + HUGE


def test_the_table_of_invalid_values_has_every_field():
    """INVALID_VALUES has an entry for every field, so that no new parameter is left untested."""
    assert list(INVALID_VALUES) == list(PARAMETERS) == [field.name for field in dataclasses.fields(SamplingParams)]


@pytest.mark.parametrize(("name", "value"), PAIRS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(PAIRS)])
def test_a_bad_value_is_an_error_with_parameter_value_and_rule(name, value):
    """A bad value raises one problem with the parameter, the value and a rule."""
    with pytest.raises(ParameterError) as caught:
        SamplingParams(**{name: value})
    (problem,) = caught.value.problems
    assert problem.parameter == name
    assert problem.rule.startswith("must ")
    assert str(caught.value) == f"{name}={problem.value}: {problem.rule}"
    assert len(str(caught.value)) < 300


@given(invalid_sampling_params())
def test_all_problems_are_reported_together(invalid):
    """All bad values are reported together, in the order of the fields."""
    with pytest.raises(ParameterError) as caught:
        SamplingParams(**invalid.arguments)
    in_order = [field.name for field in dataclasses.fields(SamplingParams) if field.name in invalid.reasons]
    assert [problem.parameter for problem in caught.value.problems] == in_order


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"top_p": 1.5}, "top_p=1.5: must be a number from 0 to 1"),
        ({"n": True}, "n=True: must be an integer from 1 to 2,147,483,647"),
        (
            {"seed": 10**6000},
            "seed=<int>: must be an integer from -9,223,372,036,854,775,808 to 9,223,372,036,854,775,807 or None",
        ),
        ({"n": 4, "best_of": 2}, "best_of=2: must be at least n=4"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens=9: must be at most max_tokens=8"),
        ({"p_less": "yes"}, "p_less='yes': must be 'plain' or 'norm' or None"),
        ({"smoothing_curve": 4}, "smoothing_curve=4: must be a number from 1 to 3"),
        (
            {"mirostat_tau": 0},
            "mirostat_tau=0: must be a finite number > 0 (as a float32) or None",
        ),
        (
            {"logprobs_mode": "RAW"},
            "logprobs_mode='RAW': must be one or several of 'raw', 'penalized', 'scaled', 'final'",
        ),
        (
            {"bad_words": [7]},
            "bad_words=[7]: must be a list of sequences, none of them empty, each a string or token ids:"
            " integers from 0 to 2,147,483,647",
        ),
        ({"stop": ["ok", ""]}, "stop=['ok', '']: must be a string or a list of strings, none of them empty"),
        (
            {"temperature": -1, "top_k": 0},
            "temperature=-1: must be a finite number >= 0 (as a float32);"
            " top_k=0: must be an integer from 1 to 2,147,483,647 or None",
        ),
    ],
)
def test_error_messages(arguments, message):
    """An error message consists of the parameter, the value and the rule, word for word."""
    with pytest.raises(ParameterError) as caught:
        SamplingParams(**arguments)
    assert str(caught.value) == message


def test_a_bias_error_names_the_key():
    """The error of a bad bias names its token id."""
    with pytest.raises(ParameterError, match=r"key 7 has nan"):
        SamplingParams(logit_bias={3: 1.0, 7: float("nan")})
    with pytest.raises(ParameterError, match=r"key -1 is not a token id"):
        SamplingParams(logit_bias={3: 1.0, -1: 1.0})


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("stop", "a", ("a",)),
        ("stop", ["a", "b", "a"], ("a", "b")),
        ("stop", None, ()),
        ("stop", [], ()),
        ("logit_bias", {9: 1, 2: -0.5}, ((2, -0.5), (9, 1.0))),
        ("logit_bias", [(9, 1), (2, -0.5)], ((2, -0.5), (9, 1.0))),
        ("logit_bias", None, ()),
        ("stop_token_ids", [5, 5, 1], (5, 1)),
        ("banned_token_ids", np.array([3, 4]), (3, 4)),
        ("allowed_token_ids", {1: None}.keys(), (1,)),
        ("top_k", np.int64(5), 5),
        ("temperature", np.float32(0.5), 0.5),
        ("temperature", 1, 1.0),
        ("repetition_penalty_scope", 64, 64),
        ("repetition_penalty", 1e-45, 1e-45),
        ("seed", -(2**63), -(2**63)),
        ("best_of", 0, 0),
        ("max_tokens", None, None),
        ("min_p", 1, 1.0),
        ("top_n_sigma", 2, 2.0),
        ("top_n_sigma", None, None),
        ("mirostat_tau", None, None),
        ("p_less", "norm", "norm"),
        ("p_less", None, None),
        ("dry_range", np.int32(64), 64),
        ("dry_sequence_breakers", "\n", ("\n",)),
        ("dry_sequence_breakers", ["\n", [5, 6], "\n", (5, 6)], ("\n", (5, 6))),
        ("bad_words", np.array([[1, 2], [3, 4]]), ((1, 2), (3, 4))),
        ("bad_words", None, ()),
        ("logprobs_mode", ["final", "raw", "final"], ("final", "raw")),
        ("logprobs_mode", ["final"], "final"),
    ],
)
def test_good_values_are_kept_in_one_form(name, value, kept):
    """A value is stored as one plain type, whatever container or number type was given."""
    stored = getattr(SamplingParams(**{name: value}), name)
    assert stored == kept
    assert type(stored) is type(kept)


def test_instances_are_values():
    """Instances are compared, hashed and pickled by value, frozen, and keyword-only."""
    one = SamplingParams(top_p=0.5, logit_bias={1: 2.0}, stop="x")
    other = SamplingParams(top_p=0.5, logit_bias=[(1, 2)], stop=["x"])
    assert one == other
    assert hash(one) == hash(other)
    assert pickle.loads(pickle.dumps(one)) == one
    assert dataclasses.replace(one, top_p=0.25).top_p == 0.25
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.top_p = 1.0
    with pytest.raises(TypeError):
        SamplingParams(16)


def test_candidates_follow_best_of():
    """best_of=None and 0 mean n; only a best_of above n ranks candidates."""
    assert [SamplingParams(n=2, best_of=b).num_candidates for b in (None, 0, 2, 5)] == [2, 2, 2, 5]
    assert [SamplingParams(n=2, best_of=b).ranks_candidates for b in (None, 0, 2, 5)] == [False] * 3 + [True]


def test_modes_are_always_a_tuple():
    """`logprobs_modes` is a tuple in the given order, for one mode as for two."""
    assert SamplingParams(logprobs_mode="scaled").logprobs_modes == ("scaled",)
    assert SamplingParams(logprobs_mode=("final", "raw")).logprobs_modes == ("final", "raw")


def test_neutral_values_are_the_defaults():
    """By default no parameter shapes or truncates the distribution."""
    params = SamplingParams()
    off = dict.fromkeys(("dry_multiplier", "dynatemp_range", "smoothing_factor", "min_p", "epsilon_cutoff"), 0.0)
    off |= dict.fromkeys(("eta_cutoff", "top_a", "xtc_probability", "skew"), 0.0)
    off |= dict.fromkeys(("top_k", "top_n_sigma", "mirostat_tau", "no_repeat_ngram_size"))
    off |= dict.fromkeys(("p_less", "min_k", "adaptive_p_target"))
    off |= {"top_p": 1.0, "typical_p": 1.0, "top_h": 1.0, "tfs": 1.0, "bad_words": ()}
    assert {name: getattr(params, name) for name in off} == off


def test_to_float32_rounds_to_nearest_and_refuses_overflow():
    """to_float32 rounds as numpy does, and raises OverflowError instead of returning infinity."""
    assert to_float32(0.1) == float(np.float32(0.1))
    with pytest.raises(OverflowError):
        to_float32(3.5e38)


def test_every_stage_of_the_table_is_one_of_the_pipeline():
    """Every stage in the table of parameters exists in the pipeline."""
    assert {row.stage for row in PARAMETERS.values()} <= {"", *(stage.name for stage in PIPELINE)}


def test_the_table_agrees_with_the_class():
    """The table has the names and defaults of SamplingParams, and help texts of one line without a full stop."""
    assert {name: row.default for name, row in PARAMETERS.items()} == {
        field.name: field.default for field in dataclasses.fields(SamplingParams)
    }
    for name, row in PARAMETERS.items():
        assert row.name == name
        assert row.domain(row.default) == row.default
        assert row.help
        assert not row.help.endswith(".")
        assert "\n" not in row.help
        assert name in SamplingParams.__doc__


def test_a_narrower_range_of_the_api_is_within_the_domain():
    """Both ends of a parameter's range in the API are valid in SamplingParams."""
    for name, row in PARAMETERS.items():
        if isinstance(row.api, Number | Integer):
            for value in (row.api.low, row.api.high):
                if math.isfinite(value) and not getattr(row.api, "low_is_open", False):
                    assert getattr(SamplingParams(**{"n": 1, "max_tokens": None, name: value}), name) == value


def test_parameters_as_json_and_back():
    """to_dict returns the values that differ from the defaults, as JSON; from_dict restores them."""
    params = SamplingParams(
        logit_bias={50256: -100.0, 3: 0.5},
        stop=["a", "b"],
        bad_words=["x", [1, 2]],
        logprobs_mode=["raw", "final"],
        seed=2**63 - 1,
        top_n_sigma=1.5,
        allowed_token_ids=[1, 2],
        repetition_penalty_scope=5,
        max_tokens=None,
    )
    values = json.loads(json.dumps(params.to_dict()))
    assert values["logit_bias"] == {"3": 0.5, "50256": -100.0}
    assert SamplingParams.from_dict(values) == params
    assert SamplingParams().to_dict() == {}


@pytest.mark.parametrize("values", [{"topp": 1}, {"top_p": 2}, {"logit_bias": {"x": 1}}, {3: 4}])
def test_bad_json_parameters_are_named(values):
    """Unknown names and bad values in from_dict raise a ParameterError."""
    with pytest.raises(ParameterError):
        SamplingParams.from_dict(values)
