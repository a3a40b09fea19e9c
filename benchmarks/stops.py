"""Measure the cost of looking for stop strings: `python -m benchmarks.stops`.

Matches 10^5 characters against 16 stop strings of 1 kB, some random and some made to almost match everywhere; given
whole, in pieces of 4 bytes, as tokens are, and byte by byte. A time is the minimum over several repeats: other load on
the machine can only add to it.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable

from decoding.cli.measure import Progress, machine, machine_lines
from decoding.text import StopAutomaton, StopMatcher

NUM_CHARACTERS, NUM_STOPS, SIZE = 100_000, 16, 1000
PIECES = (NUM_CHARACTERS * 4, 4, 1)
REPEATS = 7


def cases() -> dict[str, tuple[list[str], str]]:
    """Return stop strings and a text that contains none of them, by name."""
    chance = random.Random(7)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz ", k=SIZE - 1)) + "!" for _ in range(NUM_STOPS)]
    wide = ["".join(chance.choices("\u4e00\u4e01\u4e02\u4e03", k=SIZE // 3)) + "!" for _ in range(NUM_STOPS)]
    runs = ["a" * (SIZE - 1 - i) + "b" * (i + 1) + "!" for i in range(NUM_STOPS)]
    one, two = "a", "ab"
    while len(two) < 2 * SIZE:
        one, two = two, two + one
    fibonacci = [two[i : i + SIZE - 1] + "!" for i in range(NUM_STOPS)]
    return {
        "no first letter of a stop": (words, "0" * NUM_CHARACTERS),
        "random letters": (words, "".join(chance.choices("abcdefghijklmnopqrstuvwxyz ", k=NUM_CHARACTERS))),
        "stops without their ends": (words, _repeated("".join(word[:-1] for word in words))),
        "three bytes each, alike": (wide, _repeated("".join(word[:-1] for word in wide))),
        "three bytes each, random": (wide, "".join(chance.choices("\u4e00\u4e01\u4e02\u4e03", k=NUM_CHARACTERS))),
        "aaaa... for aaa...b!": (runs, "a" * NUM_CHARACTERS),
        "a run, then another letter": (runs, _repeated("a" * (SIZE - 10) + "c")),
        "abab... for aaa...b!": (runs, _repeated("ab")),
        "the Fibonacci word": (fibonacci, _repeated(two)),
    }


def _repeated(text: str) -> str:
    return (text * (NUM_CHARACTERS // len(text) + 1))[:NUM_CHARACTERS]


def seconds(automaton: StopAutomaton, data: bytes, size: int) -> float:
    """Return the time to match a text in pieces of `size` bytes."""
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    times = []
    for _ in range(REPEATS):
        matcher = StopMatcher(automaton)
        start = time.perf_counter()
        for piece in pieces:
            matcher.feed(piece)
        times.append(time.perf_counter() - start)
        if matcher.match is not None:
            raise AssertionError("no stop string is in the text")
    return min(times)


def report(progress: Callable[[str], None]) -> list[str]:
    """Return one line per case: milliseconds for each piece size, and to build the automaton."""
    lines = [f"{'ms for 10^5 characters':<28} {'whole':>8} {'4 bytes':>8} {'1 byte':>8} {'to build':>10}"]
    for name, (stops, text) in cases().items():
        progress(name)
        start = time.perf_counter()
        automaton = StopAutomaton(stops)
        built = time.perf_counter() - start
        times = [1e3 * seconds(automaton, text.encode(), size) for size in PIECES]
        lines.append(f"{name:<28} {times[0]:8.2f} {times[1]:8.2f} {times[2]:8.2f} {1e3 * built:10.2f}")
    return lines


def main() -> int:
    """Measure and print."""
    progress = Progress()
    try:
        lines = report(progress)
    finally:
        progress()
    print("\n".join([*machine_lines(machine()), "", *lines]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
