"""Hypothesis strategies of parameters, states, and whole problems for a sampler."""

from __future__ import annotations

from functools import cache

from hypothesis import strategies as st

from decoding.params import PARAMETERS, SamplingParams
from decoding.sampling.sampler import Sampler, SamplingState
from decoding.sampling.stages import PIPELINE, PROFILES
from decoding.testing.strategies.domains import Strategy, valid_values
from decoding.testing.strategies.rows import Array, bitmasks, logits_batches, token_ids, vocab_sizes

_EDITS_TO_TRUNCATIONS = [stage for stage in PIPELINE if stage.has_place]
_SAMPLER_PARAMETERS = (
    *("stop_token_ids", "ignore_eos", "logprobs", "logprobs_mode"),
    *(name for stage in _EDITS_TO_TRUNCATIONS for name in stage.parameters),
)


@st.composite
def sampling_params(draw: st.DrawFn, vocab_size: int, *, max_logprobs: int = 8) -> SamplingParams:
    """Draw valid SamplingParams: up to ten parameters of the pipeline are set, the others are neutral."""
    given = draw(_given_parameters(vocab_size, max_logprobs))
    seed = draw(st.integers(-(2**63), 2**63 - 1))
    return SamplingParams(seed=seed, max_tokens=None, **dict(given))


@cache
def _given_parameters(vocab_size: int, max_logprobs: int) -> Strategy:
    """Return up to ten pairs of a name and a value. Each pair is one draw, so that shrinking can delete it."""
    strategies = _pipeline_parameters(vocab_size, max_logprobs)
    pairs = [st.tuples(st.just(name), values) for name, values in strategies.items()]
    return st.lists(st.one_of(pairs), unique_by=lambda pair: pair[0], max_size=10)


def _pipeline_parameters(vocab_size: int, max_logprobs: int) -> dict[str, Strategy]:
    """Return, for each parameter of the sampler, a strategy of its valid values."""
    strategies = {name: valid_values(PARAMETERS[name], vocab_size) for name in _SAMPLER_PARAMETERS}
    top_ks = st.sampled_from((1, max(1, vocab_size - 1), vocab_size)) | st.integers(1, vocab_size + 1)
    return strategies | {"top_k": top_ks, "logprobs": st.integers(0, min(max_logprobs, vocab_size))}


@st.composite
def sampling_states(draw: st.DrawFn, vocab_size: int, *, max_logprobs: int = 8) -> SamplingState:
    """Draw states with a prompt, some output, end-of-sequence ids, and a grammar mask in some of them."""
    state = SamplingState(
        draw(sampling_params(vocab_size, max_logprobs=max_logprobs)),
        prompt_token_ids=draw(token_ids(vocab_size)),
        choice=draw(st.integers(0, 127)),
        stream=draw(st.integers(0, 2**64 - 1)),
        eos_token_ids=draw(token_ids(vocab_size, max_size=2)),
        host_parameters=True,  # some have stop ids alone
    )
    for token_id in draw(token_ids(vocab_size)):
        state.append(token_id, draw(st.floats(0.0, 20.0)) if state.needs_surprise else None)
    state.bitmask = draw(st.none() | bitmasks(vocab_size))
    return state


class SamplingProblem:
    """The arguments of one call: the sampler, float32 logits [rows, vocab], and one state per row."""

    def __init__(self, sampler: Sampler, logits: Array, states: list[SamplingState]) -> None:
        self.sampler = sampler
        self.logits = logits
        self.states = states

    def __repr__(self) -> str:
        """Show everything needed to turn a failing example into a test."""
        valid, policy = self.sampler.num_valid_tokens, self.sampler.on_nonfinite
        profile = self.sampler.profile.name
        options = f"num_valid_tokens={valid}, on_nonfinite={policy!r}, profile={profile!r}"
        sampler = f"Sampler({self.sampler.vocab_size}, {options})"
        rows = zip(self.logits.tolist(), self.states, strict=True)
        return "\n".join([sampler, *(f"{row}: {_shown(state)}" for row, state in rows)])


def _shown(state: SamplingState) -> str:
    """Return the state's constructor, with the parameters that differ from their defaults."""
    changed = repr(state.params).removeprefix("SamplingParams(").removesuffix(")")
    place = f"choice={state.choice}, stream={state.stream}, eos_token_ids={state.eos_token_ids}, host_parameters=True"
    rest = f"output {state.output_token_ids}, mu {state.mirostat_mu}, bitmask {state.bitmask}"
    history = f"{state.prompt_token_ids}, {place}), {rest}"
    return f"SamplingState(SamplingParams({changed}), {history}"


@st.composite
def sampling_problems(
    draw: st.DrawFn, *, max_rows: int = 4, large: bool = False, nonfinite: bool = False
) -> SamplingProblem:
    """Draw whole problems with heterogeneous rows, some with padding ids at the end of the vocabulary.

    Args:
        draw: supplied by Hypothesis.
        max_rows: maximum rows of a batch, at least 1.
        large: also draw vocabularies of 4,095 to 32,000 tokens.
        nonfinite: also draw rows with NaN, +inf or only -inf, and samplers that mask NaN.
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
