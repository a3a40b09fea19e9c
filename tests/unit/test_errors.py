"""The error classes: their hierarchy, their messages, and `shown`, which must accept any value."""

import pickle
import re

import pytest

from decoding import errors
from decoding.errors import (
    CheckpointError,
    ContextLengthError,
    DecodingError,
    EmptySupportError,
    ModelNotFoundError,
    NonFiniteLogitsError,
    ParameterError,
    Problem,
    shown,
)

CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]


class Hostile:
    """A value whose repr raises."""

    def __repr__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.5, "1.5"),
        ("a'b", '"a\'b"'),
        ("\n", r"'\n'"),
        (10**6000, "<int>"),
        (Hostile(), "<Hostile>"),
        ("x" * 1000, "'" + "x" * 76 + "..."),
        (list(range(1000)), str(list(range(1000)))[:77] + "..."),
    ],
    ids=["float", "quote", "newline", "huge int", "hostile", "long string", "long list"],
)
def test_shown_is_a_short_line_for_any_value(value, text):
    """Any value becomes one line of at most 80 characters, even if its repr is long or raises."""
    assert shown(value) == text
    assert len(shown(value)) <= 80


def test_the_docstring_draws_the_error_tree():
    """The tree in the docstring has exactly the error classes, in order and at their depths."""
    drawn = re.findall(r"^    ([ |`-]*)(\w+Error)\b", errors.__doc__, flags=re.MULTILINE)
    there = [(cls.__name__, sum(issubclass(base, DecodingError) for base in cls.__mro__) - 1) for cls in CLASSES]
    assert [(name, len(branch) // 4) for branch, name in drawn] == there


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ParameterError.single("top_p", 2, "must be small"), "top_p=2: must be small"),
        (ParameterError([Problem("a", "1", "x"), Problem("b", "2", "y")]), "a=1: x; b=2: y"),
        (
            ContextLengthError(9, 8),
            "prompt=9 tokens: must fit the model's context of 8 tokens (the last sampled token need not fit)",
        ),
        (
            NonFiniteLogitsError(2, 7, "finite_check"),
            "logits[2]: not finite at token id 7 (stage finite_check);"
            " logits must be finite, or -inf for a banned token",
        ),
        (
            EmptySupportError(0, "hard_masks"),
            "logits[0]: no token is left to draw after stage hard_masks",
        ),
        (ModelNotFoundError("model=/x: must be a folder"), "model=/x: must be a folder"),
        (CheckpointError("/m/a.safetensors", "lm_head", "is missing"), "/m/a.safetensors: lm_head: is missing"),
        (CheckpointError("/m/config.json", None, "is not JSON"), "/m/config.json: is not JSON"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_text_and_the_pickle_of_each_error(error, text):
    """The message of an error is one line, and an error survives pickling."""
    assert str(error) == text
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == text
    assert vars(copy) == vars(error)


def test_bad_values_are_value_errors_too():
    """The errors derive from the built-in exceptions that Python would raise in the same case."""
    assert issubclass(ParameterError, ValueError)
    assert issubclass(NonFiniteLogitsError, ValueError)
    assert issubclass(ModelNotFoundError, FileNotFoundError)
