"""The probes of `find_faults`: rows of logits, each with its rule and the reason for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from decoding.params import SamplingParams
from decoding.sampling.sampler import SamplingState
from decoding.testing.statistics import Array


@dataclass(frozen=True, eq=False)
class Probe:
    """One row in one state, with the rule that it tests and the damage if that is broken.

    exact: nothing in this row rounds, so ties must be decided exactly.
    """

    id: str
    sentence: str
    reason: str
    logits: Array
    params: dict[str, Any] = field(default_factory=dict)
    prompt: tuple[int, ...] = ()
    output: tuple[int, ...] = ()
    exact: bool = False

    @property
    def parameters(self) -> frozenset[str]:
        """Names of the parameters that a sampler must have for this probe; temperature 1 is no parameter."""
        return frozenset(self.params)

    def state(self) -> SamplingState:
        """The state of the row."""
        state = SamplingState(SamplingParams(**self.params), self.prompt)
        for token_id in self.output:
            state.append(token_id)
        return state


def _log(*probabilities: float) -> Array:
    return np.asarray(np.log(probabilities), dtype=np.float32)


_STEPS = _log(0.05, 0.4, 0.1, 0.25, 0.2)
_SIGNED = np.array([2.013, -1.037, 0.511, -2.009, 1.507, 0.0, -0.493, 1.021], np.float32)
_TIED = np.array([1.0, 3.0, 2.0, 2.0, 2.0, 0.0, 2.0, 1.0], np.float32)
_EIGHTHS = np.zeros(8, np.float32)  # sums of their probabilities are exact in every format
_BANNED = np.array([0.0, -np.inf, 1.0, -np.inf, 2.0], np.float32)
_ZIPF = -np.log(np.random.default_rng(5).permutation(np.arange(1, 5001))).astype(np.float32)

PROBES: tuple[Probe, ...] = (
    Probe("plain.softmax", "Without parameters, tokens have their softmax.", "It is what all else rests on.", _SIGNED),
    Probe("plain.equal", "Equal logits have equal chances.", "A search that ends beside its place.", np.zeros(7, "f")),
    Probe("plain.long", "A vocabulary of 5,000 with a long tail.", "Sums in a short format drift.", _ZIPF),
    Probe("plain.tail", "Rare tokens keep their share.", "A tail has half of the mass.", _log(0.5, *[1 / 400] * 200)),
    Probe("plain.shifted", "Logits + 10,000 are the same.", "exp() of a large logit overflows.", _SIGNED + 1e4),
    Probe("plain.huge", "Logits of 3e38 are numbers like others.", "l - max overflows float32.", _SIGNED * 1.5e38),
    Probe("plain.banned", "-inf is a ban.", "Grammars and stop rules ban with -inf.", _BANNED),
    Probe(
        "plain.survivor",
        "Of one survivor alone, it is drawn.",
        "A grammar leaves one.",
        np.where(_TIED == 3, 0, -np.inf),
    ),
    Probe("refuse.nan", "NaN is refused.", "A broken model must not look like a text.", np.array([0, np.nan, 1], "f")),
    Probe("refuse.infinity", "+inf is refused.", "It makes NaN of the others.", np.array([0, np.inf, 1], "f")),
    Probe("refuse.nothing", "A row of -inf alone is refused.", "Token 0 is no answer.", np.full(4, -np.inf, "f")),
    Probe("greedy.best", "Temperature 0 takes the largest logit.", "Tests rely on it.", _SIGNED, {"temperature": 0.0}),
    Probe(
        "greedy.tie",
        "Of equal logits, the lower id.",
        "Else results differ by build.",
        _TIED[2:5],
        {"temperature": 0.0},
    ),
    Probe("temperature.half", "Temperature divides logits.", "Not probabilities.", _SIGNED, {"temperature": 0.5}),
    Probe("temperature.hot", "Temperature 2 flattens.", "The same, the other way.", _SIGNED, {"temperature": 2.0}),
    Probe(
        "temperature.cold",
        "Temperature 0.001 is nearly greedy.",
        "l / T overflows.",
        _SIGNED + 200,
        {"temperature": 1e-3},
    ),
    Probe(
        "temperature.cold_tie",
        "At temperature 0.001 ties still share.",
        "Greedy begins lower.",
        _TIED[2:5],
        {"temperature": 1e-3},
    ),
    Probe("top_k.exact", "top_k keeps k tokens.", "One more or fewer is common.", _STEPS, {"top_k": 2}),
    Probe(
        "top_k.tie", "Ties at the k-th are kept as the profile says.", "Sort order decides else.", _TIED, {"top_k": 3}
    ),
    Probe("top_k.one", "top_k 1 is greedy.", "People use it so.", _STEPS, {"top_k": 1}),
    Probe("top_k.all", "top_k beyond the vocabulary is off.", "k = 50 with 5 tokens left.", _STEPS, {"top_k": 50}),
    Probe(
        "top_k.banned", "top_k beyond what is left revives nothing.", "-inf sorts last, not out.", _BANNED, {"top_k": 4}
    ),
    Probe("top_p.crossing", "The token that crosses p stays.", "The commonest mistake of all.", _STEPS, {"top_p": 0.5}),
    Probe(
        "top_p.exact",
        "A prefix of mass p is enough.",
        "> for >= keeps one too many.",
        _EIGHTHS,
        {"top_p": 0.5},
        exact=True,
    ),
    Probe("top_p.zero", "top_p 0 keeps the first.", "An empty nucleus.", _STEPS, {"top_p": 0.0}),
    Probe("top_p.one", "top_p 1 is off.", "Rounding drops the tail.", _ZIPF, {"top_p": 1.0}),
    Probe(
        "top_p.tie",
        "Ties at the border go to lower ids.",
        "Sort order decides else.",
        np.zeros(10, "f"),
        {"top_p": 0.45},
    ),
    Probe("min_p.relative", "min_p is relative to the largest.", "Not an absolute bound.", _STEPS, {"min_p": 0.3}),
    Probe("min_p.one", "min_p 1 keeps the largest.", "Rounding empties the row.", _STEPS, {"min_p": 1.0}),
    Probe(
        "order.temperature_top_p",
        "Temperature and top_p in the profile's order.",
        "Engines differ.",
        _STEPS,
        {"temperature": 2.0, "top_p": 0.6},
    ),
    Probe(
        "order.temperature_min_p",
        "Temperature and min_p in the profile's order.",
        "Engines differ.",
        _STEPS,
        {"temperature": 2.0, "min_p": 0.4},
    ),
    Probe(
        "order.top_k_top_p",
        "top_p works on what top_k left, renormalised.",
        "Else it keeps too many.",
        _STEPS,
        {"top_k": 3, "top_p": 0.7},
    ),
    Probe(
        "order.top_p_min_p",
        "min_p and top_p in the profile's order.",
        "Engines differ.",
        _STEPS,
        {"top_p": 0.86, "min_p": 0.2},
    ),
    Probe(
        "repetition.signs",
        "Positive logits are divided, negative ones multiplied.",
        "Else a penalty rewards.",
        _SIGNED,
        {"repetition_penalty": 2.0},
        (0, 1),
        (2, 3),
    ),
    Probe(
        "repetition.once",
        "A token is penalised once, however often it came.",
        "It is no count.",
        _SIGNED,
        {"repetition_penalty": 1.5},
        (0, 0),
        (0, 3, 3),
    ),
    Probe(
        "repetition.prompt",
        "The prompt counts for the repetition penalty.",
        "CTRL's definition.",
        _SIGNED,
        {"repetition_penalty": 2.0},
        (0, 4),
    ),
    Probe(
        "frequency.count",
        "frequency_penalty grows with the count.",
        "It is no flag.",
        _SIGNED,
        {"frequency_penalty": 0.5},
        (),
        (0, 0, 0, 4),
    ),
    Probe(
        "frequency.output",
        "The prompt does not count for frequency_penalty, but where the profile says so.",
        "A long prompt bans its own words.",
        _SIGNED,
        {"frequency_penalty": 1.0},
        (0, 0, 4),
        (7,),
    ),
    Probe(
        "frequency.negative",
        "A negative frequency_penalty rewards.",
        "It is legal.",
        _SIGNED,
        {"frequency_penalty": -1.0},
        (),
        (3, 3),
    ),
    Probe(
        "presence.once",
        "presence_penalty does not grow with the count.",
        "It is a flag.",
        _SIGNED,
        {"presence_penalty": 0.7},
        (),
        (0, 0, 0, 4),
    ),
    Probe(
        "presence.output",
        "The prompt does not count for presence_penalty, but where the profile says so.",
        "A long prompt bans its own words.",
        _SIGNED,
        {"presence_penalty": 1.0},
        (0, 4),
        (7,),
    ),
    Probe(
        "bias.adds",
        "logit_bias is added to the logits.",
        "Not to probabilities.",
        _SIGNED,
        {"logit_bias": {1: 2.0, 4: -1.5}},
    ),
    Probe(
        "bias.before_temperature",
        "The bias is part of what temperature divides.",
        "Engines differ.",
        _SIGNED,
        {"logit_bias": {1: 2.0}, "temperature": 0.5},
    ),
    Probe(
        "bias.order",
        "Bias and repetition penalty in the profile's order.",
        "A product and a sum do not commute.",
        _SIGNED,
        {"logit_bias": {0: -3.0, 1: 2.0}, "repetition_penalty": 2.0},
        (0, 1),
    ),
    Probe(
        "bias.banned",
        "A bias revives no banned token.",
        "A grammar's ban is final.",
        _BANNED,
        {"logit_bias": {1: 100.0}},
    ),
    Probe(
        "mask.banned",
        "banned_token_ids are never drawn, whatever their bias.",
        "Masks are last.",
        _SIGNED,
        {"banned_token_ids": [0, 4], "logit_bias": {0: 100.0}},
    ),
    Probe(
        "mask.allowed",
        "Of allowed_token_ids alone is drawn.",
        "Choices of a classifier.",
        _SIGNED,
        {"allowed_token_ids": [1, 3, 5]},
    ),
    Probe(
        "mask.min_tokens",
        "Before min_tokens no stop token is drawn.",
        "A reply of nothing.",
        _SIGNED,
        {"min_tokens": 2, "stop_token_ids": [4]},
        (),
        (7,),
    ),
    Probe(
        "mask.ngram",
        "A repeated n-gram is not completed.",
        "Its last token is banned.",
        _SIGNED,
        {"no_repeat_ngram_size": 2},
        (1, 4),
        (0, 1),
    ),
    Probe(
        "typical_p.nearest",
        "typical_p keeps what is nearest to the entropy.",
        "Not the most likely.",
        _STEPS,
        {"typical_p": 0.5},
    ),
    Probe("top_n_sigma.spread", "top_n_sigma measures logits.", "Not probabilities.", _SIGNED, {"top_n_sigma": 1.2}),
    Probe(
        "epsilon.absolute", "epsilon_cutoff is an absolute bound.", "Unlike min_p.", _STEPS, {"epsilon_cutoff": 0.15}
    ),
    Probe(
        "eta.entropy",
        "eta_cutoff's bound follows the entropy.",
        "It is a minimum of two.",
        _ZIPF[:50],
        {"eta_cutoff": 0.05},
    ),
    Probe("top_a.square", "top_a's bound is quadratic.", "Unlike min_p.", _STEPS, {"top_a": 0.9}),
    Probe(
        "top_h.renormalised",
        "top_h bounds the entropy of what is kept, renormalised.",
        "Summing -p log p of the whole distribution keeps one more here.",
        _STEPS,
        {"top_h": 0.6},
    ),
    Probe(
        "p_less.collision",
        "p_less keeps tokens at least as likely as two equal draws.",
        "It is no parameter: the sum of squares.",
        _log(0.5, 0.32, 0.1, 0.08),
        {"p_less": "plain"},
    ),
    Probe(
        "min_k.position",
        "min_k divides each fall of the sorted logits by its place.",
        "The largest fall alone lies in the tail.",
        np.array([4.0, 3.0, 2.9, 1.0, 0.9], np.float32),
        {"min_k": 0.0},
    ),
    Probe(
        "min_k.temperature",
        "min_k reads logits before the temperature.",
        "Its fallback grows with T.",
        _STEPS,
        {"min_k": 5.0, "temperature": 2.0},
    ),
    Probe(
        "tfs.centred",
        "tfs keeps one token more than the curvatures that z allows.",
        "llama.cpp once kept as many as curvatures.",
        _log(0.4, 0.25, 0.15, 0.1, 0.1),
        {"tfs": 0.5},
    ),
    Probe(
        "adaptive_p.curve",
        "adaptive_p is a parabola near its target and a line far from it.",
        "A parabola alone suppresses the tail.",
        _STEPS,
        {"adaptive_p_target": 0.2},
    ),
    Probe(
        "skew.order",
        "skew moves the draw along the total order, most likely token first.",
        "In order of id it means nothing.",
        _STEPS,
        {"skew": 0.7},
    ),
    Probe(
        "xtc.least",
        "XTC keeps the least likely of those above its threshold.",
        "The easy slip is the likeliest.",
        _STEPS,
        {"xtc_probability": 1.0, "xtc_threshold": 0.15},
    ),
)
"""All probes, the plain ones first."""
