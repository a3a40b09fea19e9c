"""Griffe extension: shows the docstrings of this project, which are plain text, as Markdown."""

import re
from typing import Any

import griffe

ENTRY = re.compile(r"(?P<indent> *)(?P<names>\*{0,2}[a-z_]\w*(?:, \*{0,2}[a-z_]\w*)*): (?P<text>\S.*)")
HEADING = re.compile(r"(Args|Parameters|Attributes|Returns|Raises):?")


def escaped(line: str) -> str:
    """Return text in which nothing outside code is markup, and names of documents are links from the reference."""
    line = re.sub(r"`[^`]*`|<|__", lambda part: {"<": "&lt;", "__": r"\_\_"}.get(part[0], part[0]), line)
    return re.sub(r"(?<!`)\bdocs/([\w/-]+)\.md\b", r"[\1](../\1.html)", line)


def markdown(text: str) -> str:
    """Return a docstring with its lines `name: text` as a list, and its section headings in bold type."""
    lines: list[str] = []
    entry_indent: int | None = None  # that of the entry that is continued
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if entry := ENTRY.fullmatch(line):
            if entry_indent is None and lines and lines[-1]:
                lines.append("")
            entry_indent = indent
            names = ", ".join(f"`{name}`" for name in entry["names"].split(", "))
            lines.append(f"- {names}: {escaped(entry['text'])}")
        elif entry_indent is not None and line and indent > entry_indent:
            lines.append(f"    {escaped(line.strip())}")
        else:
            if entry_indent is not None and line:
                lines.append("")
            entry_indent = None
            if HEADING.fullmatch(line):
                lines.append(f"**{line.rstrip(':')}**")
            else:
                lines.append(line if indent >= 4 else escaped(line))  # an indented block is code
    return "\n".join(lines)


class PlainDocstrings(griffe.Extension):
    """Rewrites every docstring before it is rendered."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Replace the text of the object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)
