"""Tests of token texts, offsets and top entries of log-probabilities."""

import pickle

import pytest

from decoding.engine.logprobs import OffsetCounter, TokenScore, text_of_bytes, token_logprob, token_text
from decoding.engine.outputs import Logprobs, TokenLogprob
from decoding.testing.scripted import byte_tokenizer


@pytest.mark.parametrize(
    ("pieces", "offsets"),
    [
        ([b"ab", b"c", b""], [0, 2, 3]),
        ([b"a", b"\xe2\x80", b"\x99", b"s"], [0, 1, 1, 2]),  # all tokens of a split character share its offset
        ([b"\xe2", b"A"], [0, 1]),  # the lone byte became a character of its own
        ([b"\xe2", b"\xe2\x80", b"\x99x"], [0, 1, 1]),
        ([b"\xe2", b"", b"\x80\x99", b"x"], [0, 0, 0, 1]),  # a special token inside a character
        ([b"\xff\xfe", b"a"], [0, 2]),
        ([b"\xf0\x9f", b"\x98", b"\x80!", b"."], [0, 0, 0, 2]),
        ([b"\xed", b"\xa0", b"x"], [0, 1, 2]),  # the bytes of a surrogate become three replacement characters
    ],
)
def test_offsets(pieces, offsets):
    """A token's offset is the index of the character that holds its first byte, in the decoded text."""
    counter = OffsetCounter(b"0123456789")
    assert [counter.add(piece) - 10 for piece in pieces] == offsets


def test_invalid_utf8_is_written_as_bytes():
    r"""A token that is not valid UTF-8 is written as `bytes:\x..`; any other token is written as its text."""
    assert text_of_bytes(b"\xe2\x80") == r"bytes:\xe2\x80"
    assert text_of_bytes("\u2019".encode()) == "\u2019"
    assert text_of_bytes(b"") == ""


def test_special_and_unknown_tokens_have_texts():
    """Special tokens are written by name, and ids unknown to the tokenizer as `token_id:<id>`."""
    tokenizer = byte_tokenizer([b"\xe2\x80"], ["<eos>"])
    assert [token_text(tokenizer, i) for i in (65, 256, 257, 999)] == ["A", r"bytes:\xe2\x80", "<eos>", "token_id:999"]
    assert token_text(None, 65) == "token_id:65"


def test_equal_texts_keep_the_drawn_token_then_the_larger():
    """If tokens have equal texts, the entry keeps the drawn token, otherwise the larger log-probability."""
    tokenizer = byte_tokenizer()
    tokenizer.token_text = lambda token_id, skip_special_tokens: "AABB"[token_id]
    tokenizer.token_bytes = lambda token_id, skip_special_tokens: b"AABB"[token_id : token_id + 1]
    score = TokenScore(-3.0, 4, [(0, -0.5), (2, -1.0), (3, -2.5)])
    entry = token_logprob(tokenizer, 1, b"A", 0, score)
    assert entry.top == {"A": -3.0, "B": -1.0}
    assert (entry.text, entry.logprob, entry.rank) == ("A", -3.0, 4)


def test_the_drawn_token_is_always_among_the_top():
    """The top entries include the drawn token, as the last of N + 1 if it is not one of the N."""
    entry = token_logprob(byte_tokenizer(), 67, b"C", 0, TokenScore(-5.0, 9, [(65, -0.5)]))
    assert list(entry.top.items()) == [("A", -0.5), ("C", -5.0)]


def test_columns_of_empty_mappings_hold_one_object():
    """A column of empty mappings holds one dict, other columns hold copies, and all can be pickled."""
    modes = {"raw": -1.0, "final": -2.0}
    entries = [TokenLogprob("a", 1, -1.0, None, 0, 1), TokenLogprob("b", 2, -1.0, None, 1, 1, by_mode=modes)] * 2
    columns = Logprobs.from_tokens(entries)
    assert columns.by_mode == [{}, modes, {}, modes]
    assert columns.by_mode[1] is not modes
    assert columns.by_token_id == [{}] * 4
    assert columns.by_token_id[0] is columns.by_token_id[3]
    assert pickle.loads(pickle.dumps(columns)) == columns
