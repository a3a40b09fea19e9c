"""Bad words and DRY breakers that are text, as the sequences of token ids that the sampler takes."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from decoding.text.tokenizer import Tokenizer
from decoding.types import TokenSequence


def bad_word_sequences(tokenizer: Tokenizer, words: Iterable[TokenSequence]) -> list[tuple[int, ...]]:
    """Return each word as tokens in the middle of a text, and as tokens behind a space.

    Other ways to cut a word into tokens are not banned: to ban text as such takes a grammar.
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
    """Return each breaker as every token that contains it, and as the tokens that spell it."""
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
    """Return all tokens whose bytes contain those of the text."""
    data = text.encode()
    return tuple(token_id for token_id, piece in enumerate(_pieces(tokenizer)) if data in piece)


@lru_cache(maxsize=4)
def _pieces(tokenizer: Tokenizer) -> tuple[bytes, ...]:
    return tuple(map(tokenizer.token_bytes, range(tokenizer.vocab_size)))
