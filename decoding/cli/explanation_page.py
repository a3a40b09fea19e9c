"""The page of `decoding explain --html`: the text in colours, and a table per token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from decoding.cli.console import say
from decoding.file_output import write_whole
from decoding.presentation import html

if TYPE_CHECKING:
    from decoding.sampling.explain import Explanation

MAX_TOKENS = 1_000
"""Tokens that a page shows; each takes about 10 KB."""


class ExplanationPage:
    """Collects explanations as HTML, so the distributions themselves need not be kept.

    num_tokens: explanations that were added, shown or not.
    """

    def __init__(self, prompt: str, text_of: Callable[[int], str], num_top: int, token_ids: Sequence[int]) -> None:
        """text_of: returns a token's text in quotes. num_top: tokens per stage. token_ids: as of `reasons`."""
        self.num_tokens = 0
        self._prompt = prompt
        self._text_of = text_of
        self._num_top = num_top
        self._token_ids = token_ids
        self._tokens: list[str] = []
        self._sections: list[str] = []

    def add(self, explanation: Explanation) -> None:
        """Add the next token."""
        from decoding.sampling.explain_html import explanation_html

        self.num_tokens += 1
        if self.num_tokens > MAX_TOKENS:
            return
        self._tokens.append(self._token(explanation))
        self._sections += [
            html.heading(f"token {self.num_tokens}"),
            explanation_html(explanation, self._text_of, self._num_top),
            *map(html.paragraph, reasons(explanation, self._text_of, self._token_ids)),
        ]

    def write(self, path: str) -> None:
        """Write the page to a file. Raise OSError if it cannot be written."""
        parts = [
            html.heading("prompt"),
            html.text_block(html.escaped(self._prompt)),
            html.heading("tokens drawn"),
            html.text_block(" ".join(self._tokens)),
            html.legend(),
            *self._sections,
        ]
        if self.num_tokens > MAX_TOKENS:
            line = f"{self.num_tokens - MAX_TOKENS:,} more tokens are not on this page, which shows {MAX_TOKENS:,}"
            parts.append(html.paragraph(line))
            say(f"warning: --html {path}: {line}")
        write_whole(path, html.page("decoding explain", parts))

    def _token(self, explanation: Explanation) -> str:
        if explanation.token_id is None:
            return html.escaped(f"(fails: {explanation.error})")
        probability = float(explanation.probabilities[explanation.token_id])
        title = f"probability {probability:.4g}, token {explanation.token_id}"
        return html.token_span(self._text_of(explanation.token_id), probability, title)


def reasons(explanation: Explanation, text_of: Callable[[int], str], token_ids: Sequence[int]) -> list[str]:
    """Return a line for each of some tokens: why it could not be drawn, or that it could be."""
    pairs = ((token_id, explanation.why_not(token_id)) for token_id in token_ids)
    return [f"{token_id} {text_of(token_id)}: {reason or 'could be drawn'}" for token_id, reason in pairs]
