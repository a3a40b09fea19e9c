"""Replace decoders by regular expression: matched by the `tokenizers` library itself, in bounded time."""

from __future__ import annotations

import re

import tokenizers

_TEXT = re.compile(r"[^\udc80-\udcff]+")
"""Characters other than surrogate escapes, which represent bytes that are not UTF-8 by themselves."""


class RegexReplacement:
    """Replaces matches in a text with the library's decoder. Raises Exception for a bad pattern."""

    def __init__(self, pattern: str, content: str) -> None:
        self._decoder = tokenizers.decoders.Replace(tokenizers.Regex(pattern), content)

    def __call__(self, text: str) -> str:
        """Return the text with every match replaced."""
        return _TEXT.sub(self._replaced, text)

    def _replaced(self, found: re.Match[str]) -> str:
        text: str = self._decoder.decode([found[0]])
        return text
