"""Tests of Tokenizer: real tokenizers against published ids, and errors for broken files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from decoding.errors import ContextLengthError, ParameterError, PromptError, TokenizerError
from decoding.text.detokenizer import Detokenizer, Utf8Decoder
from decoding.text.tokenizer import Tokenizer

WORDS = {"hello": 0, "world": 1, "</s>": 2, "<s>": 3, "[UNK]": 4}


def _write(folder: Path, config: Any = None, **changes: Any) -> Path:
    """Write the files of a word-level tokenizer with a BOS to `folder`, and return it."""
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    values = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": 2, "content": "</s>", **special}, {"id": 3, "content": "<s>", **special}],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [3], "tokens": ["<s>"]}},
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": WORDS, "unk_token": "[UNK]"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(values | changes))
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_encode_decode_and_lookups(tmp_path: Path) -> None:
    """Encoding, decoding and token lookups of a small tokenizer follow its file."""
    tokenizer = Tokenizer.from_folder(_write(tmp_path))
    assert tokenizer.vocab_size == 5
    assert tokenizer.encode("hello world") == [3, 0, 1]
    assert tokenizer.encode("hello world", add_special_tokens=False) == [0, 1]
    assert tokenizer.encode("") == [3]
    assert tokenizer.decode([3, 0, 1, 2]) == "hello world"
    assert tokenizer.decode([3, 0, 1, 2], skip_special_tokens=False) == "<s> hello world </s>"
    assert tokenizer.token_bytes(1) == b" world"
    assert tokenizer.token_bytes(2) == b""
    assert tokenizer.token_bytes(2, skip_special_tokens=False) == b" </s>"
    assert [tokenizer.is_special(token_id) for token_id in (0, 2, 99)] == [False, True, False]
    assert [tokenizer.is_added(token_id) for token_id in (0, 2, 99)] == [False, True, False]
    assert (tokenizer.token_to_id("world"), tokenizer.token_to_id("x"), tokenizer.token_to_id("\ud800")) == (
        1,
        None,
        None,
    )


def test_ids_beyond_the_vocabulary_have_no_text(tmp_path: Path) -> None:
    """Ids beyond the vocabulary, which padded models may draw, decode to nothing."""
    tokenizer = Tokenizer.from_folder(_write(tmp_path))
    assert tokenizer.decode([0, 7, 2**31 - 1, 1]) == "hello world"
    assert tokenizer.token_bytes(7) == b""


@pytest.mark.parametrize("token_id", [-1, 2**31, "0", 1.0, None])
def test_invalid_ids_are_refused(tmp_path: Path, token_id: Any) -> None:
    """Negative and huge ids, and ids of other types, raise a ParameterError."""
    tokenizer = Tokenizer.from_folder(_write(tmp_path))
    with pytest.raises(ParameterError, match="token_ids"):
        tokenizer.decode([0, token_id])


@pytest.mark.parametrize("text", ["\ud800", "ok \udfff", None, 3, b"bytes", ["a"]])
def test_only_unicode_text_can_be_encoded(tmp_path: Path, text: Any) -> None:
    """Lone surrogates and other types raise a PromptError instead of the library's TypeError."""
    with pytest.raises(PromptError, match="valid Unicode"):
        Tokenizer.from_folder(_write(tmp_path)).encode(text)


def test_a_prompt_is_never_cut_or_padded(tmp_path: Path) -> None:
    """Truncation and padding in tokenizer.json are disabled."""
    truncation = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    padding = {
        "strategy": {"Fixed": 8},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "hello",
    }
    folder = _write(tmp_path, truncation=truncation, padding=padding)
    assert Tokenizer.from_folder(folder).encode("hello hello world") == [3, 0, 0, 1]


def test_a_text_has_the_same_ids_each_time(tmp_path: Path) -> None:
    """A BPE dropout in tokenizer.json is disabled, so that encoding is deterministic."""
    vocab = {text: index for index, text in enumerate(["a", "b", "ab", "<s>"])}
    model = {"type": "BPE", "dropout": 1.0, "vocab": vocab, "merges": [["a", "b"]], "unk_token": None}
    tokenizer = Tokenizer.from_folder(_write(tmp_path, model=model, added_tokens=[], post_processor=None))
    assert tokenizer.encode("ab") == [2]


