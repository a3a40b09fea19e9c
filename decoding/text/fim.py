"""Fill-in-the-middle: the prompt for the text between a prefix and a suffix.

Each family of models was trained on an order of its own (Bavarian et al. 2022 call them PSM and SPM) with marker
tokens of its own. Both are one template here, such as "<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from decoding.errors import ParameterError
from decoding.text.tokenizer import Tokenizer


class FimConvention(NamedTuple):
    """One family's template, and tokens that end a middle besides EOS and the markers themselves."""

    template: str
    ends: tuple[str, ...] = ()


CONVENTIONS = (
    # Qwen 2.5 Coder, CodeGemma, Granite 3 and 4
    FimConvention(
        "<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>",
        ("<|fim_pad|>", "<|file_sep|>", "<|repo_name|>", "<|file_separator|>"),
    ),
    # StarCoder 1 and 2, StableCode, Granite Code
    FimConvention(
        "<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>", ("<fim_pad>", "<file_sep>", "<repo_name>", "<filename>")
    ),
    FimConvention("<fim-prefix>{prefix}<fim-suffix>{suffix}<fim-middle>", ("<fim-pad>",)),  # SantaCoder
    FimConvention("<｜fim▁begin｜>{prefix}<｜fim▁hole｜>{suffix}<｜fim▁end｜>"),  # DeepSeek Coder 1 and 2, V3
    FimConvention("▁<PRE>{prefix}▁<SUF>{suffix}▁<MID>", ("▁<EOT>",)),  # Code Llama
    FimConvention("[SUFFIX]{suffix}[PREFIX]{prefix}", ("[MIDDLE]",)),  # Codestral
    FimConvention("<[fim-suffix]>{suffix}<[fim-prefix]>{prefix}<[fim-middle]>"),  # the bundled model; Seed Coder
    FimConvention("<|code_prefix|>{prefix}<|code_suffix|>{suffix}<|code_middle|>"),  # GLM 4
)

_GAPS = re.compile(r"\{(prefix|suffix)\}")


class FimPrompt(NamedTuple):
    """A fill-in-the-middle prompt: its token ids, the caller's prefix in it, and ids that end a middle besides EOS."""

    token_ids: list[int]
    prefix: slice
    end_token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FimFormat:
    """The fill-in-the-middle template of a model, as token ids.

    before, between, after: the token ids around the two gaps.
    suffix_first: True if the suffix comes before the prefix.
    end_token_ids: ids that end a middle besides EOS.
    """

    tokenizer: Tokenizer
    before: list[int]
    between: list[int]
    after: list[int]
    suffix_first: bool
    end_token_ids: tuple[int, ...]

    @classmethod
    def find(cls, tokenizer: Tokenizer) -> FimFormat | None:
        """Return the first of CONVENTIONS whose markers are all in the tokenizer; otherwise None."""
        for template, ends in CONVENTIONS:
            ids = [tokenizer.token_to_id(text) for text in _markers(template)]
            found = [token_id for token_id in ids if token_id is not None]
            if len(found) == len(ids):
                more = (tokenizer.token_to_id(text) for text in ends)
                return cls._compile(tokenizer, template, [*found, *(end for end in more if end is not None)])
        return None

    @classmethod
    def from_template(cls, tokenizer: Tokenizer, template: str) -> FimFormat:
        """Return the format of a template that has {prefix} and {suffix}, each once, between markers and other text.

        Its markers are the parts of it that are single tokens, such as special tokens; they also end a middle.
        Raises ParameterError if it has no marker, because then one was misspelt.
        """
        rule = "must be a string with {prefix} and {suffix}, each once, and with a marker that the tokenizer has"
        if not isinstance(template, str) or sorted(_GAPS.findall(template)) != ["prefix", "suffix"]:
            raise ParameterError.single("fim_template", template, rule)
        literals = [token_id for text in _markers(template) for token_id in _literal(tokenizer, text)]
        markers = [token_id for token_id in literals if tokenizer.is_added(token_id)]
        if not markers:
            raise ParameterError.single("fim_template", template, rule)
        return cls._compile(tokenizer, template, markers)

    @classmethod
    def _compile(cls, tokenizer: Tokenizer, template: str, end_token_ids: Sequence[int]) -> FimFormat:
        before, between, after = (_literal(tokenizer, text) for text in _GAPS.split(template)[::2])
        suffix_first = template.index("{suffix}") < template.index("{prefix}")
        return cls(tokenizer, before, between, after, suffix_first, tuple(dict.fromkeys(end_token_ids)))

    def prompt(
        self,
        prefix: str | Sequence[int],
        suffix: str,
        max_tokens: int | None = None,
        *,
        parse_special: bool = True,
    ) -> FimPrompt:
        """Return the prompt for `prefix` (text, or token ids taken as they are) and `suffix`.

        It begins with the start tokens that the tokenizer puts before every text, unless the template has them.
        max_tokens, parse_special: as in Tokenizer.encode.
        """
        before = self.before
        encode = partial(
            self.tokenizer.encode, add_special_tokens=False, max_tokens=max_tokens, parse_special=parse_special
        )
        if isinstance(prefix, str):
            start = _start_tokens(self.tokenizer)
            before = before if before[: len(start)] == start else [*start, *before]
            prefix = encode(prefix)
        after = encode(suffix, at_start=False)
        if self.suffix_first:
            before, after = [*before, *after, *self.between], self.after
        else:
            after = [*self.between, *after, *self.after]
        token_ids = [*before, *prefix, *after]
        return FimPrompt(token_ids, slice(len(before), len(before) + len(prefix)), self.end_token_ids)


def _markers(template: str) -> list[str]:
    """Return the texts around the gaps of a template."""
    return [text for text in _GAPS.split(template)[::2] if text]


def _literal(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the token with this text in the vocabulary, otherwise the tokens of the text."""
    token_id = tokenizer.token_to_id(text) if text else None
    return tokenizer.encode(text, add_special_tokens=False, at_start=False) if token_id is None else [token_id]


def _start_tokens(tokenizer: Tokenizer) -> list[int]:
    """Return the start token as a list; an empty one if the tokenizer adds none."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer.encode("")[:1] == [bos] else []
