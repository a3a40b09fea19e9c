"""Tests of StopMatcher: the end of a text, and the number of bytes to hold back."""

import pytest

from decoding.errors import ParameterError
from decoding.text.stop_strings import StopAutomaton, StopMatch, StopMatcher


def test_finds_the_stop_string_across_pieces():
    """A stop string that is split between pieces is found at its offset in the whole text."""
    matcher = StopMatcher("END")
    assert matcher.feed(b"the E") is None
    assert matcher.feed(b"N") is None
    assert matcher.feed(b"D is here") == StopMatch(4, 7, "END")
    assert matcher.num_bytes == 7


@pytest.mark.parametrize(
    ("stops", "text", "expected"),
    [
        (["abc", "b"], b"xabc", StopMatch(2, 3, "b")),  # the earliest end wins, though the other starts earlier
        (["bc", "abc", "c"], b"xabc", StopMatch(1, 4, "abc")),  # of equal ends the earliest start
        (["c", "abc", "bc"], b"xabc", StopMatch(1, 4, "abc")),  # in whatever order they are given
        (["aab"], b"aaab", StopMatch(1, 4, "aab")),  # a failed attempt is picked up in its middle
        (["abcd", "bce"], b"abce", StopMatch(1, 4, "bce")),  # also by another stop string
        (["\u2019"], "it\u2019s".encode(), StopMatch(2, 5, "\u2019")),  # offsets are bytes
        (["a", "a"], b"ba", StopMatch(1, 2, "a")),
    ],
)
def test_earliest_end_then_earliest_start_wins(stops, text, expected):
    """The match with the earliest end wins, then the one with the earliest start."""
    assert StopMatcher(stops).feed(text) == expected


@pytest.mark.parametrize(
    ("stops", "text", "held"),
    [
        (["abc"], b"xxab", 2),
        (["abc"], b"abx", 0),
        (["aab"], b"aaa", 2),  # not three: the first a cannot be part of a match any more
        (["abcd", "bcx"], b"abc", 3),
        (["abcd", "bcx"], b"xbc", 2),
        (["\u2019"], b"it\xe2\x80", 2),
        ([], b"anything", 0),
    ],
)
def test_holds_back_a_possible_match(stops, text, held):
    """The longest suffix that is a proper prefix of a stop string is held back, and no more."""
    matcher = StopMatcher(stops)
    assert matcher.feed(text) is None
    assert matcher.held == held


def test_an_ignored_match_does_not_count_but_a_later_one_may_overlap_it():
    """`ignore` skips matches that end in the piece, but not a later match that begins there."""
    matcher = StopMatcher(["aba", "abac"])
    assert matcher.feed(b"aba", ignore=True) is None
    assert matcher.held == 3  # abac may follow, and so may aba from the last a
    assert matcher.feed(b"c") == StopMatch(0, 4, "abac")
    matcher = StopMatcher("aba")
    matcher.feed(b"aba", ignore=True)
    assert matcher.held == 1
    assert matcher.feed(b"ba") == StopMatch(2, 5, "aba")


def test_nothing_changes_after_a_match():
    """After a match the matcher ignores further bytes."""
    matcher = StopMatcher("x")
    first = matcher.feed(b"ax")
    assert matcher.feed(b"more x") == first == matcher.match
    assert (matcher.num_bytes, matcher.held) == (2, 0)


def test_an_empty_stop_string_is_an_error():
    """An empty stop string raises a ParameterError, because it would match at once."""
    with pytest.raises(ParameterError, match=r"stop=\['a', ''\]: must be a string or a list of strings"):
        StopMatcher(["a", ""])


@pytest.mark.parametrize("stops", [[1], b"a", ["a", None], 3, ["\ud800"]])
def test_a_stop_that_is_no_text_is_an_error(stops):
    """Numbers, bytes and lone surrogates as stop strings raise an error that names the parameter."""
    with pytest.raises(ParameterError, match="stop="):
        StopMatcher(stops)


@pytest.mark.parametrize("data", ["text", [1], None])
def test_data_must_be_bytes(data):
    """Data other than bytes raises a ParameterError, also without stop strings."""
    for stops in ([], ["a"]):
        with pytest.raises(ParameterError, match="data="):
            StopMatcher(stops).feed(data)


def test_matchers_can_share_an_automaton():
    """Matchers that share an automaton do not affect each other."""
    automaton = StopAutomaton(["ab"])
    one, two = StopMatcher(automaton), StopMatcher(automaton)
    one.feed(b"a")
    assert two.feed(b"b") is None
    assert one.feed(b"b") == StopMatch(0, 2, "ab")


class CountingList(list):
    """A list that counts how often an element is read."""

    num_reads = 0

    def __getitem__(self, index):
        self.num_reads += 1
        return super().__getitem__(index)


@pytest.mark.parametrize("text", [b"a" * 100_000, (b"a" * 990 + b"c") * 101, b"ab" * 50_000])
def test_time_is_linear(text):
    """Near matches of 16 stop strings of 1 kB follow no more failure links than the text has bytes."""
    automaton = StopAutomaton(["a" * (999 - i) + "b" * (i + 1) + "!" for i in range(16)])
    automaton.fail = links = CountingList(automaton.fail)
    assert StopMatcher(automaton).feed(text) is None
    assert links.num_reads <= len(text)