@pytest.mark.parametrize(
    ("config", "before", "after"),
    [
        ({}, [3], []),
        ({"bos_token": "<s>", "eos_token": "</s>"}, [3], []),
        ({"bos_token": "<s>", "add_bos_token": True}, [3], []),
        ({"bos_token": "<s>", "add_bos_token": False}, [], []),
        ({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "add_eos_token": True}, [3], [2]),
        ({"bos_token": "</s>", "eos_token": "</s>", "add_bos_token": True}, [2], []),
        ({"add_bos_token": False}, [3], []),  # no BOS is named: nothing to add or leave out
        ({"add_bos_token": None, "bos_token": "<s>"}, [3], []),
    ],
)
def test_special_tokens_around_a_text(tmp_path: Path, config: Any, before: list[int], after: list[int]) -> None:
    """add_bos_token and add_eos_token in tokenizer_config.json override tokenizer.json's post-processor."""
    tokenizer = Tokenizer.from_folder(_write(tmp_path, config))
    assert tokenizer.encode("hello") == [*before, 0, *after]
    assert tokenizer.encode("") == [*before, *after]
    assert tokenizer.encode("hello", add_special_tokens=False) == [0]


def test_add_bos_token_without_a_post_processor(tmp_path: Path) -> None:
    """add_bos_token adds a BOS even without a post-processor, as in DeepSeek's files."""
    folder = _write(tmp_path, {"bos_token": "<s>", "add_bos_token": True}, post_processor=None)
    with_bos = Tokenizer.from_folder(folder)
    assert with_bos.encode("hello") == [3, 0]
    (folder / "tokenizer_config.json").unlink()
    without = Tokenizer.from_folder(folder)
    assert without.encode("hello") == [0]
    assert with_bos.digest != without.digest


@pytest.mark.parametrize("name", ["tokenizers/phi-3", "models/stories260K", "tokenizers/gpt2", "tokenizers/dolma2"])
def test_encoding_in_the_middle_of_a_text(shared: Path, name: str) -> None:
    """With at_start=False the ids decode to the text itself, without a leading space."""
    tokenizer = Tokenizer.from_folder(shared / name)
    for text in ("Once upon", " Once", "  Once", "\nOnce", "é", "☺", ".", "1", "", "Once\n"):
        ids = tokenizer.encode(text, add_special_tokens=False, at_start=False)
        assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


def test_a_text_that_cannot_fit_is_refused_by_its_length(tmp_path: Path) -> None:
    """A text with more characters than max_tokens of the longest token could hold is refused."""
    tokenizer = Tokenizer.from_folder(_write(tmp_path))
    assert len(tokenizer.encode("hello" * 11, max_tokens=11)) == 2
    with pytest.raises(ContextLengthError, match="at least 12 tokens: must fit the model's context of 11 tokens"):
        tokenizer.encode("hello" * 11 + "!", max_tokens=11)


# tokenizer_config.json and chat templates


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, (None, None)),
        ({}, (None, None)),
        ({"bos_token": "<s>", "eos_token": {"content": "</s>", "special": True}}, (3, 2)),
        ({"bos_token": None, "eos_token": "<absent>"}, (None, None)),
    ],
)
def test_tokenizer_config(tmp_path: Path, config: Any, expected: tuple[Any, ...]) -> None:
    """Start and end tokens are read from tokenizer_config.json, as text or as an object."""
    tokenizer = Tokenizer.from_folder(_write(tmp_path, config))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == expected


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (None, {}),
        ("{{ x }}", {"default": "{{ x }}"}),
        ([{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}], {"rag": "r", "default": "d"}),
        ([{"name": "rag", "template": "r"}], {"rag": "r"}),
    ],
)
def test_chat_templates_in_the_config(tmp_path: Path, template: Any, expected: dict[str, str]) -> None:
    """One template or named templates are read; the one called "default" is chat_template."""
    tokenizer = Tokenizer.from_folder(_write(tmp_path, {"chat_template": template}))
    assert tokenizer.chat_templates == expected
    assert tokenizer.chat_template == expected.get("default")


