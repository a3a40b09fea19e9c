"""Parameters, states, and whole problems for a sampler, as Hypothesis strategies."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Any, TypeAlias

from hypothesis import strategies as st

from decoding.params import SamplingParams
from decoding.sampling.sampler import Sampler, SamplingState
from decoding.sampling.stages import PROFILES
from decoding.testing.strategies.rows import Array, bitmasks, logits_batches, token_ids, vocab_sizes
from decoding.types import LOGPROBS_MODES, REPETITION_SCOPES

Strategy: TypeAlias = st.SearchStrategy[Any]


@st.composite
def sampling_params(draw: st.DrawFn, vocab_size: int, *, max_logprobs: int = 8) -> SamplingParams:
    """Valid SamplingParams: up to ten parameters of the pipeline are set, the others are neutral."""
    strategies = _pipeline_parameters(vocab_size, max_logprobs)
    names = draw(st.lists(st.sampled_from(tuple(strategies)), unique=True, max_size=10))
    seed = draw(st.integers(-(2**63), 2**63 - 1))
    return SamplingParams(seed=seed, max_tokens=None, **{name: draw(strategies[name]) for name in names})


@cache
def _pipeline_parameters(vocab_size: int, max_logprobs: int) -> dict[str, Strategy]:
    """For each parameter that the sampler looks at, its valid values: the ordinary ones and the corners."""
    ids = token_ids(vocab_size, max_size=6)
    return {
        "stop_token_ids": ids,
        "min_tokens": st.integers(0, 16),
        "ignore_eos": st.booleans(),
        "logprobs": st.integers(0, min(max_logprobs, vocab_size)),
        "logprobs_mode": st.sampled_from(LOGPROBS_MODES) | st.lists(st.sampled_from(LOGPROBS_MODES), min_size=1),
        **_edits(vocab_size, ids),
        **_shapes(),
        **_truncations(vocab_size),
    }


def _edits(vocab_size: int, ids: Strategy) -> dict[str, Strategy]:
    penalty = st.sampled_from((0.5, -0.5, 2.0)) | st.floats(-2.0, 2.0)
    bias = st.sampled_from((-100.0, 100.0)) | st.floats(-100.0, 100.0)
    sequences = st.lists(ids.filter(bool), max_size=3)
    return {
        "repetition_penalty": st.sampled_from((1.1, 0.5)) | st.floats(0.125, 8.0),
        "repetition_penalty_scope": st.sampled_from(REPETITION_SCOPES) | st.integers(1, 30),
        "frequency_penalty": penalty,
        "presence_penalty": penalty,
        "dry_multiplier": st.sampled_from((0.8, 1e38)) | st.floats(0.0, 4.0),
        "dry_base": st.sampled_from((1.0, 1.75, 1e30)) | st.floats(1.0, 4.0),
        "dry_allowed_length": st.integers(1, 4),
        "dry_range": st.integers(1, 30),
        "dry_sequence_breakers": sequences,
        "context_frequency_penalty": penalty,
        "logit_bias": st.dictionaries(st.integers(0, vocab_size - 1), bias, max_size=6),
        "allowed_token_ids": ids.filter(bool),
        "banned_token_ids": ids,
        "no_repeat_ngram_size": st.integers(1, 4),
        "bad_words": sequences,
    }


def _shapes() -> dict[str, Strategy]:
    return {
        "temperature": st.sampled_from((0.0, 0.5, 1e-7, 2.0**-20, 2.0**60, 1e38)) | st.floats(0.0, 4.0),
        "dynatemp_range": st.sampled_from((0.5, 1e-7)) | st.floats(0.0, 4.0),
        "dynatemp_exponent": st.sampled_from((1.0, 2.0)) | st.floats(0.25, 8.0),
        "smoothing_factor": st.sampled_from((0.25, 1.0)) | st.floats(0.0, 8.0),
        "smoothing_curve": st.sampled_from((1.0, 3.0)) | st.floats(1.0, 3.0),
    }


def _truncations(vocab_size: int) -> dict[str, Strategy]:
    probability = st.sampled_from((0.0, 0.5, 0.9, 1.0)) | st.floats(0.0, 1.0)
    small = probability | st.floats(0.0, 2.0**-6)
    return {
        "top_k": st.sampled_from((1, max(1, vocab_size - 1), vocab_size)) | st.integers(1, vocab_size + 1),
        "top_p": probability,
        "min_p": small,
        "typical_p": probability,
        "top_n_sigma": st.sampled_from((0.0, 1.0)) | st.floats(0.0, 6.0),
        "epsilon_cutoff": small,
        "eta_cutoff": small,
        "top_a": small,
        "xtc_probability": probability,
        "xtc_threshold": small,
        "mirostat_tau": st.sampled_from((0.5, 5.0)) | st.floats(0.125, 12.0),
        "mirostat_eta": st.sampled_from((0.1, 1.0)),
    }


@st.composite
def sampling_states(draw: st.DrawFn, vocab_size: int, *, max_logprobs: int = 8) -> SamplingState:
    """States with a prompt, some output, end-of-sequence ids, and a grammar mask in some of them."""
    state = SamplingState(
        draw(sampling_params(vocab_size, max_logprobs=max_logprobs)),
        prompt_token_ids=draw(token_ids(vocab_size)),
        choice=draw(st.integers(0, 127)),
        stream=draw(st.integers(0, 2**64 - 1)),
        eos_token_ids=draw(token_ids(vocab_size, max_size=2)),
    )
    for token_id in draw(token_ids(vocab_size)):
        state.append(token_id, None if state.params.mirostat_tau is None else draw(st.floats(0.0, 20.0)))
    state.bitmask = draw(st.none() | bitmasks(vocab_size))
    return state


class SamplingProblem:
    """What one call is given: the sampler, float32 logits [rows, vocab], and a state for each row."""

    def __init__(self, sampler: Sampler, logits: Array, states: list[SamplingState]) -> None:
        self.sampler = sampler
        self.logits = logits
        self.states = states

    def __repr__(self) -> str:
        """What a failing example needs to be written down as a test of its own."""
        valid, policy = self.sampler.num_valid_tokens, self.sampler.on_nonfinite
        profile = self.sampler.profile.name
        options = f"num_valid_tokens={valid}, on_nonfinite={policy!r}, profile={profile!r}"
        sampler = f"Sampler({self.sampler.vocab_size}, {options})"
        rows = zip(self.logits.tolist(), self.states, strict=True)
        return "\n".join([sampler, *(f"{row}: {_shown(state)}" for row, state in rows)])


def _shown(state: SamplingState) -> str:
    """The state's constructor and, of its parameters, those that are not at their default."""
    default, params = SamplingParams(), state.params
    chosen = {f.name: getattr(params, f.name) for f in fields(params)}
    changed = ", ".join(f"{k}={v!r}" for k, v in chosen.items() if v != getattr(default, k))
    place = f"choice={state.choice}, stream={state.stream}, eos_token_ids={state.eos_token_ids}"
    rest = f"output {state.output_token_ids}, mu {state.mirostat_mu}, bitmask {state.bitmask}"
    history = f"{state.prompt_token_ids}, {place}), {rest}"
    return f"SamplingState(SamplingParams({changed}), {history}"


@st.composite
def sampling_problems(
    draw: st.DrawFn, *, max_rows: int = 4, large: bool = False, nonfinite: bool = False
) -> SamplingProblem:
    """Whole problems with heterogeneous rows, some with padding ids at the end of the vocabulary.

    Args:
        draw: supplied by Hypothesis.
        max_rows: most rows of a batch, at least 1.
        large: whether vocabularies of 4,095 to 32,000 tokens occur.
        nonfinite: whether rows with NaN, +inf or nothing but -inf occur, and samplers that mask NaN.
    """
    vocab_size = draw(vocab_sizes(large=large))
    num_rows = draw(st.integers(1, max_rows))
    sampler = Sampler(
        vocab_size,
        num_valid_tokens=draw(st.none() | st.integers(1, vocab_size)),
        on_nonfinite=draw(st.sampled_from(("raise", "mask"))) if nonfinite else "raise",
        profile=draw(st.sampled_from(tuple(PROFILES))),
    )
    logits = draw(logits_batches(vocab_size, num_rows, nonfinite=nonfinite))
    states = [draw(sampling_states(vocab_size)) for _ in range(num_rows)]
    return SamplingProblem(sampler, logits, states)
