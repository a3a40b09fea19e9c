"""The order of the pipeline from logits to token, as data.

The float64 reference loops over the stages of a profile; the C kernel's stage numbers and rules (DECODING_STAGE_* and
DECODING_RULE_* in decoding.h) and the tables in docs/semantics.md are tested against this file. A stage's name is the
same word everywhere: `apply_<name>` in the reference, DECODING_STAGE_<NAME> in C, `stage` in errors and in the table of
parameters.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Collection
from dataclasses import dataclass
from enum import IntFlag
from itertools import pairwise

from decoding.errors import ParameterError
from decoding.params import PARAMETERS, SamplingParams


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of the pipeline: its number, shared with C, its name, and the parameters that it reads.

    The default order is that of the numbers.
    """

    number: int
    name: str

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters that the stage reads, by the table of parameters."""
        return tuple(name for name, row in PARAMETERS.items() if row.stage == self.name)

    @property
    def has_place(self) -> bool:
        """Return True if a profile decides the stage's position, which `batch.stages` in C lists."""
        return 20 <= self.number < 100 or self.is_reshaping

    @property
    def is_truncation(self) -> bool:
        """Return True if the stage drops tokens. Such stages are skipped with mirostat."""
        return 80 < self.number < 99

    @property
    def is_reshaping(self) -> bool:
        """Return True if the stage changes the weights of the tokens that the cut kept."""
        return 100 < self.number < 110


PIPELINE: tuple[Stage, ...] = (
    Stage(0, "finite_check"),
    Stage(10, "raw_snapshot"),
    Stage(20, "repetition_penalty"),
    Stage(30, "frequency_presence"),
    Stage(35, "dry"),
    Stage(40, "context_frequency_penalty"),
    Stage(50, "logit_bias"),
    Stage(70, "hard_masks"),
    Stage(80, "temperature"),
    Stage(81, "top_h"),
    Stage(82, "p_less"),
    Stage(83, "min_k"),
    Stage(84, "tfs"),
    Stage(90, "top_k"),
    Stage(91, "top_p"),
    Stage(92, "min_p"),
    Stage(93, "typical_p"),
    Stage(94, "top_n_sigma"),
    Stage(95, "epsilon_cutoff"),
    Stage(96, "eta_cutoff"),
    Stage(97, "top_a"),
    Stage(98, "xtc"),
    Stage(99, "mirostat"),
    Stage(100, "cut"),
    Stage(101, "adaptive_p"),
    Stage(102, "skew"),
    Stage(110, "draw"),
)

RAW_SNAPSHOT, PROCESSORS = 10, 60
"""Numbers of the snapshot and of custom processors, which run between bias and masks on a dense copy of the row.

The stages between these two edit the logits of single tokens.
"""

STAGE_NAMES: dict[int, str] = {stage.number: stage.name for stage in PIPELINE}

_PARTS = (20, 80, 100)
"""Numbers of the first edit of logits, of the first stage on the distribution, and of the draw."""

_PART_RULE = (
    "first finite_check and raw_snapshot, then edits of logits, then temperature and truncations, then cut to draw"
)

GREEDY_TEMPERATURE = 2.0**-20
"""Below this temperature the distribution is a point: the stages from there to the draw are skipped."""

CUT_LOG2 = -40
"""Weights below 2**CUT_LOG2 of the largest are zero by definition."""


class Rule(IntFlag):
    """Boundary rules in which peers differ from the default; the values are those of DECODING_RULE_* in C."""

    KEEP_TIES = 1
    """top_k and typical_p keep all ties; epsilon_cutoff and eta_cutoff those of the token that they always keep."""
    TYPICAL_EXCEEDS = 2
    """typical_p stops once its mass is above p; without the rule, at p or above."""
    PENALTIES_IN_SCOPE = 4
    """frequency and presence count in the scope of the repetition penalty, not in the output."""
    TOP_P_EXCEEDS = 8
    """top_p stops once its mass is above p; without the rule, at p or above."""
    TOP_P_TIES = 16
    """top_p keeps every token that is equal to the last one kept."""
    XTC_TIES = 32
    """xtc keeps every token that is equal to the least likely of those above its threshold."""


