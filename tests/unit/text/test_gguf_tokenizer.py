"""Tokenizers from GGUF metadata: published ids, all scripts, kinds of tokens, start and end tokens."""

from __future__ import annotations

import json
import os
import runpy
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from decoding.errors import TokenizerError
from decoding.models.gguf_reader import GGUFFile
from decoding.text.detokenizer import Detokenizer, Utf8Decoder
from decoding.text.fim import FimFormat
from decoding.text.gguf_splits import PRE_TOKENIZERS, pre_tokenizer
from decoding.text.gguf_tokenizer import read_tokenizer
from decoding.text.gguf_vocab import GGUFVocabulary
from decoding.text.tokenizer import Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
SEPARATOR = "\n__ggml_vocab_test__\n"


def metadata(model: str = "llama", **values: Any) -> dict[str, Any]:
    """Return metadata of a vocabulary: lists of numbers become arrays, and None removes a key."""
    named = {f"tokenizer.ggml.{key}": value for key, value in {"model": model, **values}.items() if value is not None}
    return {
        key: np.array(value) if isinstance(value, list) and value and not isinstance(value[0], str) else value
        for key, value in named.items()
    }


def tokenizer(*arguments: Any, **values: Any) -> Tokenizer:
    """Return the tokenizer of such metadata."""
    found = read_tokenizer(metadata(*arguments, **values))
    assert found is not None
    return found


def converted(folder: Path, pre: str | None, **more: Any) -> dict[str, Any]:
    """Return the metadata that a converter makes from a tokenizer.json.

    If `pre` is None, it is SentencePiece's, with scores from the order of the merges.
    """
    document = json.loads((folder / "tokenizer.json").read_text())
    vocab, added = document["model"]["vocab"], {token["id"]: token for token in document["added_tokens"]}
    texts = {token_id: text for text, token_id in vocab.items()} | {
        key: token["content"] for key, token in added.items()
    }
    size = max(texts) + 1
    kinds = []
    for token_id in range(size):
        text = texts.get(token_id, f"[PAD{token_id}]")
        if token_id in added:
            kinds.append(CONTROL if added[token_id]["special"] else USER_DEFINED)
        elif token_id not in texts:
            kinds.append(UNUSED)
        else:
            kinds.append(BYTE if pre is None and text.startswith("<0x") and len(text) == 6 else NORMAL)
    named = {"tokens": [texts.get(token_id, f"[PAD{token_id}]") for token_id in range(size)], "token_type": kinds}
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in document["model"]["merges"]]
    if pre is not None:
        return metadata("gpt2", pre=pre, **named, merges=pairs, **more)
    ranks = {pair.replace(" ", ""): rank for rank, pair in reversed(list(enumerate(pairs)))}
    return metadata("llama", **named, scores=[-float(ranks.get(text, 1e6)) for text in named["tokens"]], **more)


def texts_of(shared: Path) -> list[str]:
    """Return a piece of the Declaration of Human Rights per language, and strings that often break programs."""
    corpus = [path.read_text()[:1000] for path in sorted((shared / "corpus" / "udhr").glob("*.txt"))]
    naughty = json.loads((shared / "vectors" / "naughty_strings" / "blns.json").read_text())
    return [
        *corpus,
        *(text for text in naughty if text.isprintable()),
        "   a\n\n  b \t\t c\r\n \n",
        "a" * 300,
        " " * 70,
    ]


# Published ids


def published(shared: Path, name: str) -> list[tuple[str, list[int]]]:
    """Return llama.cpp's published strings and ids."""
    folder = shared / "vectors" / "llama_cpp_vocab"
    texts = (folder / f"{name}.inp").read_bytes().decode().split(SEPARATOR)[:-1]
    lines = (folder / f"{name}.out").read_text().splitlines()
    return [(text, [int(word) for word in line.split()]) for text, line in zip(texts, lines, strict=True)]


