"""Share: counts by which the scheduler keeps one large request from taking the whole engine."""

from __future__ import annotations


class Share:
    """Counts of one request, all of its prompts and candidates together.

    num_running: its running sequences.
    turn: number of the last step that computed tokens of its prompts.
    """

    __slots__ = ("num_running", "turn")

    def __init__(self) -> None:
        self.num_running = 0
        self.turn = 0
