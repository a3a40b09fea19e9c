"""Fill-in-the-middle prompts: tokens and order of every convention, templates, and SentencePiece's leading space."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from decoding.errors import ContextLengthError, ParameterError, PromptError
from decoding.testing.scripted import byte_tokenizer
from decoding.text.detokenizer import Detokenizer
from decoding.text.fim import CONVENTIONS, FimFormat
from decoding.text.tokenizer import Tokenizer
from decoding.text.tokenizer_config import TokenizerConfig

PSM, SPM = ["before", "ab", "between", "c", "after"], ["before", "c", "between", "ab", "after"]


@pytest.mark.parametrize(
    ("markers", "order"),
    [
        (["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"], PSM),  # Qwen 2.5 Coder, CodeGemma
        (["<fim_prefix>", "<fim_suffix>", "<fim_middle>"], PSM),  # StarCoder
        (["<fim-prefix>", "<fim-suffix>", "<fim-middle>"], PSM),  # SantaCoder
        (["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"], PSM),  # DeepSeek Coder
        (["▁<PRE>", "▁<SUF>", "▁<MID>"], PSM),  # Code Llama
        (["[SUFFIX]", "[PREFIX]"], SPM),  # Codestral
        (["<[fim-suffix]>", "<[fim-prefix]>", "<[fim-middle]>"], SPM),  # Seed Coder
        (["<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"], PSM),  # GLM 4
    ],
    ids=lambda value: value[0],
)
def test_every_convention_in_its_own_order(markers: list[str], order: list[str]) -> None:
    """A prompt has the markers that the model's authors publish, around prefix and suffix in their order."""
    found = FimFormat.find(byte_tokenizer(special=markers))
    assert found
    prompt = found.prompt("ab", "c")
    ids = {"before": [256], "between": [257], "after": [258] if len(markers) > 2 else []}
    assert prompt.token_ids == [token_id for part in order for token_id in ids.get(part, part.encode())]
    assert prompt.token_ids[prompt.prefix] == [97, 98]
    assert prompt.end_token_ids == tuple(range(256, 256 + len(markers)))


def test_every_convention_is_tested() -> None:
    """The number of conventions is fixed here, so that a new one gets a case above."""
    assert len(CONVENTIONS) == 8


@pytest.mark.parametrize(("template", "ends"), CONVENTIONS, ids=lambda value: str(value)[:8])
def test_markers_and_known_ends_end_a_middle(template: str, ends: tuple[str, ...]) -> None:
    """Any marker ends a middle, and so does any end token of the convention."""
    markers = [text for text in template.replace("{suffix}", "{prefix}").split("{prefix}") if text]
    found = FimFormat.find(byte_tokenizer(special=[*markers, *ends]))
    assert found
    assert found.end_token_ids == tuple(range(256, 256 + len(markers) + len(ends)))


def test_a_prefix_of_token_ids_is_unchanged() -> None:
    """A prefix of token ids is placed between the markers unchanged, without a start token."""
    found = FimFormat.find(byte_tokenizer(special=["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<bos>"]))
    assert found
    prompt = found.prompt([7, 8], "")
    assert prompt.token_ids == [256, 7, 8, 257, 258]
    assert prompt.token_ids[prompt.prefix] == [7, 8]


@pytest.mark.parametrize("special", [[], ["<fim_prefix>", "<fim_suffix>"], ["[PREFIX]", "[MIDDLE]"]])
def test_without_markers_there_is_no_format(special: list[str]) -> None:
    """A tokenizer without all markers of a convention has no format."""
    assert FimFormat.find(byte_tokenizer(special=special)) is None


# Templates


def test_a_template_names_markers_order_and_text() -> None:
    """A template may have markers of its own, text between them, and the suffix first."""
    tokenizer = byte_tokenizer(special=["<file>", "<post>", "<pre>", "<mid>"])
    found = FimFormat.from_template(tokenizer, "<file>x\n<post>{suffix}<pre>{prefix}<mid>")
    prompt = found.prompt("ab", "c")
    assert prompt.token_ids == [256, *b"x\n", 257, *b"c", 258, *b"ab", 259]
    assert prompt.token_ids[prompt.prefix] == [97, 98]
    assert prompt.end_token_ids == (256, 257, 258, 259)


def test_a_template_overrides_the_conventions() -> None:
    """A template overrides the conventions, as Mellum needs: StarCoder's markers in another order."""
    tokenizer = byte_tokenizer(special=["<fim_prefix>", "<fim_suffix>", "<fim_middle>"])
    found = FimFormat.from_template(tokenizer, "<fim_suffix>{suffix}<fim_prefix>{prefix}<fim_middle>")
    assert found.prompt("a", "b").token_ids == [257, 98, 256, 97, 258]