@pytest.mark.parametrize(
    ("name", "pre", "vectors"), [("gpt2", "gpt-2", "gpt-2"), ("phi-3", None, "phi-3"), ("phi-3", None, "llama-spm")]
)
def test_published_ids(shared: Path, name: str, pre: str | None, vectors: str) -> None:
    """46 hard strings of llama.cpp get the published ids, and decode back at once and token by token."""
    found = read_tokenizer(converted(shared / "tokenizers" / name, pre))
    assert found is not None
    pairs = published(shared, vectors)
    assert len(pairs) == 46
    for text, expected in pairs:
        assert found.encode(text, add_special_tokens=False) == expected
        assert found.decode(expected) == text
        detokenizer, decoder = Detokenizer(found), Utf8Decoder()
        pieces = [decoder.feed(detokenizer.append(token_id)) for token_id in expected]
        assert "".join(pieces) + decoder.feed(b"", final=True) == text


@pytest.mark.parametrize(
    ("name", "pre"),
    [("gpt2", "gpt-2"), ("codegen", "gpt-2"), ("gpt-neox-20b", "olmo"), ("dolma2", "dbrx"), ("phi-3", None)],
)
def test_ids_agree_with_tokenizer_json(shared: Path, name: str, pre: str | None) -> None:
    """In all scripts the ids equal those of the tokenizer.json that the metadata were made from."""
    folder = shared / "tokenizers" / name
    ours, theirs = read_tokenizer(converted(folder, pre)), Tokenizer.from_folder(folder)
    assert ours is not None
    for text in texts_of(shared):
        text = unicodedata.normalize("NFC", text)  # tokenizer.json normalises, and only for some models
        ids = ours.encode(text, add_special_tokens=False)
        assert ids == theirs.encode(text, add_special_tokens=False), text[:40]
        assert ours.decode(ids) == text


LLAMA_CPP = os.environ.get("DECODING_LLAMA_CPP_MODELS", "")
VOCABULARIES = sorted(Path(LLAMA_CPP).glob("ggml-vocab-*.gguf")) if LLAMA_CPP else []
needs_vocabularies = pytest.mark.skipif(
    not VOCABULARIES, reason="needs DECODING_LLAMA_CPP_MODELS, the folder `models` of a checkout of llama.cpp"
)


@needs_vocabularies
@pytest.mark.parametrize("path", VOCABULARIES, ids=lambda path: path.stem)
def test_vocabularies_of_llama_cpp(path: Path, shared: Path) -> None:
    """Each vocabulary of llama.cpp's tests gives the published ids, and llama.cpp's own ids in all scripts."""
    values = GGUFFile(path).metadata
    if values["tokenizer.ggml.model"] not in ("gpt2", "llama"):
        pytest.skip("is of a kind that no architecture of ours has")
    found = read_tokenizer(values)
    assert found is not None
    if path.with_suffix(".gguf.inp").exists():
        texts = path.with_suffix(".gguf.inp").read_bytes().decode().split(SEPARATOR)
        lines = path.with_suffix(".gguf.out").read_text().splitlines()
        for text, line in zip(texts, lines, strict=False):
            assert found.encode(text, add_special_tokens=False) == [int(word) for word in line.split()]
    llama_cpp = pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
    theirs = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    for text in texts_of(shared):
        ids = found.encode(text)
        assert ids == theirs.tokenize(text.encode(), add_bos=True, special=True), text[:40]
        assert found.decode(ids) == text
    vocabulary = GGUFVocabulary.read(values)
    assert vocabulary is not None
    vocab = theirs._model.vocab
    ends = [token_id for token_id in range(found.vocab_size) if llama_cpp.llama_vocab_is_eog(vocab, token_id)]
    assert list(vocabulary.end_token_ids) == ends


# Pre-tokenizers


