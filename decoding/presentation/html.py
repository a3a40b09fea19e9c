"""Parts of HTML without scripts, for notebooks and for pages that need nothing else.

Colours are in style attributes, because several notebook viewers drop style sheets. `escaped` is the only place where
text becomes HTML.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from decoding.presentation.scale import LEVELS, level_of

MAX_CELL_CHARACTERS = 60

_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {127: 0x2421}
_MARK = '<span aria-hidden="true" style="opacity:.5;user-select:none">&#8629;</span>'
_TEXT_STYLE = "white-space:pre-wrap;overflow-wrap:anywhere;background:transparent"
_CELL_STYLE = "white-space:pre-wrap;text-align:left;vertical-align:top;padding:.1em .8em .1em 0"

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em; }}
table {{ border-collapse: collapse; font-size: .9em; }}
h2 {{ margin: 1.5em 0 .3em; font-size: 1.1em; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def escaped(text: str) -> str:
    """Return text for an element or an attribute in quotes, its control characters as pictures (U+2400)."""
    return escape(text.translate(_CONTROLS))


def page(title: str, parts: Iterable[str]) -> str:
    """Return a whole page: no script, no font, no network. parts: HTML of the body."""
    return _PAGE.format(title=escaped(title), body="\n".join(parts))


def token_span(text: str, probability: float | None, title: str) -> str:
    """Return a token coloured by its probability (None: no colour), with a title. Line ends get a visible mark."""
    css = "" if probability is None else level_of(probability).css
    style = f' style="background-color:{css}"' if css else ""
    return f'<span{style} title="{escaped(title)}">{escaped(text).replace(chr(10), _MARK + chr(10))}</span>'


def text_block(content: str) -> str:
    """Return a block that keeps the line ends of its content, which is HTML. A line end at its start is shown."""
    return f'<pre style="{_TEXT_STYLE}">\n{content}</pre>'


def paragraph(text: str) -> str:
    """Return a paragraph of text."""
    return f"<p>{escaped(text)}</p>"


def heading(text: str) -> str:
    """Return a heading within a page."""
    return f"<h2>{escaped(text)}</h2>"


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table. names: of the columns, text; rows: of cells, HTML."""
    head = "".join(f'<th scope="col" style="{_CELL_STYLE}">{escaped(name)}</th>' for name in names)
    body = "\n".join(
        "<tr>" + "".join(f'<td style="{_CELL_STYLE}">{cell}</td>' for cell in row) + "</tr>" for row in rows
    )
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def details(summary: str, content: str) -> str:
    """Return content, HTML, that opens with a click or a key on its summary, text."""
    return f"<details>\n<summary>{escaped(summary)}</summary>\n{content}\n</details>"


def shortened(text: str) -> str:
    """Return the text of a cell; a long one ends with the number of characters left out."""
    left_out = len(text) - MAX_CELL_CHARACTERS
    return text if left_out <= 0 else f"{text[:MAX_CELL_CHARACTERS]}... ({left_out} more)"


def legend() -> str:
    """Return the scale of colours as a line."""
    spans = (token_span(f" {level.label} ", level.minimum, f"probability {level.label}") for level in LEVELS)
    return f"<p><small>probability: {' '.join(spans)}</small></p>"
