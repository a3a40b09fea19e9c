"""MkDocs hook: small differences between Markdown on GitHub and in MkDocs."""

import re
from typing import Any


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    r"""Write `|` for `\|` inside code in a table: GitHub needs the backslash, Python-Markdown shows it."""
    return re.sub(r"`[^`\n]*\\\|[^`\n]*`", lambda code: code[0].replace("\\|", "|"), markdown)
