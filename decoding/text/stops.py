"""Stop strings: where generated text ends, and how much of it must wait until that is known.

One Aho-Corasick automaton (Aho and Corasick 1975) over the UTF-8 bytes of all stop strings. It is kept as the
trie with failure links, not as a dense table: a table for 16 stops of 1 kB would take 16 MB, the links take
one extra step for each byte at most, on average over the text.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import NamedTuple

from decoding.checks import RuleError, strings
from decoding.errors import ParameterError

_ROOT = 0


class StopMatch(NamedTuple):
    """The first stop string in a text: bytes `start` to `end` of all that was fed, and the string itself."""

    start: int
    end: int
    stop: str


class StopAutomaton:
    """The automaton of a set of stop strings: immutable, so that any number of matchers can share it."""

    __slots__ = ("fail", "goto", "held", "winner")

    def __init__(self, stops: str | Iterable[str]) -> None:
        """Build it in time and memory linear in the total length of `stops`.

        ParameterError where one is empty, no string, or no valid Unicode.
        """
        try:
            distinct = strings(stops)
        except RuleError as error:
            raise ParameterError.single("stop", stops, str(error)) from None
        self.goto: dict[int, int] = {}
        """Children in the trie: state << 8 | byte -> state. One flat dict, a fifth of the size of one each."""
        self.winner: dict[int, str] = {}
        """For states where stop strings end, the longest of them: of equal ends, the earliest start."""
        self.fail = array("l", [_ROOT])
        """For each state, that of its longest proper suffix which begins some stop string, too."""
        depth = self._grow(distinct)
        self.held = array("l", depth)
        """For each state, the length of the longest suffix that a later byte could still turn into a match."""
        inner = {key >> 8 for key in self.goto}
        for state in range(1, len(depth)):
            if state not in inner:
                self.held[state] = self.held[self.fail[state]]

    def _grow(self, stops: tuple[str, ...]) -> array[int]:
        """Build trie, links and winners; returns each state's depth.

        One byte of every stop string at a time: a link leads to a shallower state, and all of those are there.
        """
        depth = array("l", [0])
        growing = [(stop, stop.encode(), _ROOT) for stop in stops]
        level = 0
        while growing:
            longer: list[tuple[str, bytes, int]] = []
            for stop, data, parent in growing:
                key = parent << 8 | data[level]
                state = self.goto.setdefault(key, len(depth))
                if state == len(depth):
                    depth.append(level + 1)
                    self.fail.append(self._after(self.fail[parent], data[level]) if parent else _ROOT)
                    if (shorter := self.winner.get(self.fail[state])) is not None:
                        self.winner[state] = shorter
                if level + 1 == len(data):
                    self.winner[state] = stop
                else:
                    longer.append((stop, data, state))
            growing = longer
            level += 1
        return depth

    def _after(self, state: int, byte: int) -> int:
        """The state after one more byte: the longest suffix of the text that begins some stop string."""
        child = self.goto.get(state << 8 | byte)
        while child is None and state != _ROOT:
            state = self.fail[state]
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

    Time is linear in the bytes fed, whatever the stop strings.
    """

    __slots__ = ("_automaton", "_goto", "_state", "match", "num_bytes")

    def __init__(self, stops: str | Iterable[str] | StopAutomaton) -> None:
        """`stops`: one string or several, none empty, or the automaton that another matcher uses too."""
        self._automaton = stops if isinstance(stops, StopAutomaton) else StopAutomaton(stops)
        self._goto = self._automaton.goto
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
        Raises ParameterError where `data` is no bytes (text must be encoded: a piece of it may end inside a character).
        """
        if data.__class__ is not bytes and not isinstance(data, (bytearray, memoryview)):
            raise ParameterError.single("data", data, "must be bytes: the UTF-8 encoding of the text")
        if self.match:
            return self.match
        if self._goto:
            return self._advance(data, ignore)
        self.num_bytes += len(data)
        return None

    def _advance(self, data: bytes, ignore: bool) -> StopMatch | None:
        """Run the automaton over `data`, up to the end of the first match."""
        goto, fail, winner, state = self._goto, self._automaton.fail, self._automaton.winner, self._state
        for position, byte in enumerate(data, 1):
            child = goto.get(state << 8 | byte)
            while child is None and state:  # StopAutomaton's `_after`, without the cost of a call for each byte
                state = fail[state]
                child = goto.get(state << 8 | byte)
            state = child or _ROOT
            if state in winner and not ignore:
                stop = winner[state]
                self._state = state
                self.num_bytes += position
                self.match = StopMatch(self.num_bytes - len(stop.encode()), self.num_bytes, stop)
                return self.match
        self._state = state
        self.num_bytes += len(data)
        return None
