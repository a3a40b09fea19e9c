"""The order of the pipeline from logits to token, as data.

The float64 reference loops over the stages of a profile; the C kernel's stage numbers and rules (DECODING_STAGE_* and
DECODING_RULE_* in decoding.h) and the tables in docs/semantics.md are tested against this file. A stage's name is the
same word everywhere: `apply_<name>` in the reference, DECODING_STAGE_<NAME> in C, `stage` in errors and in the table of
parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from itertools import pairwise

from decoding.params import PARAMETERS


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
    Stage(110, "draw"),
)

RAW_SNAPSHOT, PROCESSORS = 10, 60
"""Numbers of the snapshot and of custom processors, which run between bias and masks on a dense copy of the row.

The stages between the two edit the logits of single tokens.
"""

STAGE_NAMES: dict[int, str] = {stage.number: stage.name for stage in PIPELINE}

GREEDY_TEMPERATURE = 2.0**-20
"""Below this temperature the distribution is a point: the stages from there to the draw are skipped."""

CUT_LOG2 = -40
"""Weights below 2**CUT_LOG2 of the largest are zero by definition."""


class Rule(IntFlag):
    """Boundary rules in which peers differ from the default; the values are those of DECODING_RULE_* in C."""

    KEEP_TIES = 1
    """top_k, typical_p, and the one token that epsilon_cutoff and eta_cutoff always keep: with all their ties."""
    TYPICAL_EXCEEDS = 2
    """typical_p stops where its mass is above p; at p or above otherwise."""
    PENALTIES_IN_SCOPE = 4
    """frequency and presence count in the scope of the repetition penalty, not in the output."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A peer's pipeline: all stages, in the peer's order, and the boundary rules in which it differs.

    A stage that the peer does not have follows the stages that it follows by default, so that no parameter is without
    effect in any profile. hard_masks is the last edit in every profile.
    """

    name: str
    stages: tuple[Stage, ...]
    rules: Rule

    @property
    def order(self) -> tuple[int, ...]:
        """Numbers of the stages that can change place, from the first penalty to mirostat: `batch.stages` in C."""
        return tuple(stage.number for stage in self.stages if 20 <= stage.number < 100)


_BY_NAME = {stage.name: stage for stage in PIPELINE}

_BIAS_FIRST = "logit_bias repetition_penalty frequency_presence dry context_frequency_penalty hard_masks"
"""All three peers add the bias to the model's own logits."""


def _ordered(*names: str) -> tuple[Stage, ...]:
    """Return all stages, those between the raw snapshot and the cut in the order of `names` (separated by blanks).

    A stage that `names` lacks follows the stage that it follows by default.
    """
    order = " ".join(names).split()
    for before, stage in pairwise(PIPELINE[1:-2]):
        if stage.name not in order:
            order.insert(order.index(before.name) + 1 if before.name in order else 0, stage.name)
    return (*PIPELINE[:2], *(_BY_NAME[name] for name in order), *PIPELINE[-2:])


_OPENAI = Profile("openai", PIPELINE, Rule(0))

_TRANSFORMERS = Profile(
    "transformers",
    _ordered(
        _BIAS_FIRST,
        "temperature top_k top_p min_p typical_p top_n_sigma epsilon_cutoff eta_cutoff top_a xtc mirostat",
    ),
    Rule.KEEP_TIES,
)
"""`generate` of transformers 5 (GenerationMixin._get_logits_processor); logit_bias is its sequence_bias."""

_LLAMA_CPP = Profile(
    "llama_cpp",
    _ordered(
        _BIAS_FIRST,
        "top_n_sigma top_k typical_p top_p min_p epsilon_cutoff eta_cutoff top_a xtc temperature mirostat",
    ),
    Rule.TYPICAL_EXCEEDS | Rule.PENALTIES_IN_SCOPE,
)
"""llama.cpp's default chain (common_params_sampling::samplers): truncation at T = 1, temperature last."""

_VLLM = Profile(
    "vllm",
    _ordered(
        _BIAS_FIRST,
        "temperature min_p top_k top_p typical_p top_n_sigma epsilon_cutoff eta_cutoff top_a xtc mirostat",
    ),
    Rule.KEEP_TIES,
)
"""vLLM's V1 sampler (vllm/v1/sample/sampler.py): min_p is one of its argmax-invariant processors, before top_k."""

PROFILES: dict[str, Profile] = {profile.name: profile for profile in (_OPENAI, _TRANSFORMERS, _LLAMA_CPP, _VLLM)}
"""Profiles by name, for `Sampler(vocab_size, profile=name)`; "openai" is the default."""
