"""Words that the sampler knows as sequences of token ids: what must not be said, and what breaks a repetition."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from decoding.text.tokenizer import Tokenizer
from decoding.types import TokenSequence


def bad_word_sequences(tokenizer: Tokenizer, words: Iterable[TokenSequence]) -> list[tuple[int, ...]]:
    """Each word as it is written inside a text, and at the start of a word: behind a space.

    Another way of cutting the word into tokens is not banned: a ban of text as such is a grammar's business.
    """
    sequences: dict[tuple[int, ...], None] = {}
    for word in words:
        if isinstance(word, str):
            for text in (word, f" {word}"):
                sequences[tuple(tokenizer.encode(text, add_special_tokens=False, at_start=False))] = None
        else:
            sequences[tuple(word)] = None
    return [sequence for sequence in sequences if sequence]


def breaker_sequences(tokenizer: Tokenizer, breakers: Iterable[TokenSequence]) -> list[tuple[int, ...]]:
    """Each string as every token that contains it, and as the tokens that spell it, where no token does."""
    sequences: dict[tuple[int, ...], None] = {}
    for breaker in breakers:
        if isinstance(breaker, str):
            sequences.update(dict.fromkeys((token_id,) for token_id in _tokens_with(tokenizer, breaker)))
            sequences[tuple(tokenizer.encode(breaker, add_special_tokens=False, at_start=False))] = None
        else:
            sequences[tuple(breaker)] = None
    return [sequence for sequence in sequences if sequence]


@lru_cache(maxsize=256)
def _tokens_with(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """All tokens whose bytes contain the text's."""
    data = text.encode()
    return tuple(token_id for token_id, piece in enumerate(_pieces(tokenizer)) if data in piece)


@lru_cache(maxsize=4)
def _pieces(tokenizer: Tokenizer) -> tuple[bytes, ...]:
    return tuple(map(tokenizer.token_bytes, range(tokenizer.vocab_size)))
