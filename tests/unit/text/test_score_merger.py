"""SentencePiece's merging against its definition, on adversarial vocabularies."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from decoding.text.score_merger import ScoreMerger, merged

ALPHABET = "ab▁\n☺"
TOKENS = st.text(ALPHABET, min_size=1, max_size=5)
SCORES = st.sampled_from([-3.0, -2.0, -1.0, 0.0, 1.5])


def defined(text: str, scores: Mapping[str, float]) -> list[str]:
    """Return the pieces by definition: repeatedly merge the pair that makes the best token, the leftmost of equals."""
    parts = list(text)
    while True:
        pairs = [(scores[both], -i) for i in range(len(parts) - 1) if (both := parts[i] + parts[i + 1]) in scores]
        if not pairs:
            return parts
        at = -max(pairs)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


@given(text=st.text(ALPHABET, max_size=40), scores=st.dictionaries(TOKENS, SCORES, max_size=25))
def test_merging_is_as_defined(text: str, scores: dict[str, float]) -> None:
    """Any text is split as by the definition, by `merged` and by ScoreMerger, also with many equal scores."""
    expected = defined(text, scores)
    assert merged(text, scores) == expected
    assert ScoreMerger(scores).pieces(text) == expected


@given(scores=st.dictionaries(TOKENS, SCORES, max_size=25), texts=st.lists(st.text(ALPHABET, max_size=12), max_size=6))
def test_words_are_cached(scores: dict[str, float], texts: list[str]) -> None:
    """A ScoreMerger with cached words splits as a new one, and the pieces join to the text."""
    merger = ScoreMerger(scores)
    for text in [*texts, *texts]:
        pieces = merger.pieces(text)
        assert pieces == ScoreMerger(scores).pieces(text)
        assert "".join(pieces) == text


def test_ties_go_to_the_left() -> None:
    """The leftmost pair of equal scores is merged first, whichever tokens it consists of."""
    scores = {"aa": 0.0, "aaa": 1.0, "aaaa": 1.0}
    assert merged("aaa", scores) == ["aaa"]
    assert merged("aaaaa", scores) == ["aaaa", "a"]
    assert merged("aaaaaaa", scores) == ["aaaa", "aaa"]


def test_long_runs_take_less_than_quadratic_time() -> None:
    """A run of 100,000 characters is merged in less than quadratic time."""
    scores = {"a" * 2**power: -float(power) for power in range(1, 12)}
    assert merged("a" * 100_000, scores) == ["a" * 2048] * 48 + ["a" * 2**power for power in (10, 9, 7, 5)]


def test_tokens_across_words() -> None:
    """A token with a space mark inside is found, although words are split at space marks."""
    assert ScoreMerger({"b▁": -1.0, "b▁c": 0.0}).pieces("ab▁cd▁c") == ["a", "b▁c", "d", "▁", "c"]
    assert ScoreMerger({"▁c": 0.0}).pieces("ab▁cd▁c") == ["a", "b", "▁c", "d", "▁c"]


def test_state_depends_on_scores() -> None:
    """The state depends on the scores, to the bit, and not on the tokens."""
    assert ScoreMerger({"a": 1.0}).state == ScoreMerger({"b": 1.0}).state
    assert ScoreMerger({"a": 1.0}).state != ScoreMerger({"a": 1.0000000001}).state
