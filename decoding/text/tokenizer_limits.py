"""Limits on the sections of a tokenizer.json, which are small programs: a few lines can ask for terabytes."""

from __future__ import annotations

import math
from typing import Any

from decoding.errors import TokenizerError

_MAX_GROWTH = 256  # a mark for a space, three points for an ellipsis
_MAX_PARTS = 64  # a start and an end token; chat models have five at most


def check_growth(name: str, section: Any) -> None:
    """Raise TokenizerError if the replacements in the section called `name` can make a text very much longer."""
    growth = growth_of(section)
    if growth > _MAX_GROWTH:
        raise TokenizerError(f"{name} makes a text up to {growth:,.0f} times as long: must be at most {_MAX_GROWTH}")


def growth_of(section: Any) -> float:
    """Return the factor by which replacements can lengthen a text: the product over those that run in sequence."""
    if isinstance(section, dict) and section.get("type") == "Replace":
        replaced = section["pattern"].get("String") or "?"  # a regular expression may match any character
        return max(1.0, len(section["content"]) / len(replaced))
    inner = section.values() if isinstance(section, dict) else section if isinstance(section, list) else ()
    return math.prod(map(growth_of, inner), start=1.0)


def check_template(name: str, section: Any) -> None:
    """Raise TokenizerError if the post-processor called `name` puts very many tokens around a text."""
    if isinstance(section, dict):
        parts = [section.get("single", ()), *(token["ids"] for token in section.get("special_tokens", {}).values())]
        if max(map(len, parts)) > _MAX_PARTS:
            raise TokenizerError(f"{name} must have at most {_MAX_PARTS} parts, and as many ids for each")
        for processor in section.get("processors", ()):
            check_template(name, processor)
