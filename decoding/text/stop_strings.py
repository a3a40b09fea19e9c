"""Stop strings: find where generated text ends, and how much of it must be held until that is known.

One Aho-Corasick automaton (Aho and Corasick 1975) over the UTF-8 bytes of all stop strings. It is kept as the
trie with failure links, not as a dense table: a table for 16 stops of 1 kB would take 16 MB, the links take
one extra step for each byte at most, on average over the text.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import length_hint
from typing import NamedTuple

from decoding.domains import Strings, checked
from decoding.errors import ParameterError

_ROOT = 0
_NO_BRANCHES: dict[int, int] = {}


class StopMatch(NamedTuple):
    """The first stop string in a text: bytes `start` to `end` of all bytes fed, and the string itself."""

    start: int
    end: int
    stop: str


class StopAutomaton:
    """The automaton of a set of stop strings: immutable, so that any number of matchers can share it.

    States are numbered along the stop strings, so that a text which follows one mostly goes from a state to the next
    number: one comparison per byte.
    """

    __slots__ = ("branches", "fail", "first_bytes", "held", "next_byte", "winner")

    def __init__(self, stops: str | Iterable[str]) -> None:
        """Build it in time linear in the total length of `stops`, except for a sort of the states by depth.

        ParameterError if one is empty, not a string, or not valid Unicode.
        """
        distinct = checked("stop", stops, Strings())
        keys, goto = [_ROOT], dict[int, int]()
        self.winner: dict[int, str] = {}
        """For states where stop strings end, the longest of them, which begins first."""
        for stop in distinct:
            self.winner[_grow(keys, goto, stop.encode())] = stop
        self.fail = [_ROOT] * len(keys)
        """For each state, the state of its longest proper suffix that is also a prefix of a stop string."""
        self.held = [0] * len(keys)
        """For each state, the length of the longest suffix that a later byte could still turn into a match."""
        self._link(keys, goto)
        self.next_byte: list[int | None] = [None] * len(keys)
        """For each state, the byte that leads to the state of the next number, unless a stop string ends there."""
        self.branches = [_NO_BRANCHES] * len(keys)
        """For each state, its other children in the trie: byte -> state."""
        for state, key in enumerate(keys[1:], 1):
            parent, byte = key >> 8, key & 0xFF
            if parent == state - 1 and state not in self.winner:
                self.next_byte[parent] = byte
            else:
                self.branches[parent] = {**self.branches[parent], byte: state}
        self.first_bytes = frozenset(stop.encode()[0] for stop in distinct)
        """The bytes that lead away from the root: a text without them needs no search."""

    def _link(self, keys: list[int], goto: dict[int, int]) -> None:
        """Fill in `fail` and `held`, and the winners that end within longer stop strings.

        A link leads to a state of smaller depth, so these are linked first.
        """
        depth, fail, winner, held, child_of = self.held, self.fail, self.winner, self.held, goto.get
        for state, key in enumerate(keys[1:], 1):
            depth[state] = depth[key >> 8] + 1
        inner = {key >> 8 for key in keys[1:]}
        for state in sorted(range(1, len(keys)), key=depth.__getitem__):
            parent, byte = keys[state] >> 8, keys[state] & 0xFF
            if parent:
                link = fail[parent]
                child = child_of(link << 8 | byte)
                while child is None and link:
                    link = fail[link]
                    child = child_of(link << 8 | byte)
                fail[state] = child or _ROOT
            if state not in winner and fail[state] in winner:
                winner[state] = winner[fail[state]]
            if state not in inner:
                held[state] = held[fail[state]]


def _grow(keys: list[int], goto: dict[int, int], stop: bytes) -> int:
    """Add a stop string to the trie, whose state `goto[key]` is reached by keys[state]; return its last state.

    A key is the state before and the byte: state << 8 | byte.
    """
    state = _ROOT
    for byte in stop:
        key = state << 8 | byte
        state = goto.setdefault(key, len(keys))
        if state == len(keys):
            keys.append(key)
    return state


class StopMatcher:
    r"""Finds the first stop string in a text that arrives in pieces: earliest end, then earliest start.

    The result does not depend on where the pieces are cut. `num_bytes` is the number of bytes fed so far. The last
    `held` of them must be held back, because they are a proper prefix of a stop string; all before them can be
    released.

        matcher = StopMatcher(["\nclass ", "\ndef "])
        matcher.feed(b"return 1\n"), matcher.held    # None, 1
        matcher.feed(b"def g():")                     # StopMatch(start=8, end=13, stop="\ndef ")

    Time is linear in the bytes fed, whatever the stop strings.
    """

    __slots__ = ("_automaton", "_state", "held", "match", "num_bytes")

    def __init__(self, stops: str | Iterable[str] | StopAutomaton) -> None:
        """stops: one or more strings, none empty, or an automaton, which several matchers can share."""
        self._automaton = stops if isinstance(stops, StopAutomaton) else StopAutomaton(stops)
        self._state = _ROOT
        self.num_bytes = 0
        self.held = 0
        self.match: StopMatch | None = None

    def feed(self, data: bytes, *, ignore: bool = False) -> StopMatch | None:
        """Take the next bytes; return the match once there is one. Bytes after it are ignored.

        With `ignore`, stop strings that end within `data` are ignored; one that ends later may begin in it.
        Raises ParameterError if `data` is not bytes (text must be encoded: a piece of it may end inside a character).
        """
        if data.__class__ is not bytes:
            if not isinstance(data, (bytes, bytearray, memoryview)):
                raise ParameterError.single("data", data, "must be bytes: the UTF-8 encoding of the text")
            data = bytes(data)
        if self.match:
            return self.match
        automaton, state = self._automaton, self._state
        if state == _ROOT and automaton.first_bytes.isdisjoint(data):
            self.num_bytes += len(data)
            return None
        next_byte, branches, fail, winner = automaton.next_byte, automaton.branches, automaton.fail, automaton.winner
        rest = iter(data)
        for byte in rest:
            while next_byte[state] != byte:
                if byte in branches[state]:
                    state = branches[state][byte]
                    if state in winner and not ignore:
                        self.num_bytes += len(data) - length_hint(rest)
                        return self._found(state)
                    break
                if state == _ROOT:
                    break
                state = fail[state]
            else:
                state += 1
        self._state, self.held = state, automaton.held[state]
        self.num_bytes += len(data)
        return None

    def _found(self, state: int) -> StopMatch:
        """Record the stop string that the last byte fed completes, and return the match."""
        stop = self._automaton.winner[state]
        self._state, self.held = state, 0
        self.match = StopMatch(self.num_bytes - len(stop.encode()), self.num_bytes, stop)
        return self.match