NO_RULES = Rule(0)


@dataclass(frozen=True, slots=True)
class Profile:
    """A peer's pipeline: stages in the peer's order, and the boundary rules in which it differs.

    The profiles of PROFILES have all stages: one that the peer does not have follows the stages that it follows by
    default, and hard_masks is the last edit. A profile may leave stages out; a sampler then refuses the parameters that
    they would read.

    Raise ParameterError if `stages` has a stage twice, or lacks finite_check, raw_snapshot, cut or draw, or has them
    in a wrong order: the checks come first, then edits of logits, then temperature and truncations, then the draw.
    """

    name: str
    stages: tuple[Stage, ...]
    rules: Rule = NO_RULES

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(self.stages))
        wrong = _order_problem(self.stages)
        if wrong is not None:
            raise ParameterError.single("stages", *wrong)

    def __hash__(self) -> int:
        """Return the hash of the name, in place of one over all stages: the engine looks a profile up in every step."""
        return hash(self.name)

    def __repr__(self) -> str:
        """Show the names of the stages."""
        names = " ".join(stage.name for stage in self.stages)
        return f"Profile({self.name!r}, stages={names!r}, rules={self.rules!r})"

    @property
    def lacking(self) -> frozenset[str]:
        """Names of the stages that the profile leaves out."""
        return frozenset(stage.name for stage in PIPELINE) - {stage.name for stage in self.stages}

    @property
    def order(self) -> tuple[int, ...]:
        """Numbers of the stages that a profile orders, from the first penalty to skew: `batch.stages` in C."""
        return tuple(stage.number for stage in self.stages if stage.has_place)

    @property
    def temperature_last(self) -> Profile:
        """This profile with the stage temperature moved behind all truncations, an option of many front ends."""
        names = [stage.name for stage in self.stages if 20 <= stage.number < 100 and stage.name != "temperature"]
        place = names.index("mirostat")  # which comes after temperature in every profile
        order = " ".join([*names[:place], "temperature", *names[place:]])
        return Profile(f"{self.name}+temperature_last", _ordered(order), self.rules)


def _order_problem(stages: tuple[Stage, ...]) -> tuple[object, str] | None:
    """Return the value and the rule that an order of stages breaks; None if it breaks none."""
    unknown = [stage for stage in stages if stage not in PIPELINE]
    if unknown:
        return unknown[0], "must be stages of decoding.sampling.stages.PIPELINE"
    names = [stage.name for stage in stages]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        return twice[0], "must have each stage at most once"
    for required in ("finite_check", "raw_snapshot", "cut", "draw"):
        if required not in names:
            return " ".join(names), f"must have the stage {required}"
    parts = [bisect(_PARTS, stage.number) for stage in stages]
    for place, name in enumerate(names):
        if parts[place] < max(parts[:place], default=0):
            return name, f"must come before {names[parts.index(parts[place] + 1)]}: {_PART_RULE}"
    if names[:2] != ["finite_check", "raw_snapshot"] or names[parts.index(3)] != "cut" or names[-1] != "draw":
        return " ".join(names), _PART_RULE
    return None


def ignored_parameter(params: SamplingParams, lacking: Collection[str]) -> str | None:
    """Return the name of a parameter that is set and that only a missing stage would read; None if there is none."""
    for name, row in PARAMETERS.items():
        if row.stage in lacking and getattr(params, name) != row.default:
            return name
    return None


_BY_NAME = {stage.name: stage for stage in PIPELINE}

_PLACED = tuple(stage for stage in PIPELINE if 20 <= stage.number < 100)
_BIAS_FIRST = "logit_bias repetition_penalty frequency_presence dry context_frequency_penalty hard_masks"
"""Stage order of peers that add the bias to the model's own logits."""


def _ordered(*names: str) -> tuple[Stage, ...]:
    """Return all stages, those between the raw snapshot and the cut in the order of `names` (separated by blanks).

    A stage that `names` lacks follows the stage that it follows by default.
    """
    order = " ".join(names).split()
    for before, stage in pairwise((PIPELINE[1], *_PLACED)):
        if stage.name not in order:
            order.insert(order.index(before.name) + 1 if before.name in order else 0, stage.name)
    return (*PIPELINE[:2], *(_BY_NAME[name] for name in order), *PIPELINE[2 + len(_PLACED) :])


