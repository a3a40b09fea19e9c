"""StopMatcher against its definition, written as naively as possible."""

from hypothesis import given
from hypothesis import strategies as st

from decoding.text.stop_strings import StopMatch, StopMatcher

LETTERS = "ab\u2019"  # few letters, so that stop strings overlap; the last has three bytes
STOPS = st.lists(st.text(LETTERS, min_size=1, max_size=5), max_size=5)
TEXTS = st.text(LETTERS, max_size=30).map(str.encode)


def first_match(stops, text):
    """Return the match with the earliest end, then the earliest start, by trying every end."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop.encode())]
        if ending:
            longest = max(ending, key=lambda stop: len(stop.encode()))
            return StopMatch(end - len(longest.encode()), end, longest)
    return None


def num_held(stops, text):
    """Return the length of the longest suffix that is a proper prefix of a stop string."""
    prefixes = {stop.encode()[:length] for stop in stops for length in range(len(stop.encode()))}
    return max((n for n in range(len(text) + 1) if text[len(text) - n :] in prefixes), default=0)


def chunks(data, text):
    """Return the text cut at random offsets, also within characters."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@given(STOPS, TEXTS, st.data())
def test_the_match_does_not_depend_on_chunks(stops, text, data):
    """Any chunking of a text gives the match of the definition."""
    matcher = StopMatcher(stops)
    for chunk in chunks(data, text):
        matcher.feed(chunk)
    assert matcher.match == first_match(stops, text)


@given(STOPS, TEXTS)
def test_exactly_the_longest_proper_prefix_is_held(stops, text):
    """After each byte before the match, exactly the longest suffix that may become a match is held."""
    matcher = StopMatcher(stops)
    for end in range(1, len(text) + 1):
        if matcher.feed(text[end - 1 : end]):
            break
        assert matcher.held == num_held(stops, text[:end])


@given(STOPS, TEXTS, TEXTS)
def test_ignored_bytes_still_begin_matches(stops, ignored, text):
    """With `ignore`, a match may begin in the ignored bytes but must end after them."""
    matcher = StopMatcher(stops)
    matcher.feed(ignored, ignore=True)
    assert matcher.held == num_held(stops, ignored)
    matcher.feed(text)
    whole = ignored + text
    later = [
        StopMatch(end - len(stop.encode()), end, stop)
        for stop in stops
        for end in range(len(ignored) + 1, len(whole) + 1)
        if whole[:end].endswith(stop.encode())
    ]
    assert matcher.match == min(later, key=lambda match: (match.end, match.start), default=None)