@pytest.mark.parametrize(
    ("name", "text", "pieces"),
    [
        ("gpt-2", "I've  3444 a!!\n\n b", ["I", "'ve", " ", " 3444", " a", "!!", "\n", "\n", " b"]),
        ("smollm", "a 12", ["a", " ", "1", "2"]),
        ("default", "it's 12345!", ["it", "'", "s", " ", "123", "45", "!"]),
        ("falcon", "a`b 12345", ["a", "`", "b", " ", "123", "45"]),
        ("llama-bpe", "I'LL  12345\n\n x", ["I", "'LL", " ", " ", "123", "45", "\n\n", " x"]),
        ("qwen2", "don'T 12 (x)", ["don", "'T", " ", "1", "2", " (", "x", ")"]),
        ("tekken", "HelloWorld ABCdef", ["Hello", "World", " ABCdef"]),
        ("gpt-4o", "don'tStop 1234", ["don't", "Stop", " ", "123", "4"]),
        ("deepseek-llm", "Ab 12一二\nx", ["Ab", " ", "12", "一二", "\n", "x"]),
        ("deepseek-coder", "Ab 12, x", ["Ab", " ", "1", "2", ",", " x"]),
        ("deepseek-v3", "x 1234 漢字かな.foo", ["x", " ", "123", "4", " ", "漢字かな", ".foo"]),
        ("bloom", " a,b (c)", [" a", ",", "b", " ", "(", "c", ")"]),
        ("seed-coder", "a!!\n", ["a", "!!", "\n"]),
        ("qwen35", "e\u0301a 1", ["e\u0301a", " ", "1"]),
    ],
)
def test_splits(name: str, text: str, pieces: list[str]) -> None:
    """A pre-tokenizer of each family splits texts by its rules."""
    characters = sorted(set(text))
    alphabet = {byte: char for char, byte in _alphabet().items()}
    bytes_of = sorted({alphabet[byte] for char in characters for byte in char.encode()})
    whole = ["".join(alphabet[byte] for byte in piece.encode()) for piece in pieces]
    vocabulary, merges = dict.fromkeys(bytes_of), []
    for word in whole:  # merges that make tokens of each piece and its prefixes
        for end in range(2, len(word) + 1):
            vocabulary[word[:end]] = None
            merges.append(f"{word[: end - 1]} {word[end - 1]}")
    found = tokenizer(
        "gpt2", pre=name, tokens=list(vocabulary), merges=list(dict.fromkeys(merges)), add_bos_token=False
    )
    tokens = [found.token_bytes(token_id).decode() for token_id in found.encode(text)]
    assert tokens == pieces


def _alphabet() -> Mapping[str, int]:
    from decoding.text.token_decoder import _BYTE_OF

    return _BYTE_OF


def test_unknown_pre_tokenizers_are_refused() -> None:
    """An unknown pre-tokenizer raises an error that lists the known ones."""
    with pytest.raises(TokenizerError, match=r"tokenizer\.ggml\.pre='mystery': must be one of .*llama-bpe.*qwen2"):
        pre_tokenizer("mystery")
    names = {"gpt-2", "llama-bpe", "qwen2", "smollm", "deepseek-coder", "deepseek-llm", "starcoder", "refact"}
    assert names | {"command-r", "olmo", "dbrx", "falcon", "phi-2", "stablelm2", "default"} <= PRE_TOKENIZERS.keys()


def test_whole_words_precede_merges() -> None:
    """With llama-bpe a word that is a token becomes that token, even if no merge makes it."""
    values = {"tokens": ["a", "b", "c", "abc", "<s>", "ab"], "merges": ["a b"], "bos_token_id": 4}
    assert tokenizer("gpt2", pre="gpt-2", **values).encode("abc") == [5, 2]
    assert tokenizer("gpt2", pre="llama-bpe", **values).encode("abc") == [4, 3]


# Kinds of tokens

SPM = {
    "tokens": ["<unk>", "<s>", "</s>", "<0x0A>", "<0xE2>", "<0x98>", "<0xBA>", "▁", "a", "b", "▁a", "▁ab", "<user>",
               "<gone>", "<ctl>"],
    "scores": [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0, 0.0, 0.0, 0.0],
    "token_type": [UNKNOWN, CONTROL, CONTROL, BYTE, BYTE, BYTE, BYTE, NORMAL, NORMAL, NORMAL, NORMAL, NORMAL,
                   USER_DEFINED, UNUSED, CONTROL],
}  # fmt: skip


