"""SamplingParams, and with it the one table of parameters: the body of the class is the table.

A row is a dataclass field whose right-hand side is `parameter(default, domain, help, ...)` (decoding.parameters has the
columns). Editors and type checkers see an ordinary keyword-only dataclass; everything else that knows a parameter's
range, help text or stage reads PARAMETERS (docs/adr/0012-one-table-of-parameters.md).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from decoding.domains import (
    AT_LEAST_ONE,
    COUNT,
    FINITE,
    MODES,
    NOT_NEGATIVE,
    P_LESS,
    POSITIVE,
    SCOPE,
    SHARE,
    Boolean,
    Integer,
    LogitBias,
    Number,
    OrNone,
    Strings,
    Text,
    TokenIds,
    TokenSequences,
)
from decoding.errors import ParameterError, Problem, shown
from decoding.object_domains import RepetitionDetection, Structured
from decoding.parameters import Parameter, described, parameter, table_of
from decoding.types import LogprobsMode, PLessRule, RepetitionScope, TokenSequence
from decoding.validation import INT32_MAX, RuleError, to_float32

__all__ = ["INT32_MAX", "PARAMETERS", "SamplingParams", "to_float32", "with_seed"]

MAX_LOGPROB_TOKEN_IDS = 128
"""Maximum number of logprob_token_ids; each costs a pass over the row of logits."""

_USUAL_PENALTY, _PENALTY_CORNERS = (-2.0, 2.0), (0.5, -0.5, 2.0)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SamplingParams:
    """Sampling and decoding parameters of one request.

    Each takes its quantity's mathematical domain; the HTTP API has narrower ranges. All problems are reported together
    in one ParameterError. Instances are immutable, hashable and picklable. docs/semantics.md defines every parameter.

    Sequences are kept as tuples without duplicates; a string alone is a list of one, and None an empty list. Breakers
    and bad words are text, which the engine tokenizes, or token ids. Floats are rounded to float32 when a
    SamplingState is made, so each must be finite as a float32.
    """

    max_tokens: int | None = parameter(
        16,
        OrNone(Integer(0)),
        "generate at most this many tokens",
        group="Length and choices",
        none="to the end of the context",
        standard=True,
    )
    min_tokens: int = parameter(
        0, Integer(0), "ban stop ids and EOS, and ignore stop strings, before this many tokens", stage="hard_masks"
    )
    n: int = parameter(1, COUNT, "return this many completions per prompt", standard=True, api=Integer(1, 128))
    best_of: int | None = parameter(
        None,
        OrNone(Integer(0)),
        "generate this many candidates per prompt and return the n with the highest mean log-probability; 0 is n",
        stage="raw_snapshot",
        none="n",
        standard=True,
        api=Integer(0, 20),
    )
    seed: int | None = parameter(
        None,
        OrNone(Integer(-(2**63), 2**63 - 1)),
        "the same request with the same seed gives the same completion",
        stage="draw",
        none="chosen at random",
        standard=True,
    )

    # In the order of the pipeline (decoding.sampling.stages)
    repetition_penalty: float = parameter(
        1.0,
        POSITIVE,
        "divide positive logits of seen tokens by this and multiply negative ones; 1 is off",
        group="Penalties and bans",
        stage="repetition_penalty",
        source="Keskar et al. 2019, CTRL",
        standard=True,
        usual=(0.125, 8.0),
        corners=(1.1, 0.5),
    )
    repetition_penalty_scope: RepetitionScope | int = parameter(
        "prompt+output",
        SCOPE,
        "the tokens that repetition_penalty looks at: prompt+output, output, or a number of last tokens",
        stage="repetition_penalty",
        usual=(1, 30),
    )
    frequency_penalty: float = parameter(
        0.0,
        FINITE,
        "subtract this from a token's logit for each time that it was generated",
        stage="frequency_presence",
        source="OpenAI API",
        standard=True,
        api=Number(-2, 2),
        usual=_USUAL_PENALTY,
        corners=_PENALTY_CORNERS,
    )
    presence_penalty: float = parameter(
        0.0,
        FINITE,
        "subtract this from the logit of each token that was generated",
        stage="frequency_presence",
        source="OpenAI API",
        standard=True,
        api=Number(-2, 2),
        usual=_USUAL_PENALTY,
        corners=_PENALTY_CORNERS,
    )
    dry_multiplier: float = parameter(
        0.0,
        NOT_NEGATIVE,
        "DRY: the penalty for continuing the shortest repetition that counts; 0 is off",
        stage="dry",
        source="p-e-w 2024, text-generation-webui",
        usual=(0.0, 4.0),
        corners=(0.8, 1e38),
    )
    dry_base: float = parameter(
        1.75,
        AT_LEAST_ONE,
        "DRY: the factor by which the penalty grows with each token of the repetition",
        stage="dry",
        usual=(1.0, 4.0),
        corners=(1.0, 1.75, 1e30),
    )
    dry_allowed_length: int = parameter(
        2, COUNT, "DRY: the length of the shortest repetition that counts", stage="dry", usual=(1, 4)
    )
    dry_range: int | None = parameter(
        None,
        OrNone(COUNT),
        "DRY: look for repetitions in this many last tokens",
        stage="dry",
        none="all of them",
        c_none=INT32_MAX,
        usual=(1, 30),
    )
    dry_sequence_breakers: Sequence[TokenSequence] = parameter(
        (), TokenSequences(), "DRY: no repetition reaches across one of these", stage="dry"
    )
    context_frequency_penalty: float = parameter(
        0.0,
        FINITE,
        "subtract this from a token's logit for each time that it is in prompt and output",
        stage="context_frequency_penalty",
        usual=_USUAL_PENALTY,
        corners=_PENALTY_CORNERS,
    )
    logit_bias: Mapping[int, float] | Sequence[tuple[int, float]] = parameter(
        (),
        LogitBias(),
        "add these numbers to the logits of these token ids",
        stage="logit_bias",
        source="OpenAI API",
        standard=True,
        api=LogitBias(Number(-100, 100)),
    )
    allowed_token_ids: Sequence[int] | None = parameter(
        None, TokenIds(required=True), "ban all other tokens", stage="hard_masks", none="all tokens"
    )
    banned_token_ids: Sequence[int] = parameter((), TokenIds(), "never draw these tokens", stage="hard_masks")
    no_repeat_ngram_size: int | None = parameter(
        None,
        OrNone(COUNT),
        "ban every token that would repeat an n-gram of this size",
        stage="hard_masks",
        source="Paulus et al. 2017",
        usual=(1, 4),
    )
    bad_words: Sequence[TokenSequence] = parameter(
        (), TokenSequences(), "never complete one of these sequences", stage="hard_masks", source="transformers"
    )

    temperature: float = parameter(
        1.0,
        NOT_NEGATIVE,
        "divide the logits by this; 0 is greedy",
        group="Temperature",
        stage="temperature",
        standard=True,
        api=Number(0, 2),
        usual=(0.0, 4.0),
        corners=(0.0, 0.5, 1e-7, 2.0**-20, 2.0**60, 1e38),
    )
    dynatemp_range: float = parameter(
        0.0,
        NOT_NEGATIVE,
        "let the entropy choose the temperature, at most this far from `temperature`; 0 is off",
        stage="temperature",
        source="kalomaze 2023, llama.cpp",
        usual=(0.0, 4.0),
        corners=(0.5, 1e-7),
    )
    dynatemp_exponent: float = parameter(
        1.0,
        POSITIVE,
        "the power of the normalised entropy that dynatemp_range goes by",
        stage="temperature",
        usual=(0.25, 8.0),
        corners=(1.0, 2.0),
    )
    smoothing_factor: float = parameter(
        0.0,
        NOT_NEGATIVE,
        "the factor of quadratic smoothing; 0 is off",
        stage="temperature",
        source="kalomaze 2024, text-generation-webui",
        usual=(0.0, 8.0),
        corners=(0.25, 1.0),
    )
    smoothing_curve: float = parameter(
        1.0, Number(1, 3), "the curve of quadratic smoothing: 1 is a parabola, 3 a cubic", stage="temperature"
    )

    # Each on what the stages before it kept
    top_h: float = parameter(
        1.0,
        SHARE,
        "keep the most likely tokens while their entropy is at most this share of all; 1 is off, 0 keeps one token",
        group="Truncation",
        stage="top_h",
        source="Potraghloo et al. 2025",
        corners=(0.4, 0.0),
    )
    p_less: PLessRule | None = parameter(
        None,
        OrNone(P_LESS),
        "keep tokens of at least the probability that two draws are equal (plain), or the relaxed threshold (norm)",
        stage="p_less",
        source="Tan et al. 2025",
    )
    min_k: float | None = parameter(
        None,
        OrNone(NOT_NEGATIVE),
        "min-k: cut where the sorted logits fall steepest, but keep at least this over their range; 3 is usual",
        stage="min_k",
        source="Ding et al. 2026",
        c_none=float("inf"),
        usual=(0.0, 40.0),
        corners=(0.0, 3.0),
    )
    tfs: float = parameter(
        1.0,
        SHARE,
        "tail-free sampling: keep tokens up to this share of the curvature of the sorted probabilities; 1 is off",
        stage="tfs",
        source="Bricken 2019, text-generation-webui",
        corners=(0.9, 0.0),
    )
    top_k: int | None = parameter(
        None, OrNone(COUNT), "keep this many of the most likely tokens", stage="top_k", c_none=INT32_MAX
    )
    top_p: float = parameter(
        1.0,
        SHARE,
        "keep the most likely tokens until their probabilities sum to this; 1 is off, 0 keeps one token",
        stage="top_p",
        source="Holtzman et al. 2020",
        standard=True,
    )
    min_p: float = parameter(
        0.0,
        SHARE,
        "keep tokens at least this many times as likely as the most likely one; 0 is off",
        stage="min_p",
        source="Nguyen et al. 2024",
        usual=(0.0, 2.0**-6),
    )
    typical_p: float = parameter(
        1.0,
        SHARE,
        "keep the tokens whose surprise is nearest to the entropy until their probabilities sum to this; 1 is off",
        stage="typical_p",
        source="Meister et al. 2023",
    )
    top_n_sigma: float | None = parameter(
        None,
        OrNone(NOT_NEGATIVE),
        "keep logits at most this many standard deviations below the largest",
        stage="top_n_sigma",
        source="Tang et al. 2024",
        c_none=float("inf"),
        usual=(0.0, 6.0),
        corners=(0.0, 1.0),
    )
    epsilon_cutoff: float = parameter(
        0.0,
        SHARE,
        "keep tokens of at least this probability; 0 is off",
        stage="epsilon_cutoff",
        source="Hewitt et al. 2022",
        usual=(0.0, 2.0**-6),
    )
    eta_cutoff: float = parameter(
        0.0,
        SHARE,
        "keep tokens of at least this probability, or less if the entropy is high; 0 is off",
        stage="eta_cutoff",
        source="Hewitt et al. 2022",
        usual=(0.0, 2.0**-6),
    )
    top_a: float = parameter(
        0.0,
        SHARE,
        "keep tokens whose probability is at least this times the square of the largest; 0 is off",
        stage="top_a",
        source="BlinkDL, RWKV-LM",
        usual=(0.0, 2.0**-6),
    )
    xtc_probability: float = parameter(
        0.0,
        SHARE,
        "XTC: the probability with which the most likely tokens are excluded; 0 is off",
        stage="xtc",
        source="p-e-w 2024, text-generation-webui",
    )
    xtc_threshold: float = parameter(
        0.1, SHARE, "XTC: the least probability of a token that is excluded", stage="xtc", usual=(0.0, 2.0**-6)
    )
    mirostat_tau: float | None = parameter(
        None,
        OrNone(POSITIVE),
        "mirostat: the target surprise in bits; replaces every other truncation",
        stage="mirostat",
        source="Basu et al. 2021, llama.cpp",
        usual=(0.125, 12.0),
        corners=(0.5, 5.0),
    )
    mirostat_eta: float = parameter(
        0.1, POSITIVE, "mirostat: the learning rate", stage="mirostat", usual=(0.01, 1.0), corners=(0.1, 1.0)
    )
    mirostat_version: int = parameter(
        2,
        Integer(1, 2),
        "mirostat: 1 keeps a number of tokens by an estimate of Zipf's exponent, 2 those below the bound of surprise",
        stage="mirostat",
        source="Basu et al. 2021, llama.cpp",
    )

    adaptive_p_target: float | None = parameter(
        None,
        OrNone(SHARE),
        "adaptive-p: prefer tokens near this probability, and keep the average of the drawn ones there",
        group="Reshaping",
        stage="adaptive_p",
        source="llama.cpp",
        corners=(0.3, 0.55),
    )
    adaptive_p_decay: float = parameter(
        0.9,
        SHARE,
        "adaptive-p: the weight of the past in the average, per token; 1 never moves the average",
        stage="adaptive_p",
        corners=(0.9, 0.0),
    )
    skew: float = parameter(
        0.0,
        Number(-5, 5),
        "move the draw to less likely tokens (above 0) or to more likely ones (below 0); 0 is off",
        stage="skew",
        source="ExLlamaV2",
        corners=(0.5, -0.5),
    )

    stop: str | Sequence[str] = parameter(
        (), Strings(), "end the text before the first of these strings", group="Stopping and output", standard=True
    )
    stop_token_ids: Sequence[int] = parameter((), TokenIds(), "end the text at one of these tokens")
    include_stop_str_in_output: bool = parameter(False, Boolean(), "keep the stop string in the text")
    ignore_eos: bool = parameter(False, Boolean(), "go on after the model's end-of-sequence token")
    logprobs: int | None = parameter(
        None,
        OrNone(Integer(0)),
        "report log-probabilities of each token and of this many of the most likely tokens",
        stage="raw_snapshot",
        standard=True,
        api=Integer(0, 5),
    )
    logprobs_mode: LogprobsMode | Sequence[LogprobsMode] = parameter(
        "raw", MODES, "the distributions that log-probabilities refer to; the first orders the most likely tokens"
    )
    logprob_token_ids: Sequence[int] = parameter(
        (),
        TokenIds(),
        "report the log-probabilities of these token ids, too, at each token",
        source="vLLM",
    )
    echo: bool = parameter(False, Boolean(), "put the prompt before the completion", standard=True)
    suffix: str | None = parameter(
        None, Text(), "the text that follows the completion (fill in the middle)", standard=True
    )
    skip_special_tokens: bool = parameter(True, Boolean(), "leave special tokens out of the text")
    parse_special: bool = parameter(
        True,
        Boolean(),
        "prompt or suffix that spells a special token becomes that token; off, it is plain text (for untrusted text)",
    )

    structured: Mapping[str, Any] | tuple[str, Any] | None = parameter(
        None,
        OrNone(Structured()),
        "make the text a sentence of this grammar: a JSON Schema, a regular expression, one of a few texts, or a Lark"
        " grammar",
        group="Constraints of the text",
        source="llguidance",
    )
    token_healing: bool = parameter(
        False,
        Boolean(),
        "take back the prompt's last tokens, and let the model spell their bytes and what follows with any tokens",
        source="Lundberg 2023, guidance",
    )
    banned_strings: str | Sequence[str] = parameter(
        (),
        Strings(),
        "never let the text contain one of these strings: go back to where it began, and draw another token there",
        source="TabbyAPI, exllamav2",
    )
    repetition_detection: Mapping[str, int] | tuple[int, int, int] | None = parameter(
        None,
        OrNone(RepetitionDetection()),
        "end the text once the last tokens are the same pattern at least min_count times in a row",
        source="vLLM",
    )

    def __post_init__(self) -> None:
        problems: list[Problem] = []
        for name, row in PARAMETERS.items():
            value = getattr(self, name)
            try:
                object.__setattr__(self, name, row.domain(value))
            except RuleError as error:
                problems.append(Problem(name, shown(value), str(error)))
        if not problems:
            problems = list(self._cross_checks())
        if problems:
            raise ParameterError(problems)

    def __repr__(self) -> str:
        """Show the parameters that differ from their defaults."""
        values = ((name, getattr(self, name), row.default) for name, row in PARAMETERS.items())
        changed = [f"{name}={value!r}" for name, value, default in values if value != default]
        return f"SamplingParams({', '.join(changed)})"

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters that differ from their defaults as a dict for JSON.

        logit_bias maps token ids as text, as in the HTTP API; seeds have up to 64 bits, which JavaScript rounds.
        """
        changed = {name: getattr(self, name) for name, row in PARAMETERS.items() if getattr(self, name) != row.default}
        plain = {name: plain_value(value) for name, value in changed.items() if name != "logit_bias"}
        bias = {str(token_id): value for token_id, value in dict(self.logit_bias).items()}
        return plain | ({"logit_bias": bias} if bias else {})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SamplingParams:
        """Return the parameters that `to_dict` saved. Raise ParameterError for unknown names and bad values."""
        names = [name for name in values if name not in PARAMETERS]
        unknown = [Problem(shown(name), shown(values[name]), "must be the name of a parameter") for name in names]
        if unknown:
            raise ParameterError(unknown)
        given = dict(values)
        if isinstance(bias := given.get("logit_bias"), Mapping):
            given["logit_bias"] = {number_of_key(key): value for key, value in bias.items()}
        return cls(**given)

    def _cross_checks(self) -> Iterable[Problem]:
        """Check the rules between parameters that are valid by themselves."""
        if self.best_of and self.best_of < self.n:
            yield Problem("best_of", shown(self.best_of), f"must be at least n={self.n}")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            yield Problem("min_tokens", shown(self.min_tokens), f"must be at most max_tokens={self.max_tokens}")
        if self.logprob_token_ids and self.logprobs is None:
            yield Problem("logprob_token_ids", shown(self.logprob_token_ids), "must come with logprobs, 0 at least")
        if len(self.logprob_token_ids) > MAX_LOGPROB_TOKEN_IDS:
            yield Problem(
                "logprob_token_ids",
                f"{len(self.logprob_token_ids)} ids",
                f"must be at most {MAX_LOGPROB_TOKEN_IDS} ids",
            )
        if self.token_healing and self.suffix is not None:
            yield Problem("token_healing", "True", "must be False with suffix: the text goes on behind a marker")
        if self.token_healing and self.structured is not None:
            yield Problem(
                "token_healing", "True", "must be False with structured: a grammar begins with its first token"
            )

    @property
    def num_candidates(self) -> int:
        """Sequences to generate per prompt: best_of, or n if best_of is None or 0."""
        return self.best_of or self.n

    @property
    def ranks_candidates(self) -> bool:
        """Return True if candidates are ranked; with best_of = n they are returned in their own order."""
        return self.num_candidates > self.n

    @property
    def logprobs_modes(self) -> tuple[LogprobsMode, ...]:
        """`logprobs_mode` as a tuple, even if it is one mode."""
        modes = self.logprobs_mode
        return (modes,) if isinstance(modes, str) else tuple(modes)


def with_seed(params: SamplingParams, seed: int) -> SamplingParams:
    """Return the same parameters with this seed, a signed 64-bit integer; nothing is checked again."""
    copied = copy.copy(params)
    object.__setattr__(copied, "seed", seed)
    return copied


def plain_value(value: Any) -> Any:
    """Return a parameter's value with lists in place of tuples."""
    return [plain_value(item) for item in value] if isinstance(value, tuple) else value


def number_of_key(key: Any) -> Any:
    """Return a token id that was a key of a JSON object; other keys as they are."""
    return int(key) if isinstance(key, str) and key.isascii() and key.isdigit() else key


PARAMETERS: dict[str, Parameter] = table_of(fields(SamplingParams))
"""The table: every parameter by name, in the order of SamplingParams."""

SamplingParams.__doc__ = f"{SamplingParams.__doc__}\n    Parameters\n\n{described(PARAMETERS.values())}\n    "
