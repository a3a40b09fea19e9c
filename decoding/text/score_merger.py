"""SentencePiece's byte-pair encoding (Kudo and Richardson 2018), in which scores of tokens decide what is merged.

Of all neighbouring pairs that form a token, the pair whose token has the highest score is merged first; ties go to
the leftmost pair. A list of merges, as `tokenizers` needs it, cannot express that if scores are equal or where a
token can be made in several ways.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Mapping
from heapq import heapify, heappop, heappush

_SPACE = "▁"
_MAX_CACHED = 1 << 16  # words
_MAX_WORD = 64  # characters of a word that is worth caching


class ScoreMerger:
    """Splits a text, whose spaces are "▁" already, into tokens, and single characters that are not tokens.

    scores: of every token, by its text.
    state: the scores as bytes, in the order of the mapping.
    """

    def __init__(self, scores: Mapping[str, float]) -> None:
        self.state = array("d", scores.values()).tobytes()
        self._scores = scores
        self._words = _word_pattern(scores)
        self._cache: dict[str, list[str]] = {}

    def pieces(self, text: str) -> list[str]:
        """Return the pieces of `text`, in order."""
        return [piece for word in self._words.findall(text) for piece in self._word_pieces(word)]

    def _word_pieces(self, word: str) -> list[str]:
        """Return the pieces of a word; merges do not reach beyond it."""
        if len(word) > _MAX_WORD:
            return merged(word, self._scores)
        pieces = self._cache.get(word)
        if pieces is None:
            if len(self._cache) >= _MAX_CACHED:
                self._cache = {}
            pieces = self._cache[word] = merged(word, self._scores)
        return pieces


def merged(word: str, scores: Mapping[str, float]) -> list[str]:
    """Merge the characters of `word`, the highest score first, then the leftmost pair."""
    parts: list[str | None] = list(word)  # None: merged into a part before it
    following, preceding = list(range(1, len(parts) + 1)), list(range(-1, len(parts) - 1))
    candidates: list[tuple[float, int, int, int]] = []  # minus score, left, right, length of both

    def candidate(left: int, right: int) -> tuple[float, int, int, int] | None:
        text = f"{parts[left]}{parts[right]}"
        score = scores.get(text)
        return None if score is None else (-score, left, right, len(text))

    candidates = [pair for left in range(len(parts) - 1) if (pair := candidate(left, left + 1))]
    heapify(candidates)
    while candidates:
        _, left, right, length = heappop(candidates)
        first, second = parts[left], parts[right]
        if first is None or second is None or len(first) + len(second) != length:
            continue  # one of them has been merged with another part
        parts[left], parts[right] = first + second, None
        after = following[left] = following[right]
        if after < len(parts):
            preceding[after] = left
            if pair := candidate(left, after):
                heappush(candidates, pair)
        before = preceding[left]
        if before >= 0 and (pair := candidate(before, left)):
            heappush(candidates, pair)
    return [part for part in parts if part is not None]


def _word_pattern(tokens: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that matches one word after the other, such that no token crosses the border of two words.

    A word begins at a mark for a space, unless the character before is a mark, too, or one that some token has before a
    mark.
    """
    inner = re.compile(f"([^{_SPACE}]){_SPACE}")
    joining = {_SPACE, *(char for token in tokens if _SPACE in token[1:] for char in inner.findall(token))}
    joints = re.escape("".join(sorted(joining)))
    return re.compile(rf"(?s:.(?:[^{_SPACE}]|(?<=[{joints}]){_SPACE})*)")
