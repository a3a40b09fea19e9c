"""SamplingParams: what a request asks of the sampler and of the decoding loop, checked once, at the door."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

from decoding import checks
from decoding.checks import INT32_MAX, Check, RuleError, to_float32
from decoding.errors import ParameterError, Problem, shown
from decoding.types import LogprobsMode, RepetitionScope, TokenSequence

__all__ = ["INT32_MAX", "SamplingParams", "to_float32"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SamplingParams:
    """Sampling and decoding parameters of one request.

    Each takes its quantity's mathematical domain; the narrower ranges of the HTTP API are checked at the HTTP edge.
    All problems are reported together in one ParameterError. Instances are immutable, hashable and picklable.

    Length
        max_tokens: int >= 0 or None; tokens to generate at most, None is "to the end of the context".
        min_tokens: int >= 0; until so many tokens are there, stop ids and EOS are banned, stop strings ignored.
    Choices
        n: int >= 1; completions to return for each prompt.
        best_of: int >= n, None or 0 (both mean n); candidates to generate, ranked by mean raw log-probability.
        seed: signed 64-bit int or None; None takes 64 bits from the operating system and reports them.
    Distribution: edits of the logits, in the order of the pipeline (decoding.sampling.stages.PIPELINE)
        repetition_penalty: float > 0; multiplicative (Keskar et al. 2019, "CTRL"): logits of seen tokens become
            l / r when positive, l * r otherwise. Neutral 1.
        repetition_penalty_scope: "prompt+output", "output", or an int >= 1: the last so many of prompt + output.
        frequency_penalty, presence_penalty: finite float; additive, over generated tokens only. Neutral 0.
        dry_multiplier: float >= 0; DRY ("don't repeat yourself", p-e-w 2024, text-generation-webui). A token that
            would continue a repetition of n >= dry_allowed_length tokens loses multiplier * base**(n - allowed_length).
            Neutral 0.
        dry_base: float >= 1; how fast the penalty grows with the length of the repetition.
        dry_allowed_length: int >= 1; the shortest repetition whose continuation costs anything.
        dry_range: int >= 1 or None; only the last so many of prompt + output are searched, None is all of them.
        dry_sequence_breakers: sequences across which no repetition reaches.
        context_frequency_penalty: finite float; additive, per occurrence in prompt + output. Neutral 0.
        logit_bias: mapping {token id: finite float}, or pairs; added to the logits. Kept as pairs sorted by id.
        allowed_token_ids: at least one id, or None for all; every other token is banned.
        banned_token_ids: ids that are never drawn.
        no_repeat_ngram_size: int >= 1 or None; bans every token that would complete an n-gram of that size which is
            already in prompt + output (Paulus et al. 2017; transformers' NoRepeatNGramLogitsProcessor).
        bad_words: sequences that must not be completed: the last token of each is banned where the tokens before it
            are the end of prompt + output (transformers' NoBadWordsLogitsProcessor).
    Distribution: shape
        temperature: float >= 0; 0, and anything below 2**-20, is greedy.
        dynatemp_range: float >= 0; the temperature is between temperature - range (0 at least) and temperature + range,
            by the normalised entropy of the row (llama.cpp's dynamic temperature). 0 is off.
        dynatemp_exponent: float > 0; the power of the normalised entropy.
        smoothing_factor: float >= 0; quadratic smoothing (kalomaze 2024, text-generation-webui), before temperature:
            d = l - max becomes d**2 * (s*f*d - k*f) with k = (3 - curve) / 2, s = (curve - 1) / 2. 0 is off.
        smoothing_curve: float in [1, 3]; 1 is a parabola, 3 a cubic.
    Distribution: truncation, each on what the ones before it kept
        top_k: int >= 1 or None (off); exactly the k first of the total order (higher logit, then lower id).
        top_p: float in [0, 1]; shortest prefix of that order with mass >= top_p (Holtzman et al. 2020).
            0 keeps one token, 1 is off.
        min_p: float in [0, 1]; tokens with at least min_p times the largest probability (Nguyen et al. 2024). 0 is off.
        typical_p: float in [0, 1]; tokens whose surprise -ln p is nearest to the entropy, until their mass reaches
            typical_p (Meister et al. 2023, "Locally Typical Sampling"). 0 keeps one token, 1 is off.
        top_n_sigma: float >= 0 or None (off); logits of at least max - n * standard deviation (Tang et al. 2024,
            "Top-nsigma").
        epsilon_cutoff: float in [0, 1]; tokens with p >= epsilon (Hewitt et al. 2022). 0 is off.
        eta_cutoff: float in [0, 1]; tokens with p >= min(eta, sqrt(eta) * exp(-entropy)) (Hewitt et al. 2022).
            0 is off.
        top_a: float in [0, 1]; tokens with p >= top_a * (largest p)**2 (BlinkDL, RWKV-LM). 0 is off.
        xtc_probability: float in [0, 1]; exclude top choices (p-e-w 2024, text-generation-webui): with this
            probability, of the tokens with p >= xtc_threshold only the least likely stays. 0 is off.
        xtc_threshold: float in [0, 1]; above 0.5 no two tokens reach it, and nothing is excluded.
        mirostat_tau: float > 0 or None (off); target surprise in bits (Basu et al. 2021, "Mirostat", version 2, as in
            llama.cpp). Takes the place of every truncation from top_k to XTC.
        mirostat_eta: float > 0; the learning rate of mirostat's bound.
    Stopping
        stop: a string or several, none empty; text ends before the first match.
        stop_token_ids: ids that end a sequence.
        include_stop_str_in_output: keep the stop string in the text.
        ignore_eos: do not end at the model's end-of-sequence tokens.
    Output
        logprobs: int >= 0 or None; how many of the most likely tokens to report besides the drawn one.
        logprobs_mode: "raw", "penalized", "scaled" or "final" (docs/semantics.md, section 5), or several of them, of
            which the first orders the most likely tokens; echoed prompts are raw.
        echo: the prompt comes first in the result.
        suffix: text that follows the completion (fill-in-the-middle).
        skip_special_tokens: special tokens have no bytes in the text.

    Breakers and bad words are each a string (the engine tokenizes it) or a sequence of token ids. Sequences are kept
    as tuples (a lone string as a tuple of one), duplicates dropped; None is an empty one.
    Floats are rounded to float32 when a SamplingState is made, so each must be finite as a float32.
    """

    max_tokens: int | None = 16
    min_tokens: int = 0
    n: int = 1
    best_of: int | None = None
    seed: int | None = None
    repetition_penalty: float = 1.0
    repetition_penalty_scope: RepetitionScope | int = "prompt+output"
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_range: int | None = None
    dry_sequence_breakers: Sequence[TokenSequence] = ()
    context_frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | Sequence[tuple[int, float]] = ()
    allowed_token_ids: Sequence[int] | None = None
    banned_token_ids: Sequence[int] = ()
    no_repeat_ngram_size: int | None = None
    bad_words: Sequence[TokenSequence] = ()
    temperature: float = 1.0
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    smoothing_factor: float = 0.0
    smoothing_curve: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    top_n_sigma: float | None = None
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    top_a: float = 0.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    mirostat_tau: float | None = None
    mirostat_eta: float = 0.1
    stop: str | Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    logprobs: int | None = None
    logprobs_mode: LogprobsMode | Sequence[LogprobsMode] = "raw"
    echo: bool = False
    suffix: str | None = None
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        problems: list[Problem] = []
        for field in fields(self):
            value = getattr(self, field.name)
            try:
                object.__setattr__(self, field.name, _CHECKS[field.name](value))
            except RuleError as error:
                problems.append(Problem(field.name, shown(value), str(error)))
        if not problems:
            problems = list(self._cross_checks())
        if problems:
            raise ParameterError(problems)

    def __repr__(self) -> str:
        """Only what differs from the defaults, so that a log line says what was asked for."""
        given = ((f.name, getattr(self, f.name)) for f in fields(self))
        changed = [f"{name}={value!r}" for name, value in given if value != _DEFAULTS[name]]
        return f"SamplingParams({', '.join(changed)})"

    def _cross_checks(self) -> Iterable[Problem]:
        """Rules between parameters, looked at once each parameter is well-formed by itself."""
        if self.best_of and self.best_of < self.n:
            yield Problem("best_of", shown(self.best_of), f"must be at least n={self.n}")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            yield Problem("min_tokens", shown(self.min_tokens), f"must be at most max_tokens={self.max_tokens}")

    @property
    def num_candidates(self) -> int:
        """Sequences to generate for each prompt: best_of, or n where best_of is None or 0."""
        return self.best_of or self.n

    @property
    def ranks_candidates(self) -> bool:
        """Whether best_of ranks anything: best_of = n keeps the candidates in their order."""
        return self.num_candidates > self.n

    @property
    def logprobs_modes(self) -> tuple[LogprobsMode, ...]:
        """`logprobs_mode` as a tuple, whether it is one or several."""
        modes = self.logprobs_mode
        return (modes,) if isinstance(modes, str) else tuple(modes)


_DEFAULTS: dict[str, object] = {f.name: f.default for f in fields(SamplingParams)}

_CHECKS: dict[str, Check] = {
    "max_tokens": checks.or_none(checks.integer(0)),
    "min_tokens": checks.integer(0),
    "n": checks.integer(1),
    "best_of": checks.or_none(checks.integer(0)),
    "seed": checks.or_none(checks.integer(-(2**63), 2**63 - 1)),
    "repetition_penalty": checks.positive,
    "repetition_penalty_scope": checks.repetition_scope,
    "frequency_penalty": checks.finite,
    "presence_penalty": checks.finite,
    "dry_multiplier": checks.not_negative,
    "dry_base": checks.at_least_one,
    "dry_allowed_length": checks.integer(1),
    "dry_range": checks.or_none(checks.integer(1)),
    "dry_sequence_breakers": checks.token_sequences,
    "context_frequency_penalty": checks.finite,
    "logit_bias": checks.logit_bias,
    "allowed_token_ids": checks.some_token_ids,
    "banned_token_ids": checks.token_ids,
    "no_repeat_ngram_size": checks.or_none(checks.integer(1)),
    "bad_words": checks.token_sequences,
    "temperature": checks.not_negative,
    "dynatemp_range": checks.not_negative,
    "dynatemp_exponent": checks.positive,
    "smoothing_factor": checks.not_negative,
    "smoothing_curve": checks.real_in(1, 3),
    "top_k": checks.or_none(checks.integer(1)),
    "top_p": checks.real_in(0, 1),
    "min_p": checks.real_in(0, 1),
    "typical_p": checks.real_in(0, 1),
    "top_n_sigma": checks.or_none(checks.not_negative),
    "epsilon_cutoff": checks.real_in(0, 1),
    "eta_cutoff": checks.real_in(0, 1),
    "top_a": checks.real_in(0, 1),
    "xtc_probability": checks.real_in(0, 1),
    "xtc_threshold": checks.real_in(0, 1),
    "mirostat_tau": checks.or_none(checks.positive),
    "mirostat_eta": checks.positive,
    "stop": checks.strings,
    "stop_token_ids": checks.token_ids,
    "include_stop_str_in_output": checks.boolean,
    "ignore_eos": checks.boolean,
    "logprobs": checks.or_none(checks.integer(0)),
    "logprobs_mode": checks.logprobs_mode,
    "echo": checks.boolean,
    "suffix": checks.text_or_none,
    "skip_special_tokens": checks.boolean,
}
