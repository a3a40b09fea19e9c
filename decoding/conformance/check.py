"""What a check is, what may come of it, and the list of them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from decoding.conformance.client import Request
    from decoding.conformance.target import Target

Status: TypeAlias = Literal["pass", "fail", "not offered", "not run"]
"""not offered: the server refuses a feature by name, or the model gives no occasion. not run: the load was used up."""


CheckFunction: TypeAlias = "Callable[[Target], None]"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold of a server.

    id: "group.name". sentence: what must hold. reason: who is hurt where it does not. run: returns where it holds, and
    raises FailedError or NotOfferedError where it does not.
    """

    id: str
    sentence: str
    reason: str
    run: CheckFunction


class FailedError(Exception):
    """It does not hold; the text is the evidence, `request` what brought it to light."""

    def __init__(self, evidence: str, request: Request | None = None) -> None:
        super().__init__(evidence)
        self.request = request


class NotOfferedError(Exception):
    """The server does not offer it, or there is no occasion to try; the text says which."""


class Checks:
    """The checks of one module, in the order in which they stand there.

    check = Checks()

    @check("group.name", "What must hold.", "Who is hurt where it does not.")
    def _(target): ...
    """

    def __init__(self) -> None:
        self.checks: list[Check] = []

    def __call__(self, check_id: str, sentence: str, reason: str) -> Callable[[CheckFunction], CheckFunction]:
        """Put the decorated function into the list."""

        def add(run: CheckFunction) -> CheckFunction:
            self.checks.append(Check(check_id, sentence, reason, run))
            return run

        return add
