"""Outcomes of a check: its status, and the exceptions by which it ends early."""

from __future__ import annotations

from typing import Literal, TypeAlias

from decoding.conformance.client import Request

Status: TypeAlias = Literal["pass", "fail", "not offered", "not run"]
"""not offered: the server refuses a feature by name, or the model gives no occasion. not run: the load was used up."""


class FailedError(Exception):
    """The server breaks the rule. The text is the evidence, `request` the request that showed it."""

    def __init__(self, evidence: str, request: Request | None = None) -> None:
        super().__init__(evidence)
        self.request = request


class NotOfferedError(Exception):
    """The server does not offer the feature, or the model gives no occasion to try it; the text says which."""
