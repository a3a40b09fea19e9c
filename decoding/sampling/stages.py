"""THE order of the pipeline from logits to token, as data.

The float64 reference loops over the stages of a profile; the C kernel's stage numbers and rules (DECODING_STAGE_* and
DECODING_RULE_* in decoding.h) and the tables in docs/semantics.md are tested against this file. A stage's name is the
same word everywhere: `apply_<name>` in the reference, DECODING_STAGE_<NAME> in C, `stage` in errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of the pipeline: its number, shared with C, its name, and the parameters that drive it.

    The default order is that of the numbers; a tenth of a number is the stage's number in docs/semantics.md.
    """

    number: int
    name: str
    parameters: tuple[str, ...]


PIPELINE: tuple[Stage, ...] = (
    Stage(0, "finite_check", ()),
    Stage(10, "raw_snapshot", ("logprobs", "best_of")),
    Stage(20, "repetition_penalty", ("repetition_penalty", "repetition_penalty_scope")),
    Stage(30, "frequency_presence", ("frequency_penalty", "presence_penalty")),
    Stage(35, "dry", ("dry_multiplier", "dry_base", "dry_allowed_length", "dry_range", "dry_sequence_breakers")),
    Stage(40, "context_frequency_penalty", ("context_frequency_penalty",)),
    Stage(50, "logit_bias", ("logit_bias",)),
    Stage(
        70, "hard_masks", ("allowed_token_ids", "banned_token_ids", "min_tokens", "no_repeat_ngram_size", "bad_words")
    ),
    Stage(
        80,
        "temperature",
        ("temperature", "dynatemp_range", "dynatemp_exponent", "smoothing_factor", "smoothing_curve"),
    ),
    Stage(90, "top_k", ("top_k",)),
    Stage(91, "top_p", ("top_p",)),
    Stage(92, "min_p", ("min_p",)),
    Stage(93, "typical_p", ("typical_p",)),
    Stage(94, "top_n_sigma", ("top_n_sigma",)),
    Stage(95, "epsilon_cutoff", ("epsilon_cutoff",)),
    Stage(96, "eta_cutoff", ("eta_cutoff",)),
    Stage(97, "top_a", ("top_a",)),
    Stage(98, "xtc", ("xtc_probability", "xtc_threshold")),
    Stage(99, "mirostat", ("mirostat_tau", "mirostat_eta")),
    Stage(100, "cut", ()),
    Stage(110, "draw", ("seed",)),
)
"""Number 60 is kept free for custom processors, which run between bias and masks on a dense copy of the row."""

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
    """A peer's pipeline: all stages, in its order, and the boundary rules in which it differs.

    Stages that the peer does not have stand among its own much as they do by default, so that no parameter is without
    effect in any profile. hard_masks is the last edit in all of them.
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
    """All stages, those between the raw snapshot and the cut in the order of `names`, words separated by blanks."""
    return (*PIPELINE[:2], *(_BY_NAME[name] for name in " ".join(names).split()), *PIPELINE[-2:])


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
"""What `Sampler(vocab_size, profile=name)` may name; "openai" is the default."""
