"""Text in bad_words and dry_sequence_breakers: its token ids and its effect."""

import pytest

from decoding.engine.token_sequences import bad_word_sequences, breaker_sequences
from decoding.errors import TokenizerError
from decoding.llm import LLM
from decoding.params import SamplingParams
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits

EXTRA = [b"ab", b"\n\n", b"a\n", b" word"]
TOKENIZER = byte_tokenizer(EXTRA, ["<eos>"])


def make_llm():
    """Return an LLM over all bytes, some longer tokens and an EOS."""
    return LLM.from_parts(ScriptedModel(hashed_logits(), TOKENIZER.vocab_size, eos_token_ids=(260,)), TOKENIZER)


def test_a_bad_word_is_banned_with_and_without_its_space():
    """A bad word is banned with and without a leading space; token ids are used unchanged."""
    assert list(bad_word_sequences(TOKENIZER, ["ab", (5, 6)])) == [(97, 98), (32, 97, 98), (5, 6)]


def test_a_breaker_is_every_token_that_contains_it():
    """A breaker becomes every token that contains it, and its own tokens if it takes more than one."""
    assert list(breaker_sequences(TOKENIZER, ["\n"])) == [(10,), (257,), (258,)]
    assert list(breaker_sequences(TOKENIZER, ["ab", (7,)])) == [(256,), (97, 98), (7,)]
    assert list(breaker_sequences(TOKENIZER, ["\n", (257,), (257, 10)])) == [(10,), (257,), (258,), (257, 10)]


def test_bad_words_are_never_drawn():
    """No text contains the bad word, while some do without the ban."""
    params = {"n": 20, "seed": 1, "max_tokens": 20, "allowed_token_ids": [97, 98]}
    banned = make_llm().complete("x", SamplingParams(**params, bad_words="aba"))
    free = make_llm().complete("x", SamplingParams(**params))
    assert not any("aba" in choice.text for choice in banned.choices)
    assert any("aba" in choice.text for choice in free.choices)


def test_a_breaker_ends_the_repetition():
    """DRY penalises the continuation of a repetition, but not across a sequence breaker."""
    params = {"temperature": 0.0, "max_tokens": 1, "dry_multiplier": 100.0, "allowed_token_ids": [97, 98, 99]}
    prompt = "xyza xyz"
    strong = {"logit_bias": {97: 50.0}}
    assert make_llm().complete(prompt, SamplingParams(**params, **strong)).choices[0].text != "a"
    broken = SamplingParams(**params, **strong, dry_sequence_breakers=["z"])
    assert make_llm().complete(prompt, broken).choices[0].text == "a"


def test_words_need_a_tokenizer():
    """Text in bad_words or dry_sequence_breakers without a tokenizer raises a TokenizerError."""
    llm = LLM.from_parts(ScriptedModel(hashed_logits(), 50))
    for name in ("bad_words", "dry_sequence_breakers"):
        with pytest.raises(TokenizerError, match=name):
            llm.complete([1], SamplingParams(**{name: ["a"]}))


def test_a_dynamic_temperature_around_zero_is_not_greedy():
    """With a dynamic temperature around 0, candidates are drawn separately and differ."""
    params = SamplingParams(temperature=0.0, dynatemp_range=3.0, n=8, seed=1, max_tokens=6, ignore_eos=True)
    assert len({choice.text for choice in make_llm().complete("ab", params).choices}) > 1
