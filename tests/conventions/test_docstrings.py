"""Docstrings begin with a verb or a noun: "Return ...", "A row of ...", not with "What ..." or "Whether ..."."""

import ast
import re
from pathlib import Path

import pytest

NOT_CONVERTED = Path(__file__).with_name("docstrings_to_convert.txt")

BAD_BEGINNING = re.compile(r"(What|Whether|Where|Who|Whoever|Those|For who|Of|How|That)\b")

NAMED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def bad_docstrings(tree):
    """Return the first lines of docstrings that begin badly."""
    docstrings = (ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, NAMED))
    return [text.splitlines()[0] for text in docstrings if BAD_BEGINNING.match(text)]


def test_docstrings_begin_plainly(trees):
    """Only listed files have docstrings with a bad beginning, and every listed file has one."""
    listed = NOT_CONVERTED.read_text().split()
    assert listed == sorted(set(listed))
    bad = {path: found for path, tree in trees.items() if (found := bad_docstrings(tree))}
    assert {path: found for path, found in bad.items() if path not in listed} == {}
    assert [path for path in listed if path not in bad] == [], "converted: remove them from docstrings_to_convert.txt"


@pytest.mark.parametrize(
    ("docstring", "is_bad"),
    [
        ("What it is.", True),
        ("How many.", True),
        ("Whatever.", False),
        ("Return what is left.", False),
        ("Offset.", False),
    ],
)
def test_beginnings(docstring, is_bad):
    """A bad beginning is a whole word, not a prefix of a word."""
    assert bool(bad_docstrings(ast.parse(f'"""{docstring}"""'))) == is_bad
