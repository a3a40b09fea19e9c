"""The shape of a regular expression, which bounds the time that a backtracking engine takes to match it.

A tokenizer.json may replace text by a regular expression. Its library (Oniguruma) backtracks, and a few characters such
as (a+)+$ can take exponential time. Accepted is a pattern with one repeat, of one character, and a handful of
choices. An attempt to match it at one position of a text takes at most 8 * length of pattern * length of text steps.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_PATTERN = 128
MAX_TEXT = 1024
"""Longest pattern that is accepted, and longest text that one may be applied to, in characters."""

_MAX_CHOICES = 3

_ATOM = re.compile(
    r"""
    (?P<character>
        \\[pP]\{\^?[A-Za-z_]+\} | \\x[0-9A-Fa-f]{2} | \\x\{[0-9A-Fa-f]{1,6}\} | \\u[0-9A-Fa-f]{4}
      | \\[nrtfvaesSdDwWhH] | \\[^0-9A-Za-z] | \[\^?(?:\\[^0-9A-Zbkg]|[^\\\[\]&])+\] | [^\\\[\](){}|^$*+?]
    )
  | (?P<anchor> \^ | \$ | \\[AzZbB] )
  | (?P<opening> \((?:\?(?:[:=!]|<[=!]))? )
  | (?P<closing> \) )
  | (?P<bar> \| )
    """,
    re.VERBOSE | re.DOTALL,
)
_QUANTIFIER = re.compile(r"(?P<optional>\?)|[*+]|\{(?P<least>\d{1,3})(?P<open>,(?P<most>\d{0,3}))?\}")


class RegexShape(NamedTuple):
    """Properties of an accepted pattern. is_one_character: every match is one character, at any position."""

    is_one_character: bool


def shape_of(pattern: str) -> RegexShape:
    """Return the shape of a pattern. Raise ValueError with the rule that it breaks."""
    if not 0 < len(pattern) <= MAX_PATTERN:
        raise ValueError(f"must have 1 to {MAX_PATTERN} characters")
    num_repeats, num_choices, depth, position = 0, 0, 0, 0
    kinds: list[str] = []
    while position < len(pattern):
        atom = _ATOM.match(pattern, position)
        if atom is None or atom.lastgroup is None:
            raise ValueError("must be of characters, classes, anchors, groups, lookarounds and bars")
        kind, position = atom.lastgroup, atom.end()
        depth += (kind == "opening") - (kind == "closing")
        num_choices += kind == "bar" and depth > 0
        kinds.append(kind)
        quantifier = _QUANTIFIER.match(pattern, position)
        if quantifier is None:
            continue
        if kind != "character":
            raise ValueError("must repeat single characters only, and no group")
        kinds.append("quantifier")
        position = quantifier.end()
        if pattern.startswith("?", position) and not quantifier["optional"]:
            position += 1  # a lazy one
        if pattern[position : position + 1] in ("?", "*", "+", "{"):
            raise ValueError("must not repeat a repeat")
        num_choices += quantifier["optional"] is not None
        num_repeats += quantifier["optional"] is None and (
            quantifier["least"] is None or quantifier["open"] is not None
        )
    if num_repeats > 1 or num_choices > _MAX_CHOICES:
        raise ValueError(
            f"must have at most one repeat and {_MAX_CHOICES} choices (bars in groups, optional characters)"
        )
    is_alternation = len(kinds) % 2 == 1 and set(kinds[::2]) == {"character"} and set(kinds[1::2]) <= {"bar"}
    return RegexShape(is_one_character=is_alternation)
