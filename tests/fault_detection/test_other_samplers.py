"""Other projects' samplers, and our kernel, as functions under the profile that describes them."""

import ctypes
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from decoding import Sampler, SamplingParams, SamplingState
from decoding.sampling.stages import PROFILES
from decoding.testing import assert_matches_reference, find_faults

NOT_REFUSED = {"refuse.nan", "refuse.infinity", "refuse.nothing"}
"""Peers draw from rows with NaN instead of refusing them, which these probes report rightly."""

SORT_DECIDES = {"top_p.exact", "top_p.tie"}
"""The choice among equal logits at the border of top_p follows from a peer's sort (docs/semantics.md, section 9)."""


def ids(faults):
    """Return the ids of the failed probes."""
    return {fault.id for fault in faults}


@pytest.mark.parametrize("profile", PROFILES)
def test_the_kernel_has_no_faults(profile):
    """The kernel passes every probe under every profile, and with draws under the default profile."""

    def state_of(params, history, seed):
        state = SamplingState(
            replace(params, seed=(seed + 2**63) % 2**64 - 2**63), history.prompt_token_ids, host_parameters=True
        )
        for token_id in history.output_token_ids:
            state.append(token_id)
        return state

    def distribution(logits, params, history, seed):
        return Sampler(len(logits), profile=profile).probabilities(logits, [state_of(params, history, seed)])[0]

    def token(logits, params, history, seed):
        return Sampler(len(logits), profile=profile).sample(logits, [state_of(params, history, seed)]).token_ids[0]

    assert find_faults(distribution, profile=profile) == []
    if profile == "openai":
        assert find_faults(token, profile=profile, num_draws=300) == []


def test_another_profile_is_found():
    """The kernel under llama.cpp's profile fails the probes for the orders of temperature and of bias."""

    def sampler(logits, params, history, seed):
        state = SamplingState(params, (*history.prompt_token_ids, *history.output_token_ids), host_parameters=True)
        return Sampler(len(logits), profile="llama_cpp").probabilities(logits, [state])[0]

    found = ids(find_faults(sampler, parameters=["temperature", "top_p", "logit_bias", "repetition_penalty"]))
    assert found == {"order.temperature_top_p", "bias.order"}


def test_transformers():
    """The processors of transformers' `generate` fail only the probes for NaN, ties and top_p=0."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    generation = pytest.importorskip("transformers.generation", reason="transformers is not installed")

    def sampler(logits, params, history, seed):
        config = generation.GenerationConfig(
            do_sample=True,
            temperature=params.temperature,
            top_k=params.top_k or 0,
            top_p=params.top_p,
            min_p=params.min_p or None,
            typical_p=params.typical_p,
            epsilon_cutoff=params.epsilon_cutoff,
            eta_cutoff=params.eta_cutoff,
            repetition_penalty=params.repetition_penalty,
            no_repeat_ngram_size=params.no_repeat_ngram_size or 0,
            sequence_bias={(i,): b for i, b in params.logit_bias} or None,
        )
        config._eos_token_tensor = None
        owner = SimpleNamespace(
            config=SimpleNamespace(is_encoder_decoder=False), _merge_criteria_processor_list=lambda ours, _: ours
        )
        context = torch.tensor([[*history.prompt_token_ids, *history.output_token_ids]], dtype=torch.int64)
        processors = generation.GenerationMixin._get_logits_processor(owner, config, context.shape[1], model_kwargs={})
        scores = processors(context, torch.from_numpy(logits)[None])
        return torch.softmax(scores[0].double(), -1).numpy()

    parameters = ["top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "repetition_penalty"]
    found = ids(find_faults(sampler, parameters=[*parameters, "no_repeat_ngram_size"], profile="transformers"))
    assert found <= NOT_REFUSED | SORT_DECIDES | {"top_p.zero"}  # transformers requires a top_p above 0
    for temperature in (0.5, 2.0):
        params = SamplingParams(temperature=temperature, top_p=0.6)
        logits = np.log([0.05, 0.4, 0.1, 0.25, 0.2]).astype(np.float32)
        assert_matches_reference(sampler, logits, params, profile="transformers")


def test_llama_cpp():
    """The samplers of llama.cpp in the order of its default chain fail only the probes for NaN and ties."""
    lib = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

    def sampler(logits, params, history, seed):
        chain = [
            lib.llama_sampler_init_penalties(len(logits), 64, params.repetition_penalty, 0.0, 0.0),
            lib.llama_sampler_init_top_k(params.top_k or 0),
            lib.llama_sampler_init_top_p(params.top_p, 1),
            lib.llama_sampler_init_min_p(params.min_p, 1),
            lib.llama_sampler_init_temp(params.temperature),
        ]
        array = (lib.llama_token_data * len(logits))(
            *(lib.llama_token_data(i, float(logit), 0.0) for i, logit in enumerate(logits))
        )
        candidates = lib.llama_token_data_array(array, len(logits), -1, False)
        for one in chain:
            for token_id in (*history.prompt_token_ids, *history.output_token_ids):
                lib.llama_sampler_accept(one, token_id)
            lib.llama_sampler_apply(one, ctypes.byref(candidates))
            lib.llama_sampler_free(one)
        left = candidates.data[: candidates.size]
        exponents = np.full(len(logits), -np.inf)
        exponents[[token.id for token in left]] = [token.logit for token in left]
        with np.errstate(invalid="ignore"):  # llama.cpp accepts NaN
            weights = np.exp(exponents - exponents.max())
            return weights / weights.sum()

    names = ["temperature", "top_k", "top_p", "min_p"]
    found = ids(find_faults(sampler, parameters=[*names, "repetition_penalty"], profile="llama_cpp"))
    assert found <= NOT_REFUSED | SORT_DECIDES | {"top_k.tie"}
    params = SamplingParams(temperature=2.0, top_p=0.8, min_p=0.05, top_k=12)
    logits = np.random.default_rng(0).normal(0, 3, (20, 100)).astype(np.float32)
    assert_matches_reference(sampler, logits, params, profile="llama_cpp")
    with pytest.raises(AssertionError):
        assert_matches_reference(sampler, logits, params)  # under the default, temperature comes first
