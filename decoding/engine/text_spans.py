"""Text spans: which characters of a completion's text each token stands for."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from decoding.engine.outputs import Logprobs


class Span(NamedTuple):
    """A stretch of text, and the indices of the tokens that begin at its first character.

    There are several where tokens share a character, or where tokens that the text does not show come before; none
    for text before the first token.
    """

    text: str
    tokens: tuple[int, ...]


class TextSpans:
    """Divides a text that arrives in pieces at the tokens that begin in it.

    The texts of the spans, joined, are the text.
    """

    def __init__(self, num_skipped: int = 0) -> None:
        """num_skipped: characters of the first tokens that are not in the text (token healing: the prompt has them)."""
        self._num_skipped = num_skipped
        self._position: int | None = None
        self._tokens: tuple[int, ...] = ()
        self._num_tokens = 0
        self._ahead: deque[tuple[int, int]] = deque()  # (offset, token) of tokens whose text has not come

    def add(self, text: str, text_offsets: Sequence[int]) -> list[Span]:
        """Return the spans of the next piece of text. text_offsets: of the tokens that come with the piece."""
        self._ahead.extend(zip(text_offsets, count(self._num_tokens), strict=False))
        self._num_tokens += len(text_offsets)
        if self._position is None:
            self._position = self._ahead[0][0] + self._num_skipped if self._ahead else 0
        spans, index = [], 0
        while index < len(text):
            self._tokens = self._tokens_at(self._position) or self._tokens
            size = self._ahead[0][0] - self._position if self._ahead else len(text)
            piece = text[index : index + size]
            spans.append(Span(piece, self._tokens))
            index, self._position = index + len(piece), self._position + len(piece)
        return spans

    def _tokens_at(self, position: int) -> tuple[int, ...]:
        """Take the tokens that begin at a position, or before it without text."""
        begun = []
        while self._ahead and self._ahead[0][0] <= position:
            begun.append(self._ahead.popleft()[1])
        return tuple(begun)


def spans_of(text: str, logprobs: Logprobs) -> list[Span]:
    """Return the spans of a whole text."""
    return TextSpans(num_skipped(text, logprobs)).add(text, logprobs.text_offset)


def probability_of(span: Span, token_logprobs: Sequence[float | None]) -> float | None:
    """Return the probability of a span's tokens together; None if the model predicted none of them."""
    values = [value for token in span.tokens if (value := token_logprobs[token]) is not None]
    return math.exp(sum(values)) if values else None


def num_skipped(text: str, logprobs: Logprobs) -> int:
    """Return the number of characters that the tokens spell before a whole text begins.

    With token healing the first tokens spell characters of the prompt again. A stop string may have cut the end.
    """
    spelled = _spelled(logprobs)
    return len(spelled) - len(text) if spelled.endswith(text) else max(0, spelled.find(text))


def _spelled(logprobs: Logprobs) -> str:
    """Return the characters that the tokens spell, without tokens that are not part of the text."""
    visible = [
        data or b""
        for data, offset, end in zip(
            logprobs.data, logprobs.text_offset, [*logprobs.text_offset[1:], None], strict=True
        )
        if end is None or end > offset or _is_unfinished(data)
    ]
    return b"".join(visible).decode("utf-8", "replace")


def _is_unfinished(data: bytes | None) -> bool:
    """Return True for bytes that are part of a character, which further tokens finish."""
    try:
        (data or b"").decode()
    except UnicodeDecodeError:
        return True
    return False
