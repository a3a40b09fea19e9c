"""MkDocs hook: small differences between the pages in the repository and on the site."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def on_page_markdown(markdown: str, *, page: Any, **kwargs: Any) -> str:
    r"""Return the text to render.

    The page of contributing is CONTRIBUTING.md. In tables, `\|` inside code becomes `|`: GitHub needs the backslash,
    Python-Markdown shows it.
    """
    if page.file.src_uri == "contributing/index.md":
        text = (ROOT / "CONTRIBUTING.md").read_text()
        markdown = text.replace("](docs/contributing/", "](").replace("](docs/", "](../")
    return re.sub(r"`[^`\n]*\\\|[^`\n]*`", lambda code: code[0].replace("\\|", "|"), markdown)
