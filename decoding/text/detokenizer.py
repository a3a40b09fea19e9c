"""Detokenizer and Utf8Decoder: from sampled tokens to bytes, and from bytes to characters, incrementally."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType

from decoding.text.token_decoder import PieceJoiner
from decoding.text.tokenizer import Tokenizer

NOTHING_KNOWN: Mapping[int, bytes] = MappingProxyType({})


class Detokenizer:
    """Finds the bytes that each output token adds to the text: those of prompt + output, minus those of the prompt.

    So a leading space that SentencePiece's convention drops at the start of a text is dropped there and
    nowhere else. Time is linear in the number of output tokens.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_token_ids: Iterable[int] = (),
        skip_special_tokens: bool = True,
        *,
        at_start: bool = True,
    ) -> None:
        """at_start: True if the prompt begins a text. A fill-in-the-middle text never does, so that no leading space is
        dropped from it, however short its prompt is.
        """
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._joiner = PieceJoiner(tokenizer.rules, at_start=at_start)
        self._known: dict[int, bytes] | None = None  # once nothing before a token matters to its bytes
        for token_id in prompt_token_ids:
            if self._joiner.settled:
                break
            self.append(token_id)

    @property
    def is_settled(self) -> bool:
        """True if the bytes of the next tokens do not depend on the tokens before them."""
        return self._joiner.settled

    @property
    def known_bytes(self) -> Mapping[int, bytes]:
        """The bytes of the tokens seen so far, once they do not depend on the tokens before them; otherwise nothing."""
        return NOTHING_KNOWN if self._known is None else self._known

    def append(self, token_id: int) -> bytes:
        """Append the next token; return the bytes that it adds, b"" for a special token that is skipped."""
        if self._known is not None:
            data = self._known.get(token_id)
            return self._learn(token_id) if data is None else data
        text = self._tokenizer.token_text(token_id, self._skip_special_tokens)
        data = b"" if text is None else self._joiner.append(text)
        if self._joiner.settled:
            self._known = self._tokenizer.known_bytes[self._skip_special_tokens]
        return data

    def _learn(self, token_id: int) -> bytes:
        data = self._tokenizer.token_bytes(token_id, self._skip_special_tokens)
        if self._known is not None:
            self._known[token_id] = data
        return data


@lru_cache(maxsize=8)
def pieces_are_settled(tokenizer: Tokenizer) -> bool:
    """Return True if every token has the same bytes at the start of a text as later in it."""
    rules = tokenizer.rules
    if rules.num_strip or rules.drops_repeats or rules.word_end:
        return False
    texts = filter(None, map(tokenizer.token_text, range(tokenizer.vocab_size)))
    return all(rules.piece(text, first=True) == rules.piece(text, first=False) for text in texts)


class Utf8Decoder:
    """Incremental UTF-8: the pieces add up to `bytes.decode("utf-8", "replace")`, however the bytes are cut.

    Bytes that may be part of a character are held until it is complete or invalid, or until the end.
    """

    def __init__(self) -> None:
        self._unfinished = b""

    def feed(self, data: bytes, final: bool = False) -> str:
        """Return the characters that `data` completes; with `final`, an unfinished one becomes U+FFFD."""
        if data.isascii() and not self._unfinished:
            return data.decode()
        data = self._unfinished + data
        text, num_bytes = codecs.utf_8_decode(data, "replace", final)
        self._unfinished = data[num_bytes:]
        return text