def test_sentencepiece() -> None:
    """A text gets BOS and a leading space; unknown characters become byte tokens or the unknown token."""
    found = tokenizer(**SPM)
    assert found.encode("ab a") == [1, 11, 10]
    assert found.encode("") == [1]
    assert found.encode("a☺\n", add_special_tokens=False) == [10, 4, 5, 6, 3]
    assert found.encode("é", add_special_tokens=False) == [7, 0]
    assert found.decode([1, 11, 10, 4, 5, 6]) == "ab a☺"
    assert [found.token_bytes(token_id) for token_id in (4, 10, 2)] == [b"\xe2", b" a", b""]
    assert (found.bos_token_id, found.eos_token_id, found.vocab_size) == (1, 2, 15)


def test_no_space_before_a_text() -> None:
    """With add_space_prefix=False, as in Gemma, no leading space is added or removed."""
    found = tokenizer(**SPM, add_space_prefix=False)
    assert found.encode("a a", add_special_tokens=False) == [8, 10]
    assert found.decode([10, 8]) == " aa"


def test_kinds_of_tokens() -> None:
    """Control and user-defined tokens are found in a text, unused ones are not; only user-defined ones have text."""
    found = tokenizer(**SPM)
    assert found.encode("<ctl>b<user>b", add_special_tokens=False) == [14, 7, 9, 12, 7, 9]
    assert 13 not in found.encode("<gone>")
    assert [found.token_bytes(token_id) for token_id in (12, 13, 14)] == [b"<user>", b"", b""]
    assert [found.is_special(token_id) for token_id in (0, 1, 12, 14)] == [True, True, False, True]
    assert [found.is_added(token_id) for token_id in (12, 13, 14)] == [True, False, True]
    assert found.decode([13]) == ""


def test_user_defined_tokens_are_not_spelled_in_bytes() -> None:
    """A user-defined token is its literal text, while a normal token is in byte-level letters."""
    found = tokenizer("gpt2", tokens=["a", "é", "Ã", "©"], token_type=[NORMAL, USER_DEFINED, NORMAL, NORMAL], merges=[])
    assert found.encode("é") == [1]
    assert found.decode([1, 2, 3]) == "éé"


def test_empty_tokens_have_names() -> None:
    """An empty token is named [EMPTY_<id>] and never used."""
    found = tokenizer(tokens=["<unk>", "<s>", "</s>", "", "▁", "a"], token_type=[2, 3, 3, 1, 1, 1])
    assert found.token_text(3) == "[EMPTY_3]"
    assert found.encode("a", add_special_tokens=False) == [4, 5]


@pytest.mark.parametrize(("name", "ids"), [("Phi-3 mini", [14, 10, 1, 7, 10]), ("other", [14, 7, 10, 1, 7, 10])])
def test_phi_3_strips_blanks_after_its_markers(name: str, ids: list[int]) -> None:
    """A model named Phi-3 drops blanks after its markers, except the common ones; other models keep them."""
    found = read_tokenizer(metadata(**SPM) | {"general.name": name})
    assert found is not None
    assert found.encode("<ctl> a<s> a", add_special_tokens=False) == ids


# What begins and ends a text


def test_start_and_end_tokens() -> None:
    """BOS and EOS are added as the metadata state, otherwise by the defaults of the kind and the pre-tokenizer."""
    assert tokenizer(**SPM, add_bos_token=False, add_eos_token=True).encode("a") == [10, 2]
    bpe = {"tokens": ["a", "<|endoftext|>"], "merges": [], "bos_token_id": 1, "eos_token_id": 1}
    assert tokenizer("gpt2", pre="gpt-2", **bpe).encode("a") == [0]
    assert tokenizer("gpt2", pre="llama-bpe", **bpe).encode("a") == [1, 0]
    assert tokenizer("gpt2", pre="llama-bpe", **bpe, add_bos_token=False).encode("a") == [0]
    assert tokenizer("gpt2", pre="tekken", tokens=["a"], merges=[]).encode("a") == [0]  # there is no BOS


def test_absent_tokens() -> None:
    """The id 2^32 - 1 means that the token does not exist."""
    found = GGUFVocabulary.read(metadata(**SPM, eos_token_id=2**32 - 1, eot_token_id=2**32 - 1))
    assert found is not None
    assert found.special_ids == {"unknown": 0, "bos": 1}
    assert found.end_token_ids == (2,)  # </s>, by its text


