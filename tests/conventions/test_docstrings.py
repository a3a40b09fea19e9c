"""Docstrings begin with a verb or a noun, and have none of the phrases that a reader must decode."""

import ast
import re

import pytest

BAD_BEGINNING = re.compile(r"(What|Whether|Where|Who|Whoever|Those|For who|Of|How|That)\b")

BAD_PHRASE = re.compile(
    r"\b(nobody|anybody|somebody|everybody|whoever|oneself|what (is|was) left|guess\w*|rivals?|for ever|as ever"
    r"|at the door|in company|held (to|against)|in one go|as it stands)\b",
    re.IGNORECASE,
)


def texts_of(tree):
    """Yield the docstrings of a file, and the strings that describe constants."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value


def bad_docstrings(tree):
    """Return the first lines of texts that begin badly, and the bad phrases of others."""
    beginnings = [text.splitlines()[0] for text in texts_of(tree) if BAD_BEGINNING.match(text)]
    return beginnings + [found[0] for text in texts_of(tree) if (found := BAD_PHRASE.search(text))]


def test_docstrings_are_plain(trees):
    """No docstring and no description of a constant begins badly or has a bad phrase; there are no exceptions."""
    assert {path: found for path, tree in trees.items() if (found := bad_docstrings(tree))} == {}


@pytest.mark.parametrize(
    ("docstring", "is_bad"),
    [
        ("What it is.", True),
        ("How many.", True),
        ("Whatever.", False),
        ("Return what is left.", True),
        ("Guessed tokens.", True),
        ("Offset.", False),
        ("Return the rest.", False),
    ],
)
def test_phrases(docstring, is_bad):
    """A word counts, not a prefix; of a constant's text, too."""
    assert bool(bad_docstrings(ast.parse(f'"""{docstring}"""'))) == is_bad
    assert bool(bad_docstrings(ast.parse(f'A = 1\n"""{docstring}"""'))) == is_bad
