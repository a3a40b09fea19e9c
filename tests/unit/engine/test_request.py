"""Tests of make_request: the conversion of a prompt and parameters to a request."""

import hashlib

import numpy as np
import pytest

from decoding.engine.request import make_request, rng_stream_of, split_prompts
from decoding.errors import ContextLengthError, ParameterError, PromptError, TokenizerError
from decoding.params import SamplingParams
from decoding.testing.scripted import ScriptedConfig, byte_tokenizer

TOKENIZER = byte_tokenizer(special=["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"])
SHAPE = ScriptedConfig(vocab_size=260, max_position_embeddings=8, bos_token_id=None, eos_token_ids=(3,))


def request(prompt, shape=SHAPE, tokenizer=TOKENIZER, **params):
    """Return a request to the small model SHAPE."""
    return make_request(prompt, SamplingParams(**params), shape, tokenizer)


@pytest.mark.parametrize(
    ("prompts", "expected", "is_list"),
    [
        ("ab", ["ab"], False),
        ([1, 2], [[1, 2]], False),
        ((1, 2), [(1, 2)], False),
        (range(3), [range(3)], False),
        (np.array([1, 2]), [[1, 2]], False),
        (["ab"], ["ab"], True),
        (["ab", [1]], ["ab", [1]], True),
        ([[1], (2,)], [[1], (2,)], True),
        (np.array([[1], [2]]), [[1], [2]], True),
        ([], [[]], False),
    ],
)
def test_one_prompt_or_a_list_of_them(prompts, expected, is_list):
    """A string or a sequence of integers is one prompt; a sequence of these is a list of prompts."""
    assert split_prompts(prompts) == (expected, is_list)


@pytest.mark.parametrize("prompt", [b"ab", None, 1.5, 7, {"a": 1}, {1, 2}, object(), np.array(3), iter([1])])
def test_other_types_are_no_prompts(prompt):
    """A prompt of another type raises an error with the parameter, the value and the rule."""
    with pytest.raises(PromptError, match=r"prompt=.*must be a string"):
        split_prompts(prompt)


@pytest.mark.parametrize(
    "bad", [-1, 260, 2**31, -(2**63), True, 1.0, None, "a", np.float32(1), 10**5000], ids=lambda bad: type(bad).__name__
)
def test_bad_token_ids(bad):
    """A bad token id raises an error with its position, its value and the range."""
    with pytest.raises(PromptError, match=r"prompt\[1\]=.*from 0 to 259"):
        request([5, bad])


@pytest.mark.parametrize("suffix", [None, "b"])
def test_text_with_a_token_outside_the_vocabulary(suffix):
    """A text with a token outside the model's vocabulary raises an error with its position and the range."""
    shape = ScriptedConfig(vocab_size=4, max_position_embeddings=8, bos_token_id=None, eos_token_ids=(3,))
    with pytest.raises(PromptError, match=r"prompt\[\d\]=\d+: must be a token id: an integer from 0 to 3"):
        request("a", shape, suffix=suffix)


def test_numpy_integers_are_integers():
    """Token ids of numpy types become plain ints."""
    made = request([np.int32(5), np.uint8(6)])
    assert made.token_ids == [5, 6]
    assert all(type(token_id) is int for token_id in made.token_ids)


def test_empty_prompts():
    """An empty text becomes the start token if there is one; an empty list of ids is an error."""
    with pytest.raises(PromptError, match="must not be empty"):
        request("")
    assert request("", ScriptedConfig(260, 8, 9, ())).token_ids == [9]
    with_bos = byte_tokenizer(special=["<bos>"])
    assert request("", tokenizer=with_bos).token_ids == [256]
    with pytest.raises(PromptError, match="at least one token id"):
        request([])


def test_text_must_be_unicode():
    """A lone surrogate in the prompt raises a PromptError."""
    with pytest.raises(PromptError, match="lone surrogates"):
        request("a\udcff")


@pytest.mark.parametrize(
    ("prompt", "params"), [("a", {}), ([1], {"stop": "x"}), ([1], {"suffix": "x"})], ids=["prompt", "stop", "suffix"]
)
def test_text_needs_a_tokenizer(prompt, params):
    """Without a tokenizer, text raises a TokenizerError, and token ids are accepted."""
    with pytest.raises(TokenizerError, match="no tokenizer"):
        request(prompt, tokenizer=None, **params)
    assert request([1], tokenizer=None).token_ids == [1]


def test_the_context():
    """A prompt that fills the context may still get one token; a longer one raises a ContextLengthError."""
    assert request([1] * 8, max_tokens=None).max_output_tokens == 1
    assert request([1] * 3, max_tokens=None).max_output_tokens == 6
    assert request([1] * 3, max_tokens=4).max_output_tokens == 4
    assert request([1] * 3, max_tokens=40).max_output_tokens == 6
    with pytest.raises(ContextLengthError) as caught:
        request([1] * 9)
    assert (caught.value.num_tokens, caught.value.max_tokens) == (9, 8)
    assert str(caught.value).startswith("prompt=9 tokens: ")


@pytest.mark.parametrize(
    "params",
    [{"stop_token_ids": [260]}, {"allowed_token_ids": [1, 300]}, {"banned_token_ids": [260]}, {"logit_bias": {260: 1}}],
)
def test_token_ids_in_parameters_must_be_in_the_vocabulary(params):
    """Token ids outside the vocabulary in any parameter raise an error that names it."""
    with pytest.raises(ParameterError, match=next(iter(params)) + "=.*vocab_size=260"):
        request([1], **params)


def test_a_seed_is_drawn_once_for_the_prompt():
    """A missing seed is drawn once per request as a signed 64-bit integer; a given seed is kept."""
    made = request([1])
    seeds = {made.new_state(choice).seed for choice in range(4)}
    assert seeds == {made.params.seed}
    assert -(2**63) <= made.params.seed < 2**63
    assert request([1]).params.seed != made.params.seed
    assert request([1], seed=-5).params.seed == -5


def test_the_stream_is_a_digest_of_the_prompt():
    """rng_stream is the 64-bit BLAKE2b digest of the ids as little-endian 32-bit integers."""
    digest = hashlib.blake2b(bytes([1, 0, 0, 0, 4, 1, 0, 0]), digest_size=8).digest()
    assert rng_stream_of([1, 260]) == int.from_bytes(digest, "little")
    assert request([1, 2]).rng_stream == rng_stream_of([1, 2]) != rng_stream_of([2, 1])


def test_fill_in_the_middle_counts_only_the_prefix():
    """Fill-in-the-middle computes markers and suffix, but penalties and echo see the prefix only."""
    made = request("a", suffix="b")
    assert made.token_ids == [256, 97, 257, 98, 258]
    assert made.prefix_token_ids == [97]
    assert made.new_state(0).prompt_token_ids == (97,)


@pytest.mark.parametrize(("temperature", "greedy"), [(0.0, True), (2.0**-21, True), (2.0**-20, False), (1.0, False)])
def test_greedy(temperature, greedy):
    """A request is greedy if its temperature is below 2**-20."""
    assert request([1], temperature=temperature).is_greedy is greedy