def vocabulary(tokens: list[str], **values: Any) -> GGUFVocabulary:
    """Return a byte-level vocabulary."""
    found = GGUFVocabulary.read(metadata("gpt2", tokens=tokens, **values))
    assert found is not None
    return found


def test_all_tokens_that_end_a_text() -> None:
    """EOS, EOT and EOM end a text, and so do known markers of chat templates."""
    tokens = ["a", "b", "c", "<|im_end|>", "<|endoftext|>", "<|im_start|>", "<|file_sep|>"]
    assert vocabulary(tokens).end_token_ids == (3, 4, 6)
    assert vocabulary(tokens, eos_token_id=0, eot_token_id=1, eom_token_id=2).end_token_ids == (0, 1, 2, 3, 4, 6)


def test_markers_become_special() -> None:
    """A known marker is special, even if the file declares it a normal token."""
    found = tokenizer("gpt2", tokens=["a", "<|im_end|>", "<|im_start|>"], merges=[])
    assert found.encode("a<|im_end|>") == [0, 1]
    assert [found.is_special(token_id) for token_id in (0, 1, 2)] == [False, True, False]


def test_markers_inside_an_answer_do_not_end_it() -> None:
    """<|end|> does not end a text if the vocabulary has <|return|> and <|call|>."""
    assert vocabulary(["<|end|>"]).end_token_ids == (0,)
    several = vocabulary(["<|end|>", "<|return|>", "<|call|>", "<|channel|>"])
    assert several.end_token_ids == (1, 2)
    assert several.kinds == [USER_DEFINED, CONTROL, CONTROL, USER_DEFINED]


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"fim_pre_token_id": 1, "fim_suf_token_id": 2, "fim_mid_token_id": 3},
        {"prefix_token_id": 1, "suffix_token_id": 2, "middle_token_id": 3},
    ],
)
def test_fill_in_the_middle(keys: dict[str, int]) -> None:
    """Marker ids come from new keys, old keys or the tokens' texts, and give the convention of the prompt."""
    tokens = ["a", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>"]
    found = vocabulary(tokens, **keys)
    assert [found.special_ids[role] for role in ("fim_pre", "fim_suf", "fim_mid", "fim_pad")] == [1, 2, 3, 4]
    assert found.end_token_ids == (4,)
    format_ = FimFormat.find(tokenizer("gpt2", tokens=tokens, merges=[], **keys))
    assert format_ is not None
    assert format_.prompt("a", "aa").token_ids == [1, 0, 2, 0, 0, 3]


def test_chat_templates_are_text() -> None:
    """Chat templates are read under their names, as text."""
    named = {"tokenizer.chat_template": "{{ 1 }}", "tokenizer.chat_template.tool_use": "{{ 2 }}"}
    found = read_tokenizer(metadata(**SPM) | named)
    assert found is not None
    assert found.chat_template == "{{ 1 }}"
    assert found.chat_templates == {"default": "{{ 1 }}", "tool_use": "{{ 2 }}"}


def test_no_vocabulary() -> None:
    """A file without a vocabulary has no tokenizer."""
    assert read_tokenizer({}) is None
    assert read_tokenizer({"tokenizer.ggml.model": "no_vocab"}) is None


def test_digest_depends_on_scores() -> None:
    """Tokenizers with different scores have different digests."""
    other = [*SPM["scores"][:-4], 7.0, *SPM["scores"][-3:]]
    assert tokenizer(**SPM).digest == tokenizer(**SPM).digest
    assert tokenizer(**SPM).digest != tokenizer(**SPM | {"scores": other}).digest


def test_types_of_values(tmp_path: Path) -> None:
    """Metadata read from a file give the same tokenizer as metadata built in memory."""
    container = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "gguf_container.py")))
    path = tmp_path / "vocab.gguf"
    values = {key: value.astype("<i4") if key.endswith("type") else value for key, value in metadata(**SPM).items()}
    values["tokenizer.ggml.scores"] = values["tokenizer.ggml.scores"].astype("<f4")
    path.write_bytes(container.Container(values).bytes())
    found = read_tokenizer(GGUFFile(path).metadata, vocab_size=15)
    assert found is not None
    assert found.digest == tokenizer(**SPM).digest