@pytest.mark.parametrize(
    "template",
    ["", "<fim>{prefix}", "{prefix}<fim>{suffix}{prefix}", "<fmi>{prefix}{suffix}", "{prefix}{suffix}", 3, b"x"],
)
def test_invalid_templates_are_refused(template: Any) -> None:
    """A template with a missing or repeated placeholder, or without a known marker, raises a ParameterError."""
    with pytest.raises(ParameterError, match="fim_template"):
        FimFormat.from_template(byte_tokenizer(special=["<fim>"]), template)


# SentencePiece's leading space, and start tokens


@functools.cache
def _code_llama(shared: Path) -> Tokenizer:
    """Return a Llama 2 tokenizer (phi-3's) with Code Llama's markers."""
    values = json.loads((shared / "tokenizers/phi-3/tokenizer.json").read_text())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    for token_id, name in enumerate(("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"), 32045):
        values["added_tokens"].append({"id": token_id, "content": name, **flags})
    return Tokenizer(json.dumps(values).encode(), TokenizerConfig({"bos_token": "<s>"}))


@pytest.mark.parametrize("suffix", ["return x", " return x", "\n    return x", "  x", "é", "", "☺", "."])
def test_a_suffix_has_no_leading_space_of_its_own(shared: Path, suffix: str) -> None:
    """A prompt in Code Llama's format has no dummy space before its suffix, as in the published code."""
    tokenizer = _code_llama(shared)
    found = FimFormat.find(tokenizer)
    assert found
    prompt = found.prompt("def f(x):", suffix)
    pre, suf, mid, end = (tokenizer.token_to_id(f"▁<{name}>") for name in ("PRE", "SUF", "MID", "EOT"))
    prefix_ids = tokenizer.encode("def f(x):", add_special_tokens=False)
    suffix_ids = tokenizer.encode("☺" + suffix, add_special_tokens=False)[2:]  # as the published code does it
    assert prompt.token_ids == [1, pre, *prefix_ids, suf, *suffix_ids, mid]
    assert b"".join(map(tokenizer.token_bytes, suffix_ids)) == suffix.encode()
    assert prompt.end_token_ids == (pre, suf, mid, end)


@pytest.mark.parametrize(("prefix", "suffix"), [("", ""), ("", "x"), ("x", ""), ("x", "y")])
def test_a_middle_keeps_its_leading_space(shared: Path, prefix: str, suffix: str) -> None:
    """The first space of a middle is part of it, also if prefix or suffix is empty."""
    tokenizer = _code_llama(shared)
    found = FimFormat.find(tokenizer)
    assert found
    prompt = found.prompt(prefix, suffix)
    middle = tokenizer.encode("Once upon", add_special_tokens=False)
    detokenizer = Detokenizer(tokenizer, prompt.token_ids, at_start=False)
    assert b"".join(map(detokenizer.append, middle)) == b" Once upon"


def test_a_start_token_comes_first_and_once(shared: Path) -> None:
    """The start token is placed once, before the markers, whether the template contains it or not."""
    tokenizer = _code_llama(shared)
    pre, mid = tokenizer.token_to_id("▁<PRE>"), tokenizer.token_to_id("▁<MID>")
    for start in ("", "<s>"):
        found = FimFormat.from_template(tokenizer, start + "▁<PRE>{suffix}{prefix}▁<MID>")
        ids = found.prompt("a", "b").token_ids
        assert ids[:2] == [1, pre]
        assert ids[-1] == mid
        assert ids.count(1) == 1


def test_texts_must_fit_and_be_unicode() -> None:
    """A prefix or suffix far beyond the context is refused before it is tokenised; invalid Unicode is refused."""
    found = FimFormat.find(byte_tokenizer(special=["[SUFFIX]", "[PREFIX]"]))
    assert found
    huge: Sequence[tuple[str, str]] = (("a" * 1000, "b"), ("a", "b" * 1000))
    for prefix, suffix in huge:
        with pytest.raises(ContextLengthError, match="at least 125 tokens: must fit the model's context of 10"):
            found.prompt(prefix, suffix, max_tokens=10)
    with pytest.raises(PromptError, match="valid Unicode"):
        found.prompt("a", "\ud800")


def test_the_documentation_has_every_convention() -> None:
    """docs/text.md lists the templates and end tokens of CONVENTIONS, in order."""
    rows = re.findall(
        r"^\|.*\{prefix\}.*$", (Path(__file__).parents[3] / "docs/text.md").read_text(), flags=re.MULTILINE
    )
    cells = [re.findall(r"`([^`]+)`", row.replace("\\|", "|")) for row in rows]
    assert cells == [[template, *ends] for template, ends in CONVENTIONS]
