"""Bytes of tokens for every kind of `decoder` section, against the `tokenizers` library's own decoding."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from tokenizers import Tokenizer as Library
from tokenizers.pre_tokenizers import ByteLevel

from decoding.errors import TokenizerError
from decoding.text.regex_shape import MAX_TEXT
from decoding.text.token_decoder import PieceJoiner, PieceRules
from decoding.text.tokenizer import Tokenizer
from decoding.text.tokenizer_config import TokenizerConfig

VOCABULARY = [
    *("a", "b", "the", " ", "  ", "▁", "▁▁", "▁a", "a▁b", "##ing", "##", ".", ",", "'s", "do", "not", "n't"),
    *("<0x0A>", "<0x20>", "<0x41>", "<0xE2>", "<0x96>", "<0x81>", "<0xC3>", "<0xA9>", "<0xZZ>", "é", "Ġ", "Ġa"),
    *("Ã", "©", "x y", "</w>", "a</w>", "🦙", "_", "x_"),
]

METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
SPACES = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
BYTES = {"type": "ByteFallback"}
FUSE = {"type": "Fuse"}
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
CTC = {"type": "CTC", "pad_token": "_", "word_delimiter_token": "▁", "cleanup": True}
WORD_END = {"type": "BPEDecoder", "suffix": "</w>"}


def _sequence(*decoders: Any) -> Any:
    return {"type": "Sequence", "decoders": list(decoders)}


def _regex(pattern: str, content: str = " ") -> Any:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def _library(decoder: Any) -> Library:
    vocabulary = {text: index for index, text in enumerate(VOCABULARY)}
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "a"}
    return Library.from_str(
        json.dumps(
            {
                "version": "1.0",
                "truncation": None,
                "padding": None,
                "added_tokens": [],
                "normalizer": None,
                "pre_tokenizer": None,
                "post_processor": None,
                "decoder": decoder,
                "model": model,
            }
        )
    )


def _joined(section: Any, texts: list[str]) -> bytes:
    joiner = PieceJoiner(PieceRules(section))
    return b"".join(map(joiner.append, texts))


@pytest.mark.parametrize(
    "decoder",
    [
        None,
        BYTE_LEVEL,
        FUSE,
        BYTES,
        METASPACE,
        METASPACE | {"prepend_scheme": "first"},
        METASPACE | {"prepend_scheme": "never"},
        METASPACE | {"replacement": "_"},
        {"type": "WordPiece", "prefix": "##", "cleanup": False},
        {"type": "WordPiece", "prefix": "##", "cleanup": True},
        SPACES,
        {"type": "Replace", "pattern": {"String": "a"}, "content": "xyz"},
        _sequence(SPACES, BYTES, FUSE, STRIP),
        _sequence(SPACES, BYTES, FUSE, STRIP | {"start": 3}),
        _sequence(SPACES, BYTES, FUSE),
        _sequence(SPACES, FUSE, STRIP),
        _sequence(BYTES, METASPACE),
        _sequence(BYTE_LEVEL, STRIP),
        _sequence(_sequence(SPACES), _sequence(FUSE, FUSE)),
        CTC,
        CTC | {"cleanup": False},
        _sequence(CTC, FUSE),
        _sequence(CTC, FUSE, STRIP),
        WORD_END,
        _sequence(SPACES, STRIP),
        _sequence(SPACES, STRIP | {"start": 2, "stop": 0, "content": "a"}),
        _regex("▁"),
        _regex("a+", "<b>"),
        _regex("^[#a]+?$", "x"),
        _regex(r"\s+(?!\S)|do?|(?<=x)_", "$1"),
        _regex(r"(?<!▁)a(b|$)", "-"),
        _sequence(_regex("▁"), BYTES, FUSE, STRIP),
        _sequence(_regex("▁"), BYTES, FUSE),
        _sequence(METASPACE, _regex("é", "")),
        _sequence(BYTES, _regex("▁"), FUSE, _regex(r"(?<!\n)^ ", "")),
        _sequence(_regex("▁"), FUSE, _regex(r"\n", "\n "), _regex(r"\A ", "")),
        _sequence(BYTE_LEVEL, _regex("[a ]", "aa"), STRIP),
        _sequence(FUSE, SPACES),
        _sequence(FUSE, _regex(r"▁|[ .,]|\p{Lu}", "_")),
    ],
    ids=lambda decoder: "none" if decoder is None else decoder["type"],
)
def test_pieces_add_up_to_the_librarys_text(decoder: Any) -> None:
    """Bytes that are valid UTF-8 equal the library's text, for all lists of up to three tokens."""
    library = _library(decoder)
    compared = 0
    lists = itertools.chain.from_iterable(itertools.product(range(len(VOCABULARY)), repeat=size) for size in (0, 1, 2))
    threes = itertools.product(range(0, len(VOCABULARY), 2), range(1, len(VOCABULARY), 3), range(len(VOCABULARY)))
    for ids in itertools.chain(lists, threes):
        data = _joined(decoder, [VOCABULARY[index] for index in ids])
        try:
            text = data.decode()
        except UnicodeDecodeError:
            continue
        assert text == library.decode(list(ids)), [VOCABULARY[index] for index in ids]
        compared += 1
    assert compared > 5000


