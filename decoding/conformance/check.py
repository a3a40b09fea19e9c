"""A check of a server, and the list that the checks of a module are put into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from decoding.conformance.target import Target

CheckFunction: TypeAlias = "Callable[[Target], None]"


@dataclass(frozen=True, slots=True)
class Check:
    """One rule that a server must obey.

    id: "group.name". sentence: the rule. reason: the damage if it is broken. run: returns if the rule holds, and raises
    FailedError or NotOfferedError otherwise.
    """

    id: str
    sentence: str
    reason: str
    run: CheckFunction


class Checks:
    """The checks of one module, in the order of the file.

    check = Checks()

    @check("group.name", "The rule.", "The damage if it is broken.")
    def _(target): ...
    """

    def __init__(self) -> None:
        self.checks: list[Check] = []

    def __call__(self, check_id: str, sentence: str, reason: str) -> Callable[[CheckFunction], CheckFunction]:
        """Return a decorator that adds a function as a check."""

        def add(run: CheckFunction) -> CheckFunction:
            self.checks.append(Check(check_id, sentence, reason, run))
            return run

        return add
