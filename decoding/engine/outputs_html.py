"""Results as HTML for notebooks: tokens coloured by their probability, and tables with numbers.

The size is bounded, however long a result is; a line says how much is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from decoding.engine.text_spans import Span, probability_of, spans_of
from decoding.presentation import html

if TYPE_CHECKING:
    from decoding.engine.outputs import Choice, CompletionResult, Logprobs, Score

MAX_CHOICES = 16
MAX_CHARACTERS = 20_000
MAX_SPANS = 2_000
MAX_ROWS = 200
MAX_ALTERNATIVES = 5


def result_html(result: CompletionResult) -> str:
    """Return a result: what it cost, then its choices."""
    usage, shown = result.usage, result.choices[:MAX_CHOICES]
    parts = [
        html.paragraph(
            f"{result.model}: {usage.prompt_tokens:,} prompt + {usage.completion_tokens:,} completion tokens"
        ),
        *(choice_html(choice, share=len(shown)) for choice in shown),
    ]
    if len(result.choices) > len(shown):
        parts.append(html.paragraph(f"{len(result.choices) - len(shown):,} more choices are not shown"))
    return _block(parts)


def choice_html(choice: Choice, share: int = 1) -> str:
    """Return a choice: its text, coloured where there are log-probabilities, and a table of its tokens.

    share: the number of choices that share the limits of size.
    """
    parts = [html.paragraph(_summary(choice))]
    if choice.logprobs is None:
        parts += _plain_text(choice.text, MAX_CHARACTERS // share)
    else:
        parts += _coloured_text(choice.text, choice.logprobs, share)
        parts += [html.legend(), _token_table(choice.logprobs, MAX_ROWS // share)]
    return _block(parts)


def score_html(score: Score) -> str:
    """Return a score: its token ids, coloured, and a table."""
    shown = range(min(len(score.token_ids), MAX_SPANS))
    spans = (_id_span(score.token_ids[i], score.logprobs[i], score.ranks[i]) for i in shown)
    rows = [
        [str(token_id), *_numbers(logprob, rank)]
        for token_id, logprob, rank in zip(score.token_ids, score.logprobs, score.ranks, strict=True)
    ]
    parts = [html.paragraph(f"total log-probability {score.total:.4f}"), html.text_block(" ".join(spans))]
    parts += _left_out(len(score.token_ids) - len(shown), "tokens")
    parts += [html.legend(), _details(["token id", "probability", "logprob", "rank"], rows, MAX_ROWS)]
    return _block(parts)


def _block(parts: Sequence[str]) -> str:
    return "<div>\n" + "\n".join(parts) + "\n</div>"


def _summary(choice: Choice) -> str:
    facts = [f"choice {choice.index}: {choice.finish_reason}", f"seed {choice.seed}"]
    if choice.stop_reason is not None:
        facts.insert(1, f"stopped by {html.shortened(repr(choice.stop_reason))}")
    if choice.mean_logprob is not None:
        facts.append(f"mean logprob {choice.mean_logprob:.4f}")
    if choice.beam_score is not None:
        facts.append(f"score {choice.beam_score:.6f}")
    if choice.error is not None:
        facts.append(f"error: {choice.error}")
    return ", ".join(facts)


def _plain_text(text: str, limit: int) -> list[str]:
    return [html.text_block(html.escaped(text[:limit])), *_left_out(len(text) - limit, "characters")]


def _coloured_text(text: str, logprobs: Logprobs, share: int) -> list[str]:
    """Return the text in spans; without text, as of a model without a tokenizer, the tokens' ids."""
    limit = MAX_SPANS // share
    if not text and all(data is None for data in logprobs.data):
        columns = zip(logprobs.token_ids[:limit], logprobs.token_logprobs, logprobs.ranks, strict=False)
        content = " ".join(_id_span(*column) for column in columns)
        return [html.text_block(content), *_left_out(len(logprobs.token_ids) - limit, "tokens")]
    shown = text[: MAX_CHARACTERS // share]
    spans = spans_of(text, logprobs)
    content, num_characters = "", 0
    for span in spans[:limit]:
        piece = span.text[: len(shown) - num_characters]
        content += _text_span(span._replace(text=piece), logprobs) if piece else ""
        num_characters += len(piece)
    return [html.text_block(content), *_left_out(len(text) - num_characters, "characters")]


def _text_span(span: Span, logprobs: Logprobs) -> str:
    probability = probability_of(span, logprobs.token_logprobs)
    return html.token_span(span.text, probability, "; ".join(_titles(span, logprobs)))


def _titles(span: Span, logprobs: Logprobs) -> Iterator[str]:
    for token in span.tokens:
        yield _title(logprobs.token_ids[token], logprobs.token_logprobs[token], logprobs.ranks[token])


def _title(token_id: int, logprob: float | None, rank: int | None) -> str:
    if logprob is None:
        return f"token {token_id}, not predicted"
    return f"probability {math.exp(logprob):.4g}, rank {rank}, token {token_id}"


def _id_span(token_id: int, logprob: float | None, rank: int | None) -> str:
    probability = None if logprob is None else math.exp(logprob)
    return html.token_span(str(token_id), probability, _title(token_id, logprob, rank))


def _token_table(logprobs: Logprobs, limit: int) -> str:
    """Return a table with a row per token, and its alternatives where they were asked for."""
    columns = (logprobs.tokens, logprobs.token_ids, logprobs.token_logprobs, logprobs.ranks, logprobs.top_logprobs)
    rows = [
        [_text_cell(text), str(token_id), *_numbers(logprob, rank), _alternatives(text, top or {})]
        for text, token_id, logprob, rank, top in list(zip(*columns, strict=True))[:limit]
    ]
    names = ["token", "id", "probability", "logprob", "rank", "alternatives"]
    return _details(names, rows, limit, len(logprobs.tokens))


def _details(names: list[str], rows: list[list[str]], limit: int, number: int | None = None) -> str:
    number = len(rows) if number is None else number
    left_out = _left_out(number - limit, "tokens")
    return html.details(f"{number:,} tokens", "\n".join([html.table(names, rows[:limit]), *left_out]))


def _text_cell(text: str) -> str:
    return f"<code>{html.escaped(html.shortened(repr(text)))}</code>"


def _numbers(logprob: float | None, rank: int | None) -> list[str]:
    if logprob is None:
        return ["-", "-", "-"]
    return [f"{math.exp(logprob):.4f}", f"{logprob:.4f}", str(rank)]


def _alternatives(text: str, top: dict[str, float]) -> str:
    others = [(other, value) for other, value in top.items() if other != text]
    cells = [
        html.token_span(f"{html.shortened(repr(other))} {math.exp(value):.4f}", math.exp(value), f"logprob {value:.4f}")
        for other, value in others[:MAX_ALTERNATIVES]
    ]
    return " ".join([*cells, *([f"({len(others) - len(cells):,} more)"] if len(others) > len(cells) else [])])


def _left_out(number: int, things: str) -> list[str]:
    """Return a line about what is not shown; none if everything is."""
    if number <= 0:
        return []
    return [html.paragraph(f"{number:,} more {things} are not shown here; the result has them all")]
