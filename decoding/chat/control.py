"""Control tokens in messages: text that spells one stays text.

A rendered prompt is one string, in which the template's `<|im_end|>` and a user's look alike. So before the template
sees a message, a mark, a character that occurs nowhere else, is put inside each control token that the message spells,
in whatever case, and at an end of the message that could become one together with the template's own text. The marks
go through what templates do with texts (trim, upper, replace, split), because they stand between the characters that
they part. A control token of the rendered text that has no mark inside is the template's own; the others are text, and
the marks are taken out again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from decoding.errors import PromptError, shown

MARKS = tuple(map(chr, range(0xFDD0, 0xFDF0)))
"""Unicode's noncharacters, which have no meaning in text that is interchanged."""

_WORDS = ("role", "type")
"""Fields whose values templates compare with literals: only control tokens spelled in full are marked there."""


def unused_marks(texts: Iterable[str]) -> tuple[str, str]:
    """Return two marks that occur in none of the texts; PromptError if fewer than two are unused."""
    left = set(MARKS)
    for text in texts:
        left.difference_update(text)
    if len(left) < 2:
        raise PromptError("messages: must leave two of the noncharacters from U+FDD0 to U+FDEF unused", "messages")
    first, second, *_ = sorted(left)
    return first, second


class ControlTokens:
    """The texts of control tokens, and the marks that break them up in other texts."""

    def __init__(self, tokens: Iterable[str]) -> None:
        several = sorted(set(tokens), key=lambda text: (-len(text), text))
        self.tokens = tuple(text for text in several if len(text) > 1)
        self._single = [text for text in several if len(text) == 1]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self.tokens)) or r"(?!)", re.IGNORECASE)

    @cached_property
    def _exact(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self.tokens)) or r"(?!)")

    @cached_property
    def _beginnings(self) -> frozenset[str]:
        return frozenset(text[:size].lower() for text in self.tokens for size in range(1, len(text)))

    @cached_property
    def _ends(self) -> frozenset[str]:
        return frozenset(text[size:].lower() for text in self.tokens for size in range(1, len(text)))

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.tokens), default=0)

    def marked(self, text: str, mark: str) -> str:
        """Return a text with a mark in each control token that it spells, and at an end that could be part of one."""
        inside = self._parted(text, mark)
        body = inside.strip()
        if not body:
            return inside
        start = inside.index(body)
        before = mark if self._touches(body, self._ends, at_end=False) else ""
        after = mark if self._touches(body, self._beginnings, at_end=True) else ""
        return f"{inside[:start]}{before}{body}{after}{inside[start + len(body) :]}"

    def count(self, text: str) -> int:
        """Return how many control tokens a text spells, longest first."""
        return sum(1 for _ in self._exact.finditer(text))

    def marked_names(self, value: Any, mark: str) -> Any:
        """Return a JSON value with marked texts; in keys and literals only whole control tokens are marked."""
        if isinstance(value, str):
            return self.marked(value, mark)
        if isinstance(value, list):
            return [self.marked_names(item, mark) for item in value]
        if isinstance(value, Mapping):
            return {
                self._parted(key, mark): self._parted(item, mark)
                if key in _WORDS and isinstance(item, str)
                else self.marked_names(item, mark)
                for key, item in value.items()
            }
        return value

    def _parted(self, text: str, mark: str) -> str:
        """Put a mark behind the first character of each control token, until the text spells none."""
        for token in self._single:
            if token in text:
                rule = f"must not have the control token {shown(token)}, a single character, which no mark can break up"
                raise PromptError(f"messages={shown(text)}: {rule}", "messages")
        while self._pattern.search(text):
            text = self._pattern.sub(lambda found: found[0][0] + mark + found[0][1:], text)
        return text

    def _touches(self, text: str, parts: frozenset[str], *, at_end: bool) -> bool:
        sizes = range(1, min(len(text), self._longest - 1) + 1)
        return any((text[-size:] if at_end else text[:size]).lower() in parts for size in sizes)
