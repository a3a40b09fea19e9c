"""The order of the pipeline, as data."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from decoding import Sampler, SamplingState
from decoding.errors import ParameterError
from decoding.params import PARAMETERS, SamplingParams
from decoding.reference.sample import APPLY
from decoding.sampling.stages import CUT_LOG2, GREEDY_TEMPERATURE, PIPELINE, PROFILES, STAGE_NAMES, Profile, Rule

ORDER = (
    "repetition_penalty frequency_presence dry context_frequency_penalty logit_bias hard_masks"
    " temperature top_h p_less min_k tfs top_k top_p min_p typical_p top_n_sigma epsilon_cutoff eta_cutoff top_a xtc"
    " mirostat"
)
RESHAPING = "adaptive_p skew"


def names(profile):
    """Return the names of the stages that a profile orders."""
    return [STAGE_NAMES[number] for number in profile.order]


def test_the_order_of_the_stages():
    """The default order is a contract: a moved stage fails this test."""
    order = [stage.name for stage in PIPELINE]
    assert order == ["finite_check", "raw_snapshot", *ORDER.split(), "cut", *RESHAPING.split(), "draw"]
    assert PROFILES["openai"] == Profile("openai", PIPELINE, Rule(0))


def test_numbers_ascend_and_names_are_unique():
    """Stage numbers are shared with C, and 60 is reserved for custom processors."""
    numbers = [stage.number for stage in PIPELINE]
    assert numbers == [0, 10, 20, 30, 35, 40, 50, 70, *range(80, 85), *range(90, 103), 110]
    assert len(STAGE_NAMES) == len(PIPELINE) == len({stage.name for stage in PIPELINE})


def test_every_profile_has_every_stage_once():
    """A profile reorders the same stages: checks first, the draw last, no edit after the masks."""
    for name, profile in PROFILES.items():
        assert profile.name == name
        assert sorted(profile.stages, key=lambda stage: stage.number) == list(PIPELINE)
        assert [stage.number for stage in profile.stages] == [0, 10, *profile.order[:-2], 100, 101, 102, 110]
        masks = names(profile).index("hard_masks")
        assert {number < 80 for number in profile.order[masks + 1 :]} == {False}
        assert names(profile)[-3:] == ["mirostat", "adaptive_p", "skew"]


def test_the_peers_orders():
    """Each profile has the stage order of the library that it is named after."""
    common = "logit_bias repetition_penalty"
    peers = {
        "transformers": f"{common} hard_masks temperature top_k top_p min_p typical_p epsilon_cutoff eta_cutoff",
        "llama_cpp": f"{common} frequency_presence dry top_n_sigma top_k typical_p top_p min_p xtc temperature",
        "vllm": f"{common} frequency_presence temperature min_p top_k top_p",
        "mlx_lm": f"{common} frequency_presence top_p min_p xtc top_k temperature",
        "sglang": "frequency_presence repetition_penalty logit_bias temperature top_p top_k min_p",
        "exllamav2": "repetition_penalty frequency_presence logit_bias dry temperature top_k top_p top_a min_p tfs"
        " typical_p mirostat",
    }
    for peer, theirs in peers.items():
        assert [name for name in names(PROFILES[peer]) if name in theirs.split()] == theirs.split()


def test_the_peers_rules():
    """Each profile has the boundary rules of the library that it is named after."""
    assert {name: profile.rules for name, profile in PROFILES.items() if "+" not in name} == {
        "openai": Rule(0),
        "transformers": Rule.KEEP_TIES,
        "llama_cpp": Rule.TYPICAL_EXCEEDS | Rule.PENALTIES_IN_SCOPE,
        "vllm": Rule.KEEP_TIES,
        "mlx_lm": Rule.PENALTIES_IN_SCOPE | Rule.TOP_P_TIES | Rule.XTC_TIES,
        "sglang": Rule.TOP_P_EXCEEDS,
        "exllamav2": Rule.PENALTIES_IN_SCOPE,
    }


def test_temperature_last_moves_one_stage():
    """Each profile with an early temperature has a variant in which it follows all truncations."""
    twins = {name for name in PROFILES if "+" in name}
    assert twins == {f"{name}+temperature_last" for name in ("openai", "transformers", "vllm", "sglang", "exllamav2")}
    for twin in twins:
        plain = PROFILES[twin.partition("+")[0]]
        rest = [name for name in names(plain) if name != "temperature"]
        assert [name for name in names(PROFILES[twin]) if name != "temperature"] == rest
        assert PROFILES[twin].rules == plain.rules
        place = names(PROFILES[twin]).index("temperature")
        assert names(PROFILES[twin])[place + 1 :] == ["mirostat", "adaptive_p", "skew"]
    assert PROFILES["llama_cpp"].temperature_last.order == PROFILES["llama_cpp"].order


def test_rules_are_those_of_the_header():
    """decoding.h has a DECODING_RULE_<NAME> with the value of each rule, and no other."""
    header = (Path(__file__).resolve().parents[3] / "csrc" / "decoding.h").read_text()
    constants = re.findall(r"^#define DECODING_RULE_(\w+) (\d+)u", header, flags=re.MULTILINE)
    assert constants == [(rule.name, str(rule.value)) for rule in Rule]


def test_profiles_are_those_of_the_documentation():
    """The table in docs/semantics.md lists every profile with its rules."""
    text = (Path(__file__).resolve().parents[3] / "docs" / "semantics.md").read_text()
    table = re.findall(r"^\| (\w+) \| [^|]+ \| ([A-Z_, ]*)\|$", text[text.index("## 9.") :], flags=re.MULTILINE)
    rules = {name: {rule.name for rule in profile.rules} for name, profile in PROFILES.items() if "+" not in name}
    assert {name: set(told.replace(",", " ").split()) for name, told in table} == rules


def test_parameters_of_the_stages_exist():
    """The parameters of the stages are fields of SamplingParams."""
    fields = {field.name for field in dataclasses.fields(SamplingParams)}
    assert {name for stage in PIPELINE for name in stage.parameters} <= fields


def test_the_reference_applies_exactly_these_stages():
    """The reference has one `apply_<stage>` per stage and no other."""
    assert set(APPLY) == {stage.name for stage in PIPELINE}


def test_the_two_constants():
    """The greedy threshold is 2**-20 and the cut 2**-40; both are part of the determinism contract."""
    assert (GREEDY_TEMPERATURE, CUT_LOG2) == (9.5367431640625e-07, -40)


BY_NAME = {stage.name: stage for stage in PIPELINE}


def profile_of(*names):
    """Return a profile of these stages between the checks and the draw; reshaping stages follow the cut."""
    reshaping = [name for name in names if BY_NAME[name].number > BY_NAME["cut"].number]
    others = [name for name in names if name not in reshaping]
    order = ("finite_check", "raw_snapshot", *others, "cut", *reshaping, "draw")
    return Profile("mine", tuple(BY_NAME[name] for name in order))


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (PIPELINE[::-1], "stages='finite_check'|must come before|must have"),
        ((*PIPELINE, PIPELINE[5]), "stages='context_frequency_penalty': must have each stage at most once|logit_bias"),
        (PIPELINE[1:], "must have the stage finite_check"),
        (PIPELINE[:-1], "must have the stage draw"),
        (
            (*PIPELINE[:2], BY_NAME["top_k"], BY_NAME["hard_masks"], BY_NAME["cut"], BY_NAME["draw"]),
            "stages='hard_masks': must come before top_k",
        ),
        ((*PIPELINE[:2], BY_NAME["draw"], BY_NAME["cut"]), "then cut to draw"),
        ((*PIPELINE[:2], "top_k", *PIPELINE[-2:]), "must be stages of"),
    ],
)
def test_a_wrong_order_is_named_at_construction(stages, message):
    """A repeated stage, a missing end or an edit after a truncation raises a ParameterError."""
    with pytest.raises(ParameterError, match=message):
        Profile("mine", stages)


IGNORED = {
    "top_k": 1,
    "temperature": 0.5,
    "presence_penalty": 1.0,
    "logit_bias": {1: 1.0},
    "banned_token_ids": [1],
    "mirostat_tau": 1.0,
    "xtc_probability": 0.5,
}


@pytest.mark.parametrize("name", IGNORED)
def test_a_parameter_without_its_stage_is_refused(name):
    """A parameter whose stage is not in the profile is refused unless it has its default."""
    lacking = PARAMETERS[name].stage
    profile = profile_of(*(stage.name for stage in PIPELINE[2:-1] if stage.name not in (lacking, "cut")))
    sampler, logits = Sampler(4, profile=profile), np.zeros(4, np.float32)
    sampler.sample(logits, [SamplingState(SamplingParams())])
    with pytest.raises(ParameterError, match=f"{name}=.*no stage that reads it"):
        sampler.sample(logits, [SamplingState(SamplingParams(**{name: IGNORED[name]}))])


def test_masks_without_their_stage_are_refused():
    """A bitmask and num_valid_tokens are refused if the profile lacks the stage hard_masks."""
    profile = profile_of("temperature", "top_k")
    state = SamplingState(SamplingParams())
    state.bitmask = np.array([3], np.uint32)
    with pytest.raises(ParameterError, match="bitmask"):
        Sampler(4, profile=profile).sample(np.zeros(4, np.float32), [state])
    with pytest.raises(ParameterError, match="num_valid_tokens"):
        Sampler(4, profile=profile, num_valid_tokens=3)
