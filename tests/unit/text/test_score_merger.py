"""SentencePiece's merging against its definition, on vocabularies made to be awkward."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from decoding.text.score_merger import ScoreMerger, merged

ALPHABET = "ab▁\n☺"
TOKENS = st.text(ALPHABET, min_size=1, max_size=5)
SCORES = st.sampled_from([-3.0, -2.0, -1.0, 0.0, 1.5])


def defined(text: str, scores: Mapping[str, float]) -> list[str]:
    """The definition: again and again, of all neighbours that make a token, merge the best, and of those the first."""
    parts = list(text)
    while True:
        pairs = [(scores[both], -i) for i in range(len(parts) - 1) if (both := parts[i] + parts[i + 1]) in scores]
        if not pairs:
            return parts
        at = -max(pairs)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


@given(text=st.text(ALPHABET, max_size=40), scores=st.dictionaries(TOKENS, SCORES, max_size=25))
def test_merging_is_as_defined(text: str, scores: dict[str, float]) -> None:
    """Any text, with any tokens and many equal scores, is cut as the definition cuts it, in words and as a whole."""
    expected = defined(text, scores)
    assert merged(text, scores) == expected
    assert ScoreMerger(scores).pieces(text) == expected


@given(scores=st.dictionaries(TOKENS, SCORES, max_size=25), texts=st.lists(st.text(ALPHABET, max_size=12), max_size=6))
def test_words_are_kept(scores: dict[str, float], texts: list[str]) -> None:
    """A merger that has seen other texts cuts as a new one, and pieces put together are the text."""
    merger = ScoreMerger(scores)
    for text in [*texts, *texts]:
        pieces = merger.pieces(text)
        assert pieces == ScoreMerger(scores).pieces(text)
        assert "".join(pieces) == text


def test_ties_go_to_the_left() -> None:
    """Of equal scores the leftmost pair is merged first, whichever tokens it is made of."""
    scores = {"aa": 0.0, "aaa": 1.0, "aaaa": 1.0}
    assert merged("aaa", scores) == ["aaa"]
    assert merged("aaaaa", scores) == ["aaaa", "a"]
    assert merged("aaaaaaa", scores) == ["aaaa", "aaa"]


def test_long_runs_take_time_in_proportion() -> None:
    """A word of 100,000 characters is merged in one go (quadratic time would not end)."""
    scores = {"a" * 2**power: -float(power) for power in range(1, 12)}
    assert merged("a" * 100_000, scores) == ["a" * 2048] * 48 + ["a" * 2**power for power in (10, 9, 7, 5)]


def test_tokens_across_words() -> None:
    """A token with a mark for a space inside it is found, though words are cut at such marks."""
    assert ScoreMerger({"b▁": -1.0, "b▁c": 0.0}).pieces("ab▁cd▁c") == ["a", "b▁c", "d", "▁", "c"]
    assert ScoreMerger({"▁c": 0.0}).pieces("ab▁cd▁c") == ["a", "b", "▁c", "d", "▁c"]


def test_state_tells_scores_apart() -> None:
    """The state is that of the scores, to the bit."""
    assert ScoreMerger({"a": 1.0}).state == ScoreMerger({"b": 1.0}).state
    assert ScoreMerger({"a": 1.0}).state != ScoreMerger({"a": 1.0000000001}).state
