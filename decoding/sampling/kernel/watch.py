"""Counts that other threads watch: waiting awake (spinning), and without the interpreter's lock."""

from __future__ import annotations

from decoding.sampling.kernel.library import ffi, lib

_APART = 16  # numbers of 8 bytes: what others write lies in other lines of the cache, or in the next but one
_watch, _nothing = lib.dk_watch, ffi.NULL


class Count:
    """A number that one thread raises, from 0, and another one watches. A hint: it hands over nothing but itself."""

    __slots__ = ("_memory", "_number")

    def __init__(self) -> None:
        self._memory = ffi.new("int64_t[]", 2 * _APART)
        self._number = self._memory + _APART

    @property
    def value(self) -> int:
        """The number."""
        number: int = self._number[0]
        return number

    def increment(self) -> None:
        """One more."""
        self._number[0] += 1

    def watch(self, target: int, patience: int, *, delay: int = 0, raising: Count | None = None) -> bool:
        """Wait until the number is `target` or more, for `patience` nanoseconds at most; whether it is.

        Others may hold the interpreter's lock all the while. raising: a count to raise when the lock has been given
        away, so that who watches it can have the lock at once. delay: nanoseconds to wait when the target is reached,
        for who has raised the number to give the lock away in turn; a lock that is taken is waited for asleep.
        """
        raised = _nothing if raising is None else raising._number
        return bool(_watch(raised, self._number, target, patience, delay))