_OPENAI = Profile("openai", PIPELINE, Rule(0))

_TRANSFORMERS = Profile(
    "transformers",
    _ordered(
        _BIAS_FIRST,
        "temperature top_h p_less min_k tfs top_k top_p min_p typical_p top_n_sigma epsilon_cutoff eta_cutoff top_a",
        "xtc mirostat",
    ),
    Rule.KEEP_TIES,
)
"""`generate` of transformers 5 (GenerationMixin._get_logits_processor); logit_bias is its sequence_bias."""

_LLAMA_CPP = Profile(
    "llama_cpp",
    _ordered(
        _BIAS_FIRST,
        "top_h p_less min_k top_n_sigma top_k tfs typical_p top_p min_p epsilon_cutoff eta_cutoff top_a xtc",
        "temperature mirostat",
    ),
    Rule.TYPICAL_EXCEEDS | Rule.PENALTIES_IN_SCOPE,
)
"""llama.cpp's default chain (common_params_sampling::samplers): truncation at T = 1, temperature last.

tfs is where llama.cpp had it until October 2024.
"""

_VLLM = Profile(
    "vllm",
    _ordered(
        _BIAS_FIRST,
        "temperature top_h p_less min_k tfs min_p top_k top_p typical_p top_n_sigma epsilon_cutoff eta_cutoff top_a",
        "xtc mirostat",
    ),
    Rule.KEEP_TIES,
)
"""vLLM's V1 sampler (vllm/v1/sample/sampler.py): min_p is one of its argmax-invariant processors, before top_k."""

_MLX_LM = Profile(
    "mlx_lm",
    _ordered(
        _BIAS_FIRST,
        "top_h p_less min_k tfs top_p min_p xtc top_k typical_p top_n_sigma epsilon_cutoff eta_cutoff top_a",
        "temperature mirostat",
    ),
    Rule.PENALTIES_IN_SCOPE | Rule.TOP_P_TIES | Rule.XTC_TIES,
)
"""mlx-lm's make_sampler and make_logits_processors (mlx_lm/sample_utils.py): truncation at T = 1, temperature last."""

_SGLANG = Profile(
    "sglang",
    _ordered(
        "frequency_presence repetition_penalty dry context_frequency_penalty logit_bias hard_masks",
        "temperature top_h p_less min_k tfs top_p top_k min_p typical_p top_n_sigma epsilon_cutoff eta_cutoff top_a",
        "xtc mirostat",
    ),
    Rule.TOP_P_EXCEEDS,
)
"""SGLang's Sampler (sglang/srt/layers/sampler.py): top_p sees the whole distribution, beside top_k."""

_EXLLAMAV2 = Profile(
    "exllamav2",
    _ordered(
        "repetition_penalty frequency_presence context_frequency_penalty logit_bias dry hard_masks",
        "temperature top_h p_less min_k top_k top_p top_a min_p tfs typical_p top_n_sigma epsilon_cutoff eta_cutoff",
        "xtc mirostat",
    ),
    Rule.PENALTIES_IN_SCOPE,
)
"""ExLlamaV2's sample_basic (exllamav2_ext/ext_sampling.cpp), after the penalties of its sampler.py."""

_NAMED = (_OPENAI, _TRANSFORMERS, _LLAMA_CPP, _VLLM, _MLX_LM, _SGLANG, _EXLLAMAV2)
_TEMPERED_FIRST = (_OPENAI, _TRANSFORMERS, _VLLM, _SGLANG, _EXLLAMAV2)

PROFILES: dict[str, Profile] = {
    profile.name: profile for profile in (*_NAMED, *(one.temperature_last for one in _TEMPERED_FIRST))
}
"""Profiles by name, for `Sampler(vocab_size, profile=name)`; "openai" is the default.

A profile whose temperature comes first has a twin, "<name>+temperature_last".
"""
