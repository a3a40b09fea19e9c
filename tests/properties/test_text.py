"""Text from token ids, for all kinds of tokenizers: the streamed pieces join to the library's own decoding."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Library

from decoding.text.detokenizer import Detokenizer, Utf8Decoder
from decoding.text.tokenizer import Tokenizer
from decoding.text.tokenizer_config import TokenizerConfig

CORPUS = ["The quick brown fox jumps over the lazy dog.", "it's 12 o'clock, isn't it? Élan vital — 你好, мир! 🦙🦙"] * 3
ADDED = [
    AddedToken("<s>", special=True),
    AddedToken("<pad>", special=True, lstrip=True, rstrip=True),
    AddedToken("two words", special=False, normalized=True),
    AddedToken("   ", special=False, normalized=False),
    AddedToken("▁mark", special=False, single_word=True),
    AddedToken("naïve", special=False, rstrip=True),
]
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]


def _trained(library: Library, trainer: trainers.Trainer) -> Library:
    library.train_from_iterator(CORPUS, trainer)
    return library


def _byte_level(add_prefix_space: bool) -> Library:
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _trained(library, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False))


def _llama(strip: int) -> Library:
    """Return SentencePiece's BPE with byte fallback: strip=1 is Llama 2's decoder, strip=0 Gemma's."""
    library = Library(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    prepend = [normalizers.Prepend("▁")] if strip else []
    library.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    library.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", strip, 0)] if strip else [])])
    special = ["<unk>", *BYTE_TOKENS]
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=special, limit_alphabet=20, show_progress=False)
    values = json.loads(_trained(library, trainer).to_str())
    values["added_tokens"] = values["added_tokens"][:1]  # byte tokens are ordinary ones
    return Library.from_str(json.dumps(values))


def _unigram(scheme: str) -> Library:
    library = Library(models.Unigram())
    library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    library.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trainer = trainers.UnigramTrainer(vocab_size=120, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    return _trained(library, trainer)


def _word_piece(cleanup: bool) -> Library:
    library = Library(models.WordPiece(unk_token="[UNK]"))
    library.normalizer = normalizers.BertNormalizer()
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece(cleanup=cleanup)
    return _trained(library, trainers.WordPieceTrainer(vocab_size=150, special_tokens=["[UNK]"], show_progress=False))


def _word_level() -> Library:
    library = Library(models.WordLevel(unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    return _trained(library, trainers.WordLevelTrainer(special_tokens=["[UNK]"], show_progress=False))


def _word_end() -> Library:
    library = Library(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.decoder = decoders.BPEDecoder()
    special = ["<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=150, special_tokens=special, end_of_word_suffix="</w>", show_progress=False
    )
    return _trained(library, trainer)


def _ctc() -> Library:
    library = Library(models.WordLevel(unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    library.decoder = decoders.CTC()
    special = ["<unk>", "<pad>", "|"]
    return _trained(library, trainers.WordLevelTrainer(special_tokens=special, show_progress=False))


KINDS = {
    "byte-level": functools.partial(_byte_level, False),
    "byte-level, prefix space": functools.partial(_byte_level, True),
    "llama": functools.partial(_llama, 1),
    "llama, three stripped": functools.partial(_llama, 3),
    "gemma": functools.partial(_llama, 0),
    "unigram, always": functools.partial(_unigram, "always"),
    "unigram, first": functools.partial(_unigram, "first"),
    "unigram, never": functools.partial(_unigram, "never"),
    "wordpiece": functools.partial(_word_piece, False),
    "wordpiece, cleaned": functools.partial(_word_piece, True),
    "words": _word_level,
    "word ends": _word_end,
    "ctc": _ctc,
}


@functools.cache
def _both(kind: str) -> tuple[Tokenizer, Library]:
    library = KINDS[kind]()
    library.add_tokens(ADDED)
    return Tokenizer(library.to_str().encode(), TokenizerConfig({})), library


def _streamed(tokenizer: Tokenizer, prompt: Iterable[int], output: Iterable[int], skip: bool) -> tuple[bytes, str]:
    """Return the streamed pieces joined, as bytes and as text."""
    detokenizer, decoder = Detokenizer(tokenizer, prompt, skip), Utf8Decoder()
    pieces = [detokenizer.append(token_id) for token_id in output]
    return b"".join(pieces), "".join(map(decoder.feed, pieces)) + decoder.feed(b"", final=True)


def _is_utf8(data: bytes) -> bool:
    return data.decode("utf-8", "ignore").encode() == data


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data(), skip=st.booleans())
def test_pieces_add_up_for_any_ids(kind: str, data: st.DataObject, skip: bool) -> None:
    """The bytes of any ids, split anywhere into prompt and output, join to the whole; UTF-8 to the library's text."""
    tokenizer, library = _both(kind)
    low = data.draw(st.sampled_from([0, max(0, tokenizer.vocab_size - 12)]))  # often among the added tokens
    ids = data.draw(st.lists(st.integers(low, tokenizer.vocab_size + 1), max_size=12))
    cut = data.draw(st.integers(0, len(ids)))
    whole, text = _streamed(tokenizer, [], ids, skip)
    assert _streamed(tokenizer, [], ids[:cut], skip)[0] + _streamed(tokenizer, ids[:cut], ids[cut:], skip)[0] == whole
    assert text == tokenizer.decode(ids, skip) == whole.decode("utf-8", "replace")
    if _is_utf8(whole) and ids:
        assert text == library.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text(st.sampled_from("ab é你🦙.,'▁ \n<s>12 the")) | st.text())
def test_text_round_trip(kind: str, text: str) -> None:
    """Encoding gives the library's ids, and streaming them gives the library's decoding."""
    tokenizer, library = _both(kind)
    ids = tokenizer.encode(text)
    assert ids == library.encode(text).ids
    if ids:
        assert _streamed(tokenizer, [], ids, True)[1] == library.decode(ids)
    if kind == "byte-level" and "<" not in text:
        assert _streamed(tokenizer, [], ids, True)[1] == text


NAUGHTY_FOLDERS = ["gpt2", "codegen", "gpt-neox-20b", "dolma2", "phi-3"]


@pytest.mark.parametrize("name", NAUGHTY_FOLDERS)
def test_naughty_strings(shared: Path, name: str) -> None:
    """Five hundred strings that break programs survive a round trip (gpt-neox-20b: in normal form C)."""
    tokenizer = Tokenizer.from_folder(shared / "tokenizers" / name)
    library = Library.from_file(str(shared / "tokenizers" / name / "tokenizer.json"))
    strings = json.loads((shared / "vectors/naughty_strings/blns.json").read_text())
    assert len(strings) > 500
    for text in strings:
        ids = tokenizer.encode(text, add_special_tokens=False)
        streamed = _streamed(tokenizer, [], ids, False)[1]
        assert streamed == library.decode(ids, skip_special_tokens=False)
        normal = library.normalizer.normalize_str(text) if name == "gpt-neox-20b" else text
        assert streamed == normal


@pytest.mark.parametrize("kind", KINDS)
def test_time_is_linear(kind: str) -> None:
    """Streaming 100,000 tokens takes less than 3 s of CPU time; quadratic work would take minutes."""
    tokenizer, _ = _both(kind)
    ids = [index % tokenizer.vocab_size for index in range(100_000)]
    started = time.process_time()
    _streamed(tokenizer, [], ids, False)
    assert time.process_time() - started < 3.0
