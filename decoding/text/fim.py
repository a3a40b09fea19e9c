"""Fill-in-the-middle: the prompt that makes a model write what belongs between a prefix and a suffix.

Prefix, suffix, then the middle (Bavarian et al. 2022, "PSM"): the markers come from the tokenizer itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from decoding.errors import PromptError, shown
from decoding.text.tokenizer import Tokenizer


class FimConvention(NamedTuple):
    """One family's markers, in the order of the prompt, and the token that ends a middle besides EOS."""

    prefix: str
    suffix: str
    middle: str
    end: str | None = None


CONVENTIONS = (
    FimConvention("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # the bundled model, Qwen Coder, CodeGemma
    FimConvention("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite Code
    FimConvention("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    FimConvention("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek Coder
    FimConvention("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"),  # Code Llama
)


class FimPrompt(NamedTuple):
    """What the model is fed, where in it the caller's prefix lies, and the ids that end a middle besides EOS."""

    token_ids: list[int]
    prefix: slice
    end_token_ids: tuple[int, ...]


def fim_prompt(tokenizer: Tokenizer, prefix: str | Sequence[int], suffix: str) -> FimPrompt:
    """The fill-in-the-middle prompt for `prefix` (text, or token ids taken as they are) and `suffix`.

    A start token that the tokenizer puts before every text comes before the markers. Raises PromptError where
    the tokenizer has no fill-in-the-middle tokens that we know of.
    """
    markers, end_token_ids = _find_markers(tokenizer, suffix)
    start: list[int] = []
    if isinstance(prefix, str):
        start = _start_tokens(tokenizer)
        prefix = tokenizer.encode(prefix, add_special_tokens=False)
    before, between, after = markers
    suffix_ids = tokenizer.encode(suffix, add_special_tokens=False)
    first = len(start) + 1
    token_ids = [*start, before, *prefix, between, *suffix_ids, after]
    return FimPrompt(token_ids, slice(first, first + len(prefix)), end_token_ids)


def _find_markers(tokenizer: Tokenizer, suffix: str) -> tuple[list[int], tuple[int, ...]]:
    for convention in CONVENTIONS:
        ids = [tokenizer.token_to_id(text) for text in convention[:3]]
        known = [token_id for token_id in ids if token_id is not None]
        if len(known) == len(ids):
            end = tokenizer.token_to_id(convention.end) if convention.end else None
            return known, () if end is None else (end,)
    names = ", ".join(convention.prefix for convention in CONVENTIONS)
    raise PromptError(f"suffix={shown(suffix)}: this model's tokenizer has no fill-in-the-middle tokens ({names}, ...)")


def _start_tokens(tokenizer: Tokenizer) -> list[int]:
    """The start token, as a list, where the tokenizer adds one to every text."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer.encode("")[:1] == [bos] else []
