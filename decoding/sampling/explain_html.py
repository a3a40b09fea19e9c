"""An explanation as HTML: a table of the stages, with the most likely tokens after each."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from decoding.presentation import html

if TYPE_CHECKING:
    from decoding.sampling.explain import Explanation, Step

_COLUMNS = ("stage", "kept", "removed", "entropy", "most likely")


def explanation_html(explanation: Explanation, text_of: Callable[[int], str] = str, num_top: int = 5) -> str:
    """Return the table of an explanation and the token that was drawn, or the error; `text_of` writes a token."""
    rows = [_row(step, text_of, num_top) for step in explanation.steps]
    return f"<div>\n{html.table(_COLUMNS, rows)}\n{_outcome(explanation, text_of)}\n</div>"


def _row(step: Step, text_of: Callable[[int], str], num_top: int) -> list[str]:
    top = [_token(token_id, p, text_of) for token_id, p in step.top_after(num_top)]
    numbers = [f"{step.num_kept:,}", f"{step.mass_removed:.6f}", f"{step.entropy:.4f}"]
    return [html.escaped(step.title), *numbers, " ".join(top)]


def _token(token_id: int, probability: float, text_of: Callable[[int], str]) -> str:
    text = f"{html.shortened(text_of(token_id))} {probability:.4f}"
    return html.token_span(text, probability, f"probability {probability:.4g}, token {token_id}")


def _outcome(explanation: Explanation, text_of: Callable[[int], str]) -> str:
    if explanation.token_id is None:
        return html.paragraph(f"fails: {explanation.error}")
    probability = float(explanation.probabilities[explanation.token_id])
    return f"<p style='white-space:pre-wrap'>drawn: {_token(explanation.token_id, probability, text_of)}</p>"
