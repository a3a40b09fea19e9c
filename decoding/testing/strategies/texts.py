r"""Strategies of text: split characters, overlapping stop strings, pieces cut anywhere.

Texts have few different letters, so that repetitions and overlaps are frequent: `a`, `b`, a blank, and characters of
two, three and four bytes in UTF-8.
"""

from __future__ import annotations

from typing import TypeVar

from hypothesis import strategies as st

LETTERS = "ab \u00e9\u2019\u4e2d\U0001f600"

Piece = TypeVar("Piece", str, bytes)


def texts(*, min_size: int = 0, max_size: int = 20) -> st.SearchStrategy[str]:
    """Draw texts of `a` and `b` alone, which repeat themselves, or of all of LETTERS. Shrinks to `aaa`."""
    kinds = [st.text(st.sampled_from(letters), min_size=min_size, max_size=max_size) for letters in ("ab", LETTERS)]
    return st.one_of(kinds)


@st.composite
def vocabularies(draw: st.DrawFn, *, max_size: int = 8) -> list[bytes]:
    """Draw tokens of two bytes and more, all different, many of which begin or end inside a character.

    With one further token for every byte, `decoding.testing.scripted.byte_tokenizer(vocabulary)` is a tokenizer that
    can write any text in many ways.
    """
    pieces = texts(min_size=1, max_size=3).map(str.encode).filter(lambda data: len(data) > 1)
    tokens = []
    for data in draw(st.lists(pieces, max_size=max_size)):
        start = draw(st.integers(0, len(data) - 2))
        tokens.append(data[start : draw(st.integers(start + 2, len(data)))])
    return list(dict.fromkeys(tokens))


@st.composite
def stop_sets(draw: st.DrawFn, text: str = "", *, max_size: int = 4) -> list[str]:
    """Draw stop strings that overlap: parts of each other, with a common beginning or end, or one letter off.

    text: if given, many of them occur in it.
    """
    base = text + draw(texts(min_size=0 if text else 1, max_size=6))
    stops = []
    for _ in range(draw(st.integers(0, max_size))):
        if draw(st.booleans()):
            start = draw(st.integers(0, len(base) - 1))
            part = base[start : draw(st.integers(start + 1, min(len(base), start + 6)))]
            stops.append(part + draw(st.sampled_from(["", "", *LETTERS[:3]])))
        else:
            stops.append(draw(texts(min_size=1, max_size=4)))
    return stops


@st.composite
def chunkings(draw: st.DrawFn, whole: Piece) -> list[Piece]:
    """Draw a text (or bytes) cut into pieces, some of them empty; joined, they are the whole. Shrinks to one piece."""
    cuts: list[int] = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=min(12, len(whole) + 2))))
    return [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


@st.composite
def tokenizations(draw: st.DrawFn, data: bytes, vocabulary: list[bytes]) -> list[int]:
    """Draw token ids that spell `data`: id i < 256 is byte i, id 256 + j is vocabulary[j], as in `byte_tokenizer`."""
    ids, place = [], 0
    while place < len(data):
        fitting = [256 + j for j, token in enumerate(vocabulary) if data.startswith(token, place)]
        ids.append(draw(st.sampled_from([data[place], *fitting])))
        place += 1 if ids[-1] < 256 else len(vocabulary[ids[-1] - 256])
    return ids
