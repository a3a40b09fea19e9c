"""Decoding from tokens to bytes to characters: the pieces add up, wherever a text is cut."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Library

from decoding.text.detokenizer import Detokenizer, Utf8Decoder
from decoding.text.tokenizer import Tokenizer

FOLDERS = [
    *(f"tokenizers/{name}" for name in ("gpt2", "codegen", "gpt-neox-20b", "dolma2", "phi-3")),
    *(f"models/{name}" for name in ("stories260K", "babyllama-105")),
]


def _bytes(tokenizer: Tokenizer, prompt: Iterable[int], output: list[int], skip: bool = True) -> bytes:
    detokenizer = Detokenizer(tokenizer, prompt, skip)
    return b"".join(map(detokenizer.append, output))


@pytest.mark.parametrize("folder", FOLDERS)
def test_real_tokenizers(shared: Path, folder: str) -> None:
    """The bytes of prompt and output add up, for sixty languages and random ids, and agree with the library.

    The library's text is compared wherever the bytes are valid UTF-8, with and without special tokens.
    """
    tokenizer = Tokenizer.from_folder(shared / folder)
    library = Library.from_file(str(shared / folder / "tokenizer.json"))
    rng = random.Random(0)
    texts = [path.read_text(encoding="utf-8")[500:800] for path in (shared / "corpus/udhr").glob("*.txt")]
    lists = [tokenizer.encode(text) for text in texts]
    for size in (3, 300, tokenizer.vocab_size):
        limit = min(size, tokenizer.vocab_size)
        lists += [[rng.randrange(limit) for _ in range(rng.randrange(9))] for _ in range(300)]
    compared = 0
    for ids, skip in itertools.product(lists, (True, False)):
        whole = _bytes(tokenizer, [], ids, skip)
        cut = rng.randrange(len(ids) + 1)
        assert _bytes(tokenizer, [], ids[:cut], skip) + _bytes(tokenizer, ids[:cut], ids[cut:], skip) == whole
        assert tokenizer.decode(ids, skip) == whole.decode("utf-8", "replace")
        if _is_utf8(whole):
            assert whole.decode() == library.decode(ids, skip_special_tokens=skip)
            compared += 1
    assert compared > 700


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_the_leading_space_at_the_start_of_a_text(shared: Path) -> None:
    """SentencePiece's leading space is dropped after nothing or BOS only, and kept after text or a visible BOS."""
    tokenizer = Tokenizer.from_folder(shared / "models/stories260K")
    once = tokenizer.encode("Once", add_special_tokens=False)
    assert _bytes(tokenizer, [], once) == b"Once"
    assert _bytes(tokenizer, [1], once) == b"Once"
    assert _bytes(tokenizer, [1, *once], once) == b" Once"
    assert _bytes(tokenizer, [1], once, skip=False) == b" Once"
    assert _bytes(tokenizer, [1], [*once, *once]) == b"Once Once"


def test_byte_tokens_are_bytes(shared: Path) -> None:
    """A character spelled in byte tokens is decoded byte by byte, while the library gives U+FFFD per byte."""
    tokenizer = Tokenizer.from_folder(shared / "models/stories260K")
    ids = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in "é".encode()]
    detokenizer = Detokenizer(tokenizer)
    assert [detokenizer.append(token_id) for token_id in ids if token_id] == [b"\xc3", b"\xa9"]


def test_only_the_start_of_a_prompt_is_read(shared: Path) -> None:
    """A Detokenizer reads the start of a prompt only: an endless prompt is accepted."""

    def prompt() -> itertools.chain[int]:
        return itertools.chain([1, 403, 407], itertools.repeat(261))  # endless

    tokenizer = Tokenizer.from_folder(shared / "models/stories260K")
    assert _bytes(tokenizer, prompt(), [403]) == b" Once"


def test_utf8_decoder_equals_decoding_at_once() -> None:
    """Utf8Decoder equals bytes.decode with "replace", for all byte strings up to four bytes and all cuts."""
    edges = [0x41, 0x80, 0x9F, 0xA0, 0xBF, 0xC1, 0xC2, 0xE0, 0xED, 0xF0, 0xF4, 0xF5]
    for size in (1, 2, 3, 4):
        for data in map(bytes, itertools.product(edges, repeat=size)):
            for cuts in itertools.product((False, True), repeat=size - 1):
                assert _decoded(data, cuts) == data.decode("utf-8", "replace")


def _decoded(data: bytes, cuts: tuple[bool, ...]) -> str:
    decoder, text, chunk = Utf8Decoder(), "", data[:1]
    for byte, cut in zip(data[1:], cuts, strict=True):
        if cut:
            text += decoder.feed(chunk)
            chunk = b""
        chunk += bytes([byte])
    return text + decoder.feed(chunk, final=True)


@pytest.mark.parametrize("char", ["é", "€", "🦙"])
def test_utf8_decoder_holds_an_unfinished_character_back(char: str) -> None:
    """A character is decoded with its last byte; an incomplete one becomes U+FFFD at the end or a wrong byte."""
    data = char.encode()
    for size in range(1, len(data)):
        decoder = Utf8Decoder()
        assert decoder.feed(data[:size]) == ""
        assert decoder.feed(data[size:]) == char
        assert decoder.feed(data[:size]) == ""
        assert decoder.feed(b"", final=True) == "\ufffd"
        assert decoder.feed(data[:size]) == ""
        assert decoder.feed(b"x") == "\ufffdx"
