"""PieceIndex finds what a scan of the vocabulary finds."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding.testing.scripted import byte_tokenizer
from decoding.text.piece_index import PieceIndex

BYTES = st.binary(max_size=6) | st.text("ab\n", max_size=6).map(str.encode)


@settings(max_examples=300, deadline=None)
@given(st.lists(BYTES, max_size=30), BYTES.filter(len))
def test_a_search_finds_what_a_scan_finds(pieces, data):
    """Pieces that are empty, equal, or begin and end alike are told apart at their borders."""
    expected = [token_id for token_id, piece in enumerate(pieces) if data in piece]
    assert PieceIndex(pieces).find(data).tolist() == expected


@pytest.mark.parametrize("text", ["\n", "a", "ab", "é", "never there"])
def test_a_tokenizer_searches_its_tokens(text):
    """Ids are those of the tokens whose bytes contain the text; special tokens have no bytes."""
    tokenizer = byte_tokenizer([b"ab", b"a\n", "né".encode(), b"\n\n"], ["<ab>"])
    scanned = [i for i in range(tokenizer.vocab_size) if text.encode() in tokenizer.token_bytes(i)]
    assert tokenizer.tokens_containing(text).tolist() == scanned
