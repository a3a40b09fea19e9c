"""Tests of PieceIndex against a scan of the vocabulary."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding.testing.scripted import byte_tokenizer
from decoding.text.piece_index import PieceIndex

BYTES = st.binary(max_size=6) | st.text("ab\n", max_size=6).map(str.encode)


@settings(max_examples=300, deadline=None)
@given(st.lists(BYTES, max_size=30), BYTES.filter(len))
def test_a_search_agrees_with_a_scan(pieces, data):
    """A search returns the same token ids as a scan, also for empty and equal pieces."""
    expected = [token_id for token_id, piece in enumerate(pieces) if data in piece]
    assert PieceIndex(pieces).find(data).tolist() == expected


@pytest.mark.parametrize("text", ["\n", "a", "ab", "é", "never there"])
def test_a_tokenizer_searches_its_tokens(text):
    """tokens_containing returns the ids of the tokens whose bytes contain the text; special tokens have none."""
    tokenizer = byte_tokenizer([b"ab", b"a\n", "né".encode(), b"\n\n"], ["<ab>"])
    scanned = [i for i in range(tokenizer.vocab_size) if text.encode() in tokenizer.token_bytes(i)]
    assert tokenizer.tokens_containing(text).tolist() == scanned
