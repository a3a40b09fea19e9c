"""Print docstrings, drawn at random or all of them, to be read by someone who has not seen the code.

    python tests/tools/docstrings.py --seed 1             # 80 of all
    python tests/tools/docstrings.py --all decoding/text  # each one under a folder, or of a file

Counts docstrings of modules, classes, functions and constants in Python files, and comments above the declarations of C
headers. A draw depends on the seed and the files alone.
"""

from __future__ import annotations

import argparse
import ast
import random
import re
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("decoding", "benchmarks", "bundled_model", "csrc", "tests")

NAMED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
C_COMMENT = re.compile(r"^/\*(?P<text>.*?)\*/\n(?P<below>[^\n]*)", re.DOTALL | re.MULTILINE)


class Docstring(NamedTuple):
    """A docstring with its position and the qualified name of the thing that it describes."""

    path: str
    line: int
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.name}\n{textwrap.indent(self.text, '    ')}"


def docstrings_of(tree: ast.Module, path: str) -> Iterator[Docstring]:
    """Yield the docstrings of a Python file."""
    yield from _of_node(tree, path, ())


def _of_node(node: ast.AST, path: str, names: tuple[str, ...]) -> Iterator[Docstring]:
    if isinstance(node, NAMED):
        if not isinstance(node, ast.Module):
            names = (*names, node.name)
        text = ast.get_docstring(node)
        if text is not None:
            yield Docstring(path, getattr(node, "lineno", 1), ".".join(names) or "module", text)
    body = getattr(node, "body", None)
    if isinstance(body, list):
        yield from _of_constants(body, path, names)
        for child in body:
            yield from _of_node(child, path, names)


def _of_constants(body: list[ast.stmt], path: str, names: tuple[str, ...]) -> Iterator[Docstring]:
    """Yield the strings that follow assignments."""
    for above, below in pairwise(body):
        is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(above, (ast.Assign, ast.AnnAssign)) and is_text and isinstance(below.value.value, str):
            target = above.targets[0] if isinstance(above, ast.Assign) else above.target
            yield Docstring(path, above.lineno, ".".join((*names, ast.unparse(target))), below.value.value)


def comments_of(source: str, path: str) -> Iterator[Docstring]:
    """Yield the comments above declarations of a C header."""
    for found in C_COMMENT.finditer(source):
        text = re.sub(r"\n \* ?", "\n", found["text"]).strip()
        yield Docstring(path, source.count("\n", 0, found.start()) + 1, found["below"].strip(" {") or "file", text)


def all_docstrings(paths: list[Path]) -> list[Docstring]:
    """Return the docstrings of files, and of the files in folders, ordered by path and line."""
    found: list[Docstring] = []
    for path in paths:
        files = [path] if path.is_file() else sorted([*path.rglob("*.py"), *path.rglob("*.h")])
        for file in files:
            name, source = file.relative_to(ROOT).as_posix(), file.read_text()
            found += comments_of(source, name) if file.suffix == ".h" else docstrings_of(ast.parse(source), name)
    return sorted(found)


def main() -> None:
    """Print what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", type=Path, help="files or folders (default: the whole repository)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")
    parser.add_argument("--count", type=int, default=80, help="docstrings to draw (default: 80)")
    parser.add_argument("--all", action="store_true", help="print all instead of drawing")
    options = parser.parse_args()
    found = all_docstrings([path.resolve() for path in options.paths] or [ROOT / folder for folder in FOLDERS])
    drawn = found if options.all else random.Random(options.seed).sample(found, min(options.count, len(found)))
    print(f"{len(drawn)} of {len(found)} docstrings" + ("" if options.all else f", seed {options.seed}"))
    for docstring in drawn:
        print(f"\n{docstring}")


if __name__ == "__main__":
    main()
