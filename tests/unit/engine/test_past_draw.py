"""A draw that is made again is the draw of the completion: the same row, the same state, the same token."""

from __future__ import annotations

import numpy as np
import pytest

from decoding.engine.past_draw import PastDrawRecorder
from decoding.errors import ParameterError
from decoding.llm import LLM
from decoding.params import SamplingParams
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits

PROMPT = "def f("
USUAL = {"max_tokens": 12, "seed": 5, "n": 2, "ignore_eos": True}
PARAMETERS = [
    {"temperature": 0.8, "top_p": 0.9, "min_p": 0.01},
    {"frequency_penalty": 0.5, "repetition_penalty": 1.3, "dry_multiplier": 1.0, "no_repeat_ngram_size": 2},
    {"temperature": 0.0},
    {"min_tokens": 4, "xtc_probability": 0.5, "xtc_threshold": 0.01},
    {"mirostat_tau": 3.0},
    {"adaptive_p_target": 0.3},
    {"banned_strings": ["a", "e", "qu"]},
    {"token_healing": True},
    {"structured": {"regex": "[a-z]{5,20}"}},
    {"stop": ["zz"], "logit_bias": {97: 2.0}, "echo": True, "logprobs": 1},
]


@pytest.fixture(scope="module")
def llm():
    """A model whose logits are a function of the tokens alone."""
    return LLM.from_parts(ScriptedModel(hashed_logits(seed=3), 260, max_position_embeddings=64), byte_tokenizer())


def completed(llm, params):
    """The tokens of each choice, and by choice and position the row and the state of the draw, as it was made."""
    draws = {}

    def listen(sampler, logits, states):
        (state,) = states
        draws[state.choice, state.position] = (sampler.probabilities(logits, [state])[0], logits[0].copy())

    tokens = {}
    for delta in llm.stream(PROMPT, params, on_sample=listen):
        tokens.setdefault(delta.index, []).extend(delta.token_ids)
    num_shown = len(llm.tokenizer.encode(PROMPT)) if params.echo else 0
    return {index: ids[num_shown:] for index, ids in tokens.items()}, draws


def made_again(llm, params, token_ids, position, choice):
    """The draw as the recorder has it."""
    recorder = PastDrawRecorder(token_ids, position, choice)
    (request,), _ = llm.engine.requests(PROMPT, params)
    (task,) = llm.engine.add([recorder.request(request)])
    while not task.is_done:
        llm.engine.step()
    return recorder.draw(task.result("scripted"))


@pytest.mark.parametrize("given", PARAMETERS, ids=lambda given: next(iter(given)))
def test_every_draw_of_every_choice(llm, given):
    """Logits, distribution and token are those of the completion, at each position, to the bit."""
    params = SamplingParams(**USUAL, **given)
    tokens, draws = completed(llm, params)
    is_greedy = params.temperature == 0
    for choice, token_ids in tokens.items():
        assert token_ids
        for position, token_id in enumerate(token_ids):
            draw = made_again(llm, params, token_ids, position, choice)
            distribution, logits = draws[0 if is_greedy else choice, position]
            assert np.array_equal(draw.logits, logits)
            explanation = draw.explain()
            assert np.array_equal(explanation.probabilities, distribution)
            assert explanation.token_id == token_id


def test_the_next_token(llm):
    """The position behind the given tokens is the draw of the token that follows them."""
    params = SamplingParams(**USUAL)
    tokens, _ = completed(llm, params)
    assert made_again(llm, params, tokens[1][:7], 7, 1).explain().token_id == tokens[1][7]


def test_other_tokens_are_a_context_of_their_own(llm):
    """Tokens before the position need not be those of the seed: the draw is what they lead to."""
    params = SamplingParams(**USUAL)
    draw = made_again(llm, params, [97, 98, 99], 3, 0)
    prompt = llm.tokenizer.encode(PROMPT)
    assert np.array_equal(draw.logits, llm.logits([*prompt, 97, 98, 99])[-1])
    assert draw.state.output_token_ids == [97, 98, 99]


def test_rank_and_log_probability(llm):
    """Those of tokens in the row as it came in: rank 1 is the largest logit."""
    params = SamplingParams(**USUAL, temperature=0.5, logit_bias={97: 50.0})
    draw = made_again(llm, params, [], 0, 0)
    order = np.argsort(-draw.logits, kind="stable")
    (best, rank), (_, other) = draw.scores([int(order[0]), int(order[9])])
    assert (rank, other) == (1, 10)
    assert best == pytest.approx(draw.logits[order[0]] - np.logaddexp.reduce(draw.logits.astype(np.float64)), abs=1e-5)


@pytest.mark.parametrize(
    ("given", "arguments", "rule"),
    [
        ({}, ([1, 2], 3, 0), r"position=3: must be an integer from 0 to 2"),
        ({}, ([1, 2], -1, 0), r"position=-1"),
        ({}, ([1, 260], 2, 0), r"token_ids\[1\]=260: must be a token id"),
        ({}, ([1] * 12, 12, 0), r"position=12: must be below 12"),
        ({}, ([1], 1, 2), r"choice=2: must be an integer from 0 to 1"),
        ({"mirostat_tau": 3.0}, ([1, 2], 2, 0), r"token_ids\[0\]=1: must be the tokens of the completion"),
        ({"structured": {"regex": "[a-z]{5}"}}, ([48], 1, 0), r"structured=.*: cannot be followed"),
    ],
)
def test_what_cannot_be_made_again(llm, given, arguments, rule):
    """The error names the argument, its value and its rule."""
    with pytest.raises(ParameterError, match=rule):
        made_again(llm, SamplingParams(**USUAL, **given), *arguments)


def test_a_completion_that_ends_before_the_position(llm):
    """A run that stops earlier does not come to the draw: the tokens cannot be its own."""
    params = SamplingParams(**USUAL, mirostat_tau=3.0, stop_token_ids=list(range(260)))
    first = made_again(llm, params, [], 0, 0).explain().token_id
    with pytest.raises(ParameterError, match=r"must be the tokens of the completion .* \(it has 1\)"):
        made_again(llm, params, [first, 1, 2], 2, 0)
