"""Stop strings: where generated text ends, and how much of it must wait until that is known.

One Aho-Corasick automaton (Aho and Corasick 1975) over the UTF-8 bytes of all stop strings. It is kept as the
trie with failure links, not as a dense table: a table for 16 stops of 1 kB would take 16 MB, the links take
one extra step for each byte at most, on average over the text.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from decoding.errors import ParameterError

_ROOT = 0


class StopMatch(NamedTuple):
    """The first stop string in a text: bytes `start` to `end` of all that was fed, and the string itself."""

    start: int
    end: int
    stop: str


class StopAutomaton:
    """The automaton of a set of stop strings: immutable, so that any number of matchers can share it."""

    __slots__ = ("_depth", "_fail", "goto", "held", "winner")

    def __init__(self, stops: Iterable[str]) -> None:
        """Build it in time linear in the total length of `stops`; ParameterError where one is empty."""
        self.goto: dict[int, int] = {}
        """Children in the trie: state << 8 | byte -> state. One flat dict, a fifth of the size of one each."""
        self.winner: list[str | None] = [None]
        """For each state, the longest stop string that ends there: of equal ends, the earliest start."""
        self._depth = [0]
        for stop in (stops,) if isinstance(stops, str) else stops:
            self._insert(stop)
        self._fail = [_ROOT] * len(self.winner)
        self.held = [0] * len(self.winner)
        """For each state, the length of the longest suffix that a later byte could still turn into a match."""
        self._link()

    def _insert(self, stop: str) -> None:
        if not stop:
            raise ParameterError.single("stop", stop, "must not be empty")
        state = _ROOT
        for byte in stop.encode():
            key = state << 8 | byte
            if key not in self.goto:
                self.goto[key] = len(self.winner)
                self.winner.append(None)
                self._depth.append(self._depth[state] + 1)
            state = self.goto[key]
        self.winner[state] = stop

    def _link(self) -> None:
        """Failure links, shallow states first: a link leads to a shallower state, which is then complete."""
        parents = {child: key for key, child in self.goto.items()}
        inner = {key >> 8 for key in self.goto}
        for state in sorted(parents, key=self._depth.__getitem__):
            parent, byte = parents[state] >> 8, parents[state] & 0xFF
            link = _ROOT if parent == _ROOT else self.step(self._fail[parent], byte)
            self._fail[state] = link
            self.winner[state] = self.winner[state] or self.winner[link]
            self.held[state] = self._depth[state] if state in inner else self.held[link]

    def step(self, state: int, byte: int) -> int:
        """The state after one more byte: the longest suffix of the text that begins some stop string."""
        child = self.goto.get(state << 8 | byte)
        while child is None and state != _ROOT:
            state = self._fail[state]
            child = self.goto.get(state << 8 | byte)
        return child or _ROOT


class StopMatcher:
    r"""Finds the first stop string in a text that arrives in pieces: earliest end, then earliest start.

    The result does not depend on where the pieces are cut. `num_bytes` is what was fed so far; the last
    `held` of them might yet turn out to belong to a stop string (they are its proper prefix), all before them
    are safe.

        matcher = StopMatcher(["\nclass ", "\ndef "])
        matcher.feed(b"return 1\n"), matcher.held    # None, 1
        matcher.feed(b"def g():")                     # StopMatch(start=8, end=13, stop="\ndef ")
    """

    __slots__ = ("_automaton", "_state", "match", "num_bytes")

    def __init__(self, stops: str | Iterable[str] | StopAutomaton) -> None:
        """`stops`: one string or several, none empty, or the automaton that another matcher uses too."""
        self._automaton = stops if isinstance(stops, StopAutomaton) else StopAutomaton(stops)
        self._state = _ROOT
        self.num_bytes = 0
        self.match: StopMatch | None = None

    @property
    def held(self) -> int:
        """How many of the last bytes must be held back: exactly as many as a match could still take."""
        return 0 if self.match else self._automaton.held[self._state]

    def feed(self, data: bytes, *, ignore: bool = False) -> StopMatch | None:
        """Take the next bytes; return the match once there is one (what comes after it is not looked at).

        With `ignore`, stop strings that end within `data` do not count; one that ends later may begin in it.
        """
        if self.match:
            return self.match
        if not self._automaton.goto:
            self.num_bytes += len(data)
            return None
        end = self._advance(data, ignore)
        if end is None:
            self.num_bytes += len(data)
            return None
        stop = self._automaton.winner[self._state] or ""
        self.num_bytes += end
        self.match = StopMatch(self.num_bytes - len(stop.encode()), self.num_bytes, stop)
        return self.match

    def _advance(self, data: bytes, ignore: bool) -> int | None:
        """Run the automaton over `data`; the number of bytes up to the first match's end, None without one."""
        goto, winner, step = self._automaton.goto, self._automaton.winner, self._automaton.step
        state = self._state
        for position, byte in enumerate(data, 1):
            child = goto.get(state << 8 | byte)  # the common case, without the cost of a call
            state = child if child is not None else state and step(state, byte)
            if winner[state] is not None and not ignore:
                self._state = state
                return position
        self._state = state
        return None