def test_chat_templates_in_files_take_their_place(tmp_path: Path) -> None:
    """Template files replace the templates of the config, and are named after their files."""
    folder = _write(tmp_path, {"chat_template": "old"})
    (folder / "chat_template.jinja").write_text("{{ bos_token }} café")
    assert Tokenizer.from_folder(folder).chat_templates == {"default": "{{ bos_token }} café"}
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tools.jinja").write_text("t")
    assert Tokenizer.from_folder(folder).chat_templates == {"tools": "t", "default": "{{ bos_token }} café"}
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(TokenizerError, match=r"chat_template\.jinja must be UTF-8"):
        Tokenizer.from_folder(folder)


@pytest.mark.parametrize(
    "config",
    [
        [],
        3,
        {"bos_token": 3},
        {"eos_token": {"content": 1}},
        {"add_bos_token": "yes"},
        {"chat_template": 1},
        {"chat_template": ["a"]},
        {"chat_template": [{"name": "default"}]},
    ],
)
def test_a_broken_tokenizer_config(tmp_path: Path, config: Any) -> None:
    """Values of a wrong type raise a TokenizerError that names the file."""
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json"):
        Tokenizer.from_folder(_write(tmp_path, config))


# Broken files


def test_no_tokenizer(tmp_path: Path) -> None:
    """A folder without tokenizer.json raises a TokenizerError that names it, and an unsupported format beside."""
    with pytest.raises(TokenizerError, match=rf"{tmp_path}: no tokenizer\.json in this folder$"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json .*tokenizer\.model is not read"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b"[" * 100_000, b'{"model": 1}'])
def test_a_broken_tokenizer(tmp_path: Path, content: bytes) -> None:
    """A file that the library cannot read raises a TokenizerError."""
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is not valid"):
        Tokenizer.from_folder(tmp_path)


def test_a_panic_of_the_library_is_an_error(tmp_path: Path) -> None:
    """A panic of the Rust library becomes a TokenizerError."""
    processor = json.loads((_write(tmp_path) / "tokenizer.json").read_text())["post_processor"]
    folder = _write(tmp_path, post_processor=processor | {"special_tokens": {}})
    with pytest.raises(TokenizerError):
        Tokenizer.from_folder(folder).encode("hello")


def test_a_post_processor_with_ids_of_its_own(tmp_path: Path) -> None:
    """A start token whose id exceeds the vocabulary is refused at load time."""
    processor = json.loads((_write(tmp_path) / "tokenizer.json").read_text())["post_processor"]
    processor["special_tokens"]["<s>"]["ids"] = [999_999]
    with pytest.raises(TokenizerError, match="largest token id 999999: must be below the model's vocab_size=5"):
        Tokenizer.from_folder(_write(tmp_path, post_processor=processor), vocab_size=5)


def test_endless_backtracking_is_an_error(tmp_path: Path) -> None:
    """A pattern that backtracks without end becomes a TokenizerError when the library gives up."""
    splitter = {"type": "Split", "pattern": {"Regex": "(\\w+\\s?)*$"}, "behavior": "Isolated", "invert": False}
    tokenizer = Tokenizer.from_folder(_write(tmp_path, pre_tokenizer=splitter))
    with pytest.raises(TokenizerError, match=r"tokenizer\.json cannot encode text='aaa"):
        tokenizer.encode("a" * 200 + "!")


def test_a_vocabulary_without_tokens(tmp_path: Path) -> None:
    """An empty vocabulary raises a TokenizerError."""
    model = {"type": "WordLevel", "vocab": {}, "unk_token": "x"}
    with pytest.raises(TokenizerError, match="must have token ids"):
        Tokenizer.from_folder(_write(tmp_path, model=model, added_tokens=[], post_processor=None))


def test_a_tokenizer_must_fit_its_model(tmp_path: Path) -> None:
    """A token id beyond the model's vocab_size is an error; a larger vocab_size is not."""
    folder = _write(tmp_path)
    assert Tokenizer.from_folder(folder, vocab_size=64).vocab_size == 5
    with pytest.raises(TokenizerError, match="largest token id 4: must be below the model's vocab_size=4"):
        Tokenizer.from_folder(folder, vocab_size=4)


def test_a_token_for_images_need_not_fit_a_model_of_text(tmp_path: Path) -> None:
    """Gemma 3's image token may exceed the vocab_size of a text-only model; any other token may not."""
    token = {"id": 5, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [token | {"content": "<image_soft_token>"}]
    tokenizer = Tokenizer.from_folder(_write(tmp_path, added_tokens=added), vocab_size=5)
    assert (tokenizer.vocab_size, tokenizer.token_to_id("<image_soft_token>")) == (6, 5)
    with pytest.raises(TokenizerError, match="largest token id 4: must be below the model's vocab_size=4"):
        Tokenizer.from_folder(tmp_path, vocab_size=4)
    added = [token | {"content": "<other>"}]
    with pytest.raises(TokenizerError, match="largest token id 5: must be below the model's vocab_size=5"):
        Tokenizer.from_folder(_write(tmp_path, added_tokens=added), vocab_size=5)


def test_digest_depends_on_the_file(tmp_path: Path) -> None:
    """Equal files have equal digests, and other files have others."""
    first = Tokenizer.from_folder(_write(tmp_path)).digest
    assert Tokenizer.from_folder(_write(tmp_path)).digest == first
    assert Tokenizer.from_folder(_write(tmp_path, normalizer={"type": "NFC"})).digest != first


@pytest.mark.parametrize(("name", "vectors"), [("gpt2", "gpt-2"), ("phi-3", "phi-3"), ("phi-3", "llama-spm")])
def test_published_ids(shared: Path, name: str, vectors: str) -> None:
    """46 hard strings of llama.cpp (ggml-vocab-*.inp and .out) get the published ids and decode back."""
    folder = shared / "vectors" / "llama_cpp_vocab"
    texts = (folder / f"{vectors}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")[:-1]
    lines = (folder / f"{vectors}.out").read_text().split("\n")
    tokenizer = Tokenizer.from_folder(shared / "tokenizers" / name)
    assert len(texts) == 46
    for text, line in zip(texts, lines, strict=False):
        expected = [int(token_id) for token_id in line.split()]
        assert tokenizer.encode(text, add_special_tokens=False) == expected
        assert tokenizer.decode(expected) == text
        detokenizer, decoder = Detokenizer(tokenizer), Utf8Decoder()
        pieces = [decoder.feed(detokenizer.append(token_id)) for token_id in expected]
        assert "".join(pieces) + decoder.feed(b"", final=True) == text


@pytest.mark.parametrize("name", ["dolma2", "gpt-neox-20b", "phi-3"])
def test_plain_text_has_no_added_token(shared: Path, name: str) -> None:
    """With parse_special=False, text that spells added tokens is encoded as plain text and decodes back."""
    tokenizer = Tokenizer.from_folder(shared / "tokenizers" / name)
    added = [token.content for token in tokenizer._added.values() if not token.content.isspace()]
    usual, hostile = "Hello  world    and\n\n        more", "Hello " + " ".join(added)
    assert tokenizer.encode(usual, parse_special=False) == tokenizer.encode(usual)
    assert tokenizer.encode("", parse_special=False) == tokenizer.encode("")
    for at_start in (True, False):
        ids = tokenizer.encode(hostile, False, at_start=at_start, parse_special=False)
        assert not any(tokenizer.token_text(token_id, False) in added for token_id in ids)
        assert tokenizer.decode(ids).strip() == hostile
    start, whole = tokenizer.encode(""), tokenizer.encode(hostile, parse_special=False)
    assert whole == [*start, *tokenizer.encode(hostile, False, parse_special=False)]


def test_plain_text_that_must_become_a_special_token_is_refused(tmp_path: Path) -> None:
    """With parse_special=False, text that can only be encoded as a special token raises a PromptError."""
    tokenizer = Tokenizer.from_folder(_write(tmp_path))
    assert tokenizer.encode("hello </s>") == [3, 0, 2]
    assert tokenizer.encode("hello world", parse_special=False) == [3, 0, 1]
    with pytest.raises(PromptError, match=r"cannot be plain text.*'</s>'"):
        tokenizer.encode("hello </s>", parse_special=False)
