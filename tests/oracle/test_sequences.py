"""Whole sequences against the reference: the state's history gives the results that follow from the tokens."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding import Sampler, SamplingParams, SamplingState
from decoding.sampling.stages import PROFILES

assert_every_set_matches = runpy.run_path(str(Path(__file__).parent / "every_set.py"))["assert_every_set_matches"]

VOCAB_SIZE = 6  # small, so that sequences repeat

HISTORIES = {
    "dry_multiplier": st.sampled_from([0.5, 2.0]),
    "dry_base": st.sampled_from([1.0, 1.75]),
    "dry_allowed_length": st.integers(1, 3),
    "dry_range": st.none() | st.integers(1, 20),
    "dry_sequence_breakers": st.lists(st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=3), max_size=2),
    "no_repeat_ngram_size": st.none() | st.integers(2, 4),
    "bad_words": st.lists(st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=2, max_size=3), max_size=3),
    "repetition_penalty": st.sampled_from([1.0, 1.3]),
    "repetition_penalty_scope": st.sampled_from(["prompt+output", "output", 1, 5]),
    "presence_penalty": st.sampled_from([0.0, 0.4]),
    "context_frequency_penalty": st.sampled_from([0.0, 0.2]),
    "mirostat_tau": st.none() | st.sampled_from([0.5, 2.0]),
    "min_tokens": st.integers(0, 5),
}


@settings(max_examples=settings.default.max_examples // 2)
@given(st.data())
def test_every_step_of_a_sequence_matches(data):
    """Each of twenty steps, with histories of every kind and truncations, gives the reference's results."""
    params = SamplingParams(
        seed=data.draw(st.integers(0, 99)),
        max_tokens=None,
        stop_token_ids=[0],
        logprobs=2,
        logprobs_mode=("final", "penalized"),
        **{name: data.draw(values) for name, values in HISTORIES.items()},
    )
    sampler = Sampler(VOCAB_SIZE, profile=data.draw(st.sampled_from(tuple(PROFILES))))
    prompt = data.draw(st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=8))
    state = SamplingState(params, prompt, host_parameters=True)  # stop ids without min_tokens are left to the host
    logits = np.random.default_rng(data.draw(st.integers(0, 99))).standard_normal((20, VOCAB_SIZE)).astype(np.float32)
    for row in logits:
        assert_every_set_matches(sampler, row[np.newaxis], [state])
        if sampler.sample(row, [state], on_error="status").failures or data.draw(st.integers(0, 9)) == 0:
            state.truncate(data.draw(st.integers(0, state.position)))


@pytest.mark.parametrize("vocab_size", [31, 32, 33, 300])
def test_many_breakers_of_one_token(vocab_size):
    """Sequence breakers of one token for half of the vocabulary, beside longer ones, give the reference's results."""
    rng = np.random.default_rng(vocab_size)
    context = rng.integers(0, vocab_size, 12).tolist() * 3
    for start in (0, 1, vocab_size - 1):
        breakers = [(token_id,) for token_id in range(start, vocab_size, 2)] + [tuple(context[3:5]), (0, 0)]
        params = SamplingParams(seed=1, dry_multiplier=0.5, dry_sequence_breakers=breakers)
        logits = rng.standard_normal((1, vocab_size)).astype(np.float32)
        for length in range(24, 36):
            assert_every_set_matches(Sampler(vocab_size), logits, [SamplingState(params, context[:length])])
