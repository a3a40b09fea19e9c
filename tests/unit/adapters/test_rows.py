"""Tests of RowSampler: rows of another engine's batch, drawn by this library's sampler."""

import numpy as np
import pytest

from decoding import LLM, SamplingParams
from decoding.adapters.rows import OF_OUR_LOOP, RowSampler, check_params, new_state
from decoding.errors import EngineError, ParameterError
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits

VOCAB_SIZE = 256
SCRIPT = hashed_logits(4)
PAD = 255


def host(rows, prompts, steps):
    """Run the loop of a host library: prompts padded on the left, one token per row and step."""
    width = max(map(len, prompts))
    tokens = [[PAD] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    for _ in range(steps):
        logits = np.stack([SCRIPT([token for token in ids if token != PAD], VOCAB_SIZE) for ids in tokens])
        drawn = rows.draw(tokens, logits)
        tokens = [[*ids, PAD if token is None else token] for ids, token in zip(tokens, drawn, strict=True)]
    return [ids[width:] for ids in tokens]


def alone(prompt, params):
    llm = LLM.from_parts(ScriptedModel(SCRIPT, VOCAB_SIZE), byte_tokenizer())
    return [choice.token_ids for choice in llm.complete(prompt, params).choices]


def test_rows_agree_with_the_engine():
    """Rows with equal prompts are the choices of one request; other rows are separate requests."""
    params = SamplingParams(seed=5, temperature=0.9, top_p=0.8, frequency_penalty=0.4, banned_token_ids=(PAD,))
    rows = RowSampler(VOCAB_SIZE, params, pad_token_id=PAD)
    texts = host(rows, [[7, 8, 9], [1, 2], [7, 8, 9]], 6)
    settings = {name: getattr(params, name) for name in ("seed", "temperature", "top_p", "frequency_penalty")}
    settings |= {"max_tokens": 6, "banned_token_ids": (PAD,)}
    assert [texts[0], texts[2]] == alone([7, 8, 9], SamplingParams(n=2, **settings))
    assert [texts[1]] == alone([1, 2], SamplingParams(**settings))


def test_finished_rows_draw_nothing():
    """A row is padded after its end token, and the other row continues as if it were alone."""
    first, second = (SamplingParams(seed=seed, banned_token_ids=(PAD,)) for seed in (1, 2))
    (expected,) = host(RowSampler(VOCAB_SIZE, [second], pad_token_id=PAD), [[3]], 5)
    (text,) = host(RowSampler(VOCAB_SIZE, [first], pad_token_id=PAD), [[3]], 5)
    rows = RowSampler(VOCAB_SIZE, [first, second], eos_token_ids=[text[1]], pad_token_id=PAD)
    ended, other = host(rows, [[3], [3]], 5)
    assert ended == [*text[:2], PAD, PAD, PAD]
    assert other[: other.index(text[1]) if text[1] in other else 5] == expected[: len(other)]


def test_tokens_must_be_the_drawn_ones():
    """A host that changes drawn tokens, as beam search does, or reuses the sampler gets an EngineError."""
    rows = RowSampler(VOCAB_SIZE, SamplingParams(seed=1))
    logits = np.stack([SCRIPT([3], VOCAB_SIZE)])
    (token,) = rows.draw([[3]], logits)
    with pytest.raises(EngineError, match=f"row 0 has token {(token + 1) % 256} where {token} was drawn"):
        rows.draw([[3, (token + 1) % 256]], logits)
    with pytest.raises(EngineError, match="a sampler serves one call"):
        rows.draw([[3]], logits)


@pytest.mark.parametrize(
    ("name", "value"), [("stop", ["x"]), ("n", 2), ("echo", True), ("logprobs", 1), ("stop_token_ids", [5])]
)
def test_parameters_of_a_loop_are_refused(name, value):
    """A parameter that only the engine's own loop can apply is refused."""
    with pytest.raises(ParameterError, match=f"{name}=.*only the engine that ends the text can do this"):
        RowSampler(VOCAB_SIZE, SamplingParams(**{name: value}))


def test_max_tokens_belongs_to_the_host():
    """max_tokens must be None, which allows any min_tokens."""
    with pytest.raises(ParameterError, match="max_tokens=7: must be None"):
        RowSampler(VOCAB_SIZE, SamplingParams(max_tokens=7))
    RowSampler(VOCAB_SIZE, SamplingParams(max_tokens=None, min_tokens=40))


def test_one_params_per_row():
    """The number of parameters must equal the number of rows."""
    rows = RowSampler(VOCAB_SIZE, [SamplingParams(seed=1)] * 2)
    with pytest.raises(ParameterError, match=r"params=.*must be one per row"):
        rows.draw([[3]], np.zeros((1, VOCAB_SIZE), np.float32))


def test_all_problems_at_once():
    """The error names every refused parameter."""
    with pytest.raises(ParameterError) as caught:
        check_params(SamplingParams(n=2, echo=True), OF_OUR_LOOP)
    assert [problem.parameter for problem in caught.value.problems] == ["n", "echo"]


def test_a_state_of_a_host_that_ends_texts():
    """The state takes parameters that the host's loop honours, such as a length and end tokens."""
    state = new_state(SamplingParams(max_tokens=12, stop_token_ids=[3], seed=1), [1, 2])
    assert (state.position, state.params.max_tokens) == (0, 12)
