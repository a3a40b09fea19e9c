"""Print the template of every error message, with its place, to be read one by one.

    python tests/tools/error_messages.py [PATH ...]

Python: texts in calls of errors, problems and the like (MAKERS), in variables such as `rule` (VARIABLES), and returned
texts. C: texts of statuses and failures. Holes of f-strings are shown as {expression}.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

MAKERS = re.compile(
    r"(Error|Problem|Exception|Refused|Refusal|error|refuse\w*|fail\w*|problem|single|say|warn\w*|debug|info)$"
)
VARIABLES = re.compile(r"_*(rule|reason|message|hint|what|why|text|problem|missing|note)s?$", re.IGNORECASE)
C_TEXT = re.compile(r'return "((?:[^"\\]|\\.)*)"|fail\w*\([^;"]*"((?:[^"\\]|\\.)*)"')


def template_of(node: ast.expr) -> str | None:
    """Return the text of a string, an f-string or a sum of them, with holes in braces; None for anything else."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(template_of(value) or "" for value in values)
        case ast.FormattedValue(value=value):
            return f"{{{ast.unparse(value)}}}"
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            parts = [template_of(left), template_of(right)]
            return None if parts == [None, None] else "".join("{...}" if part is None else part for part in parts)
        case ast.IfExp(body=body, orelse=orelse):
            parts = [text for text in (template_of(body), template_of(orelse)) if text]
            return " | ".join(parts) or None
    return None


def templates_of(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, template) of the messages in a Python file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and MAKERS.search(ast.unparse(node.func)):
            values = [*node.args, *(keyword.value for keyword in node.keywords)]
        elif isinstance(node, ast.Assign) and any(VARIABLES.match(ast.unparse(target)) for target in node.targets):
            values = [node.value]
        elif isinstance(node, ast.Return) and node.value is not None:
            values = [node.value] if " " in (template_of(node.value) or "") else []
        else:
            continue
        for value in values:
            text = template_of(value)
            if text is not None and " " in text:
                yield value.lineno, text


def c_templates_of(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of the messages in a C file."""
    for found in C_TEXT.finditer(source):
        text = found[1] or found[2] or ""
        if " " in text:
            yield source.count("\n", 0, found.start()) + 1, text


def main() -> None:
    """Print the messages of the paths, or of the package and the C library."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", type=Path, default=[ROOT / "decoding", ROOT / "csrc"])
    for path in parser.parse_args().paths:
        files = [path] if path.is_file() else sorted([*path.rglob("*.py"), *path.rglob("*.[ch]")])
        for file in files:
            source, name = file.read_text(), file.resolve().relative_to(ROOT)
            found = templates_of(ast.parse(source)) if file.suffix == ".py" else c_templates_of(source)
            for line, text in sorted(set(found)):
                print(f"{name}:{line} {text}")


if __name__ == "__main__":
    main()
