"""PrivateTokens: encodes a text in which some spellings of added tokens are the tokens, and others are text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

import tokenizers

from decoding.text.tokenizer_encode import encode_ids


class PrivateTokens:
    """A tokenizer in which some added tokens have private names, a mark before their texts, that no text spells.

    It shares the model, the normalizer and the pre-tokenizer of the library's tokenizer that it is made from.
    """

    def __init__(self, library: tokenizers.Tokenizer, mark: str, tokens: tuple[str, ...]) -> None:
        """mark: a character that no token has. tokens: texts of the added tokens to hide."""
        self._mark = mark
        self._pattern = re.compile("|".join(map(re.escape, tokens)))  # longest first, as the library matches them
        self._hidden_ids = frozenset(map(library.token_to_id, tokens))
        self._library = tokenizers.Tokenizer(library.model)
        for part in ("normalizer", "pre_tokenizer"):
            if getattr(library, part) is not None:
                setattr(self._library, part, getattr(library, part))
        self._ids: dict[int, int] = {}
        hidden = frozenset(tokens)
        for token_id, token in sorted(library.get_added_tokens_decoder().items()):
            name = mark + token.content if token.content in hidden else token.content
            normalized = token.normalized and token.content not in hidden  # a mark is found before a text is normalised
            self._ids[self._add(_renamed(token, name, normalized))] = token_id
        self._mark_id = self._add(tokenizers.AddedToken(mark, normalized=False, special=True))

    def _add(self, token: tokenizers.AddedToken) -> int:
        """Add a token and return its id."""
        self._library.add_tokens([token])
        token_id = self._library.token_to_id(token.content)
        assert token_id is not None
        return token_id

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text: hidden tokens are those without a mark inside, and marks are not encoded.

        A spelling with a mark is encoded as any text is. If the model still makes the token of it, the text is
        split at its marks.
        """
        ends = [0, *(end for found in self._pattern.finditer(text) for end in found.span()), len(text)]
        pieces = [text[begin:end] for begin, end in pairwise(ends)]  # text, a token, text, a token, ..., text
        ids = self._encoded(self._mark + piece if odd else piece.replace(self._mark, "") for piece, odd in _odd(pieces))
        if any(token_id in self._hidden_ids and token_id not in self._ids for token_id in ids):
            ids = self._encoded(self._mark + piece if odd else piece for piece, odd in _odd(pieces))
        return [self._ids.get(token_id, token_id) for token_id in ids if token_id != self._mark_id]

    def _encoded(self, pieces: Iterator[str]) -> list[int]:
        return encode_ids(self._library, "".join(pieces))


def _renamed(token: tokenizers.AddedToken, name: str, normalized: bool) -> tokenizers.AddedToken:
    """Return an added token with another name; normalized: it is found in the normalised text."""
    return tokenizers.AddedToken(
        name,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=normalized,
        special=token.special,
    )


def _odd(pieces: list[str]) -> Iterator[tuple[str, bool]]:
    """Yield each piece with True if its index is odd."""
    return ((piece, index % 2 == 1) for index, piece in enumerate(pieces))
