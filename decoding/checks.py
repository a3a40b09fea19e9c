"""Older names of decoding.domains and decoding.validation, for modules that have not moved to them yet."""

from typing import TypeAlias

from decoding.domains import Boolean, Domain, Integer, OrNone
from decoding.validation import RuleError

__all__ = ["Check", "RuleError", "boolean", "integer", "or_none"]

Check: TypeAlias = Domain

integer, or_none = Integer, OrNone
boolean = Boolean()