def test_stripping_is_linear_in_the_text() -> None:
    """A token of a million stripped spaces is decoded in linear time."""
    many = _sequence(SPACES, FUSE, STRIP | {"start": 2**62})
    assert _joined(many, ["\u2581" * 1_000_000, "\u2581", "\u2581a"]) == b"a"


@pytest.mark.parametrize(
    "decoder",
    [
        _sequence(SPACES, CTC),
        _sequence(WORD_END, SPACES),
        _sequence(WORD_END, WORD_END),
        WORD_END | {"suffix": ""},
        {"type": "Invented"},
        _sequence(FUSE, SPACES | {"pattern": {"String": "ab"}}),
        _sequence(FUSE, STRIP, SPACES),
        _sequence(FUSE, _regex("a+")),
        _sequence(FUSE, _regex("^ ", "")),
        _sequence(FUSE, _regex(r"(?<!\n)^ ", "x")),
        _sequence(FUSE, _regex("ab")),
        _sequence(BYTES, _regex(r"\s+")),
        _sequence(WORD_END, _regex("a")),
        _sequence(FUSE, STRIP, STRIP),
        _sequence(FUSE, STRIP | {"stop": 1}),
        _sequence(FUSE, METASPACE),
        _sequence(FUSE, BYTE_LEVEL),
        _sequence(BYTES, BYTE_LEVEL),
        _sequence(BYTES, STRIP),
        _sequence(BYTES, {"type": "WordPiece", "prefix": "##", "cleanup": False}),
        _sequence(CTC, STRIP),
        _sequence(WORD_END, STRIP),
    ],
    ids=lambda decoder: decoder["type"],
)
def test_decoders_that_depend_on_other_tokens_are_refused(decoder: Any) -> None:
    """A decoder that is unknown, or depends on other tokens, raises a TokenizerError."""
    with pytest.raises(TokenizerError, match="cannot be applied token by token"):
        PieceRules(decoder)


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a|aa)+b",
        "a*a*b",
        "a+b+",
        "(a?)(a?)(a?)(a?)",
        "(a|a)(a|a)(a|a)(a|a)",
        r"(a)\1",
        "(?>a+)",
        "a++",
        "a{1,9}{1,9}",
        "a{1000}",
        "[a&&[b]]",
        "(?<x>a)",
        "a" * 129,
        "",
        "[",
        "(a",
        r"\q",
    ],
)
def test_patterns_that_may_backtrack_for_ever_are_refused(pattern: str) -> None:
    """Patterns with nested or repeated repeats, many alternatives or references are refused."""
    with pytest.raises(TokenizerError, match=r"decoder .*the regular expression"):
        PieceRules(_regex(pattern))


@pytest.mark.parametrize("pattern", ["a*(b|c|d|e)", "(a|a|a|a)a*b", "[^b]*?b", "(?:a|[a-c])a?a+b", "a{0,999}b", ".*b$"])
def test_accepted_patterns_take_bounded_time(pattern: str) -> None:
    """The hardest accepted patterns handle the longest accepted text within the library's step limit."""
    assert _joined(_regex(pattern, ""), ["a" * MAX_TEXT]) == b"a" * MAX_TEXT


def test_long_tokens_beside_a_regular_expression_are_refused() -> None:
    """With a regular expression, tokens of more than 512 characters are refused at load time."""
    tokenizer = json.loads(_library(_regex("a+", "xy")).to_str())
    for length, is_accepted in ((512, True), (513, False)):
        tokenizer["model"]["vocab"] = {"a" * length: 0}
        tokenizer["model"]["unk_token"] = "a" * length
        raw = json.dumps(tokenizer).encode()
        if is_accepted:
            assert Tokenizer(raw, TokenizerConfig({})).decode([0]) == "xy"
        else:
            with pytest.raises(TokenizerError, match="must have at most 512 characters, one has 513"):
                Tokenizer(raw, TokenizerConfig({}))


def test_every_byte_has_its_letter_in_the_byte_level_alphabet() -> None:
    """The 256 letters of GPT-2's byte-level alphabet decode to the 256 bytes."""
    rules = PieceRules(BYTE_LEVEL)
    singles = {rules.piece(letter, first=False) for letter in ByteLevel.alphabet()}
    assert singles == {bytes([byte]) for byte in range(256)}
    assert rules.piece("\u0120a", first=False) == b" a"
