"""TokenIndex: the tokens of a vocabulary by their bytes."""

from __future__ import annotations

from bisect import bisect_left
from functools import lru_cache

from decoding.text.tokenizer import Tokenizer


class TokenIndex:
    """Finds tokens by the beginning of their bytes. Tokens without bytes, such as special ones, are not in it.

    max_length: bytes of the longest token.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        known = range(min(vocab_size, tokenizer.vocab_size))
        pairs = sorted((data, token_id) for token_id in known if (data := tokenizer.token_bytes(token_id)))
        self._keys = [data for data, _ in pairs]
        self._ids = [token_id for _, token_id in pairs]
        self.max_length = max(map(len, self._keys), default=0)

    def beginning_with(self, data: bytes) -> list[int]:
        """Return the tokens whose bytes begin with `data`, or are `data`."""
        first = bisect_left(self._keys, data)
        last = bisect_left(self._keys, _successor(data), lo=first) if _successor(data) else len(self._keys)
        return self._ids[first:last]

    def spelling(self, data: bytes) -> list[int]:
        """Return the tokens whose bytes are `data`."""
        first = bisect_left(self._keys, data)
        last = bisect_left(self._keys, data + b"\0", lo=first)
        return self._ids[first:last]

    def is_proper_beginning(self, data: bytes) -> bool:
        """Return True if a longer token begins with these bytes."""
        return len(self.beginning_with(data)) > len(self.spelling(data))


def _successor(data: bytes) -> bytes:
    """Return the smallest byte string greater than all that begin with `data`; b"" if there is none."""
    data = data.rstrip(b"\xff")
    return data[:-1] + bytes([data[-1] + 1]) if data else b""


@lru_cache(maxsize=4)
def token_index(tokenizer: Tokenizer, vocab_size: int) -> TokenIndex:
    """Return the index of a tokenizer; cached, because it takes about 0.1 s for 100,000 tokens."""
    return TokenIndex(tokenizer, vocab_size)
