"""PlainText: encode untrusted text, in which the spelling of a special token is text like any other."""

from __future__ import annotations

import tokenizers

from decoding.text.tokenizer_encode import encode_ids


class PlainText:
    """A tokenizer of the library without its added tokens, except those of whitespace alone, which are only text.

    It shares model, normalizer and pre-tokenizer with the one that it is made from. Tokens that are not marked as
    special are left out too: the markers of tools and of filling in the middle often are not.
    """

    def __init__(self, library: tokenizers.Tokenizer) -> None:
        self._library = tokenizers.Tokenizer(library.model)
        for part in ("normalizer", "pre_tokenizer"):
            if getattr(library, part) is not None:
                setattr(self._library, part, getattr(library, part))
        added = sorted(library.get_added_tokens_decoder().items())
        self._hidden = frozenset(token_id for token_id, token in added if not token.content.isspace())
        self._ids: dict[int, int] = {}
        for token_id, token in added:
            if token_id not in self._hidden:
                self._library.add_tokens([token])
                own_id = self._library.token_to_id(token.content)
                assert own_id is not None  # it was added just now
                self._ids[own_id] = token_id

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without any special tokens around it."""
        return [self._ids.get(token_id, token_id) for token_id in encode_ids(self._library, text)]

    def hides(self, token_id: int) -> bool:
        """Return True for an added token that was left out, which now only the model itself could produce."""
        return token_id in self._hidden
