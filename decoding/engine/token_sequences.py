"""Bad words and DRY breakers that are text, as the sequences of token ids that the sampler takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np

from decoding.sequence_table import SequenceTable
from decoding.text.tokenizer import Tokenizer
from decoding.types import TokenSequence

Check: TypeAlias = Callable[[], None]
"""Called between two pieces of work; raises if the work was cancelled."""


def always_wanted() -> None:
    """Do nothing: the work is never cancelled."""


def bad_word_sequences(
    tokenizer: Tokenizer, words: Iterable[TokenSequence], check: Check = always_wanted
) -> SequenceTable:
    """Return each word as tokens in the middle of a text, and as tokens behind a space.

    Other ways to split a word into tokens are not banned; `banned_strings` bans a text however it is split.
    """
    sequences: dict[tuple[int, ...], None] = {}
    for word in words:
        if isinstance(word, str):
            check()
            sequences.update(dict.fromkeys(_spelled(tokenizer, text) for text in (word, f" {word}")))
        else:
            sequences[tuple(word)] = None
    return SequenceTable(filter(None, sequences))


def breaker_sequences(
    tokenizer: Tokenizer, breakers: Iterable[TokenSequence], check: Check = always_wanted
) -> SequenceTable:
    """Return each breaker as every token that contains it, and as the tokens that spell it."""
    containing = np.zeros(tokenizer.vocab_size, bool)
    sequences: dict[tuple[int, ...], None] = {}
    for breaker in breakers:
        if isinstance(breaker, str):
            check()
            containing[tokenizer.tokens_containing(breaker)] = True
            sequences[_spelled(tokenizer, breaker)] = None
        else:
            sequences[tuple(breaker)] = None
    token_ids = np.flatnonzero(containing).tolist()
    for token_id in token_ids:
        sequences.pop((token_id,), None)
    return SequenceTable(filter(None, sequences), token_ids)


def _spelled(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False, at_start=False))
