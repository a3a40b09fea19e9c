"""The vocabulary in the metadata of a GGUF file: tokens, their types, and the ids with a special meaning.

The rules are llama.cpp's, so that a text has the ids and the end that it has there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from decoding.errors import TokenizerError, shown

PREFIX = "tokenizer.ggml."
KINDS = ("gpt2", "llama")

_MAX_TOKENS = 5 << 16  # the largest we know of has 262,144
_MAX_TOKEN = 1 << 12  # characters
_MAX_CHARACTERS = 1 << 23  # of all tokens, and of all merges; the largest vocabularies have 2 million
_MAX_WHOLE = 1 << 16  # tokens that are looked for in every text; Gemma 3 has 6,415
_NO_ID = 2**32 - 1  # llama.cpp's -1: there is no such token

_END_IDS = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")
_END_TEXTS = (
    *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>"),
    *("<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<eos>"),
    *("<end_of_utterance>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~["),
)
"""Tokens that end a text regardless of the metadata."""

_FIM_TEXTS = {
    "fim_pre": "<|fim_prefix|> <fim-prefix> <fim_prefix> <｜fim▁begin｜> <PRE> ▁<PRE> <|code_prefix|> <|prefix|>",
    "fim_suf": "<|fim_suffix|> <fim-suffix> <fim_suffix> <｜fim▁hole｜> <SUF> ▁<SUF> <|code_suffix|> <|suffix|>",
    "fim_mid": "<|fim_middle|> <fim-middle> <fim_middle> <｜fim▁end｜> <MID> ▁<MID> <|code_middle|> <|middle|>",
    "fim_pad": "<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD]",
    "fim_rep": "<|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame>",
    "fim_sep": "<|file_sep|>",
}
"""Tokens that mark the parts of a fill-in-the-middle prompt if the metadata name none, by role."""

_OLD_NAMES = {"fim_pre": "prefix", "fim_suf": "suffix", "fim_mid": "middle"}
_SHOWN_TEXTS = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")
"""Markers of gpt-oss that are part of the text."""


class TokenKind(IntEnum):
    """The values of `tokenizer.ggml.token_type`."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


WHOLE_KINDS = (TokenKind.CONTROL, TokenKind.USER_DEFINED, TokenKind.UNKNOWN)
"""Kinds of tokens that are found in a text before it is tokenised."""


@dataclass(frozen=True, slots=True)
class GGUFVocabulary:
    """The tokens of a file.

    kind: "gpt2" (byte-level BPE) or "llama" (SentencePiece with scores).
    tokens: their texts, all different, by id.
    kinds: TokenKind by id.
    special_ids: ids by role: bos, eos, eot, eom, unknown, fim_pre, fim_suf, fim_mid, fim_pad, fim_rep, fim_sep.
    end_token_ids: all ids that end a text, ascending.
    """

    kind: str
    tokens: Sequence[str]
    kinds: Sequence[int]
    special_ids: Mapping[str, int]
    end_token_ids: tuple[int, ...]

    @classmethod
    def read(cls, metadata: Mapping[str, Any], vocab_size: int | None = None) -> GGUFVocabulary | None:
        """Return the vocabulary, or None if the metadata have none.

        vocab_size: the model's, which must be the number of tokens. Raises TokenizerError naming key, value and rule.
        """
        kind = metadata.get(f"{PREFIX}model", "none")
        if not isinstance(kind, str) or kind not in (*KINDS, "no_vocab", "none"):
            rule = f"must be one of {', '.join(map(repr, KINDS))}"
            raise TokenizerError(f"{PREFIX}model={shown(kind)}: {rule}")
        if kind not in KINDS:
            return None
        tokens = _tokens(metadata, vocab_size)
        kinds = _kinds(metadata, len(tokens))
        ids = {text: token_id for token_id, text in enumerate(tokens)}
        special = _given_ids(metadata, kind, len(tokens))
        special |= (fim := _named_fim_ids(special, ids))
        ends = {ids[text] for text in _END_TEXTS if text in ids}
        for token_id in (*ends, *fim.values()):
            kinds[token_id] = TokenKind.CONTROL
        ends |= {special[role] for role in _END_IDS if role in special}
        for text, kind_then in _exceptions(ids).items():
            kinds[ids[text]] = kind_then
            ends.discard(ids[text])
        if (whole := sum(map(kinds.count, WHOLE_KINDS))) > _MAX_WHOLE:
            rule = f"must be at most {_MAX_WHOLE:,}"
            raise TokenizerError(f"{PREFIX}token_type has {whole:,} special and user-defined tokens: {rule}")
        return cls(kind, tokens, kinds, special, tuple(sorted(ends)))


def numbers(metadata: Mapping[str, Any], name: str, count: int) -> list[Any] | None:
    """Return the array `tokenizer.ggml.<name>` of one number per token, or None if the metadata have none."""
    values = metadata.get(PREFIX + name)
    if values is None:
        return None
    if not isinstance(values, np.ndarray) or values.dtype == np.bool_:
        raise TokenizerError(f"{PREFIX}{name}={shown(values)}: must be an array of numbers")
    if len(values) != count:
        rule = f"must be as many as {PREFIX}tokens, {count:,}"
        raise TokenizerError(f"{PREFIX}{name} has {len(values):,} numbers: {rule}")
    found: list[Any] = values.tolist()
    return found


def strings(metadata: Mapping[str, Any], name: str) -> list[str]:
    """Return the array of strings `tokenizer.ggml.<name>`, which must be there."""
    values = metadata.get(PREFIX + name)
    if not isinstance(values, list):
        raise TokenizerError(f"{PREFIX}{name}={shown(values)}: must be an array of strings")
    return values


def check_length(name: str, texts: Sequence[str]) -> None:
    """Raise TokenizerError if the strings of an array have very many characters together."""
    length = sum(map(len, texts))
    if length > _MAX_CHARACTERS:
        raise TokenizerError(f"{PREFIX}{name} has {length:,} characters: must have at most {_MAX_CHARACTERS:,}")


def flag(metadata: Mapping[str, Any], name: str, default: bool) -> bool:
    """Return the boolean `tokenizer.ggml.<name>`, or the default if the metadata have none."""
    value = metadata.get(PREFIX + name, default)
    if not isinstance(value, bool):
        raise TokenizerError(f"{PREFIX}{name}={shown(value)}: must be a boolean")
    return value


def _tokens(metadata: Mapping[str, Any], vocab_size: int | None) -> list[str]:
    """Return the texts; an empty one is given a name, as in llama.cpp."""
    tokens = strings(metadata, "tokens")
    if not 1 <= len(tokens) <= _MAX_TOKENS:
        raise TokenizerError(f"{PREFIX}tokens has {len(tokens):,} tokens: must have 1 to {_MAX_TOKENS:,}")
    if vocab_size is not None and len(tokens) != vocab_size:
        rule = f"must be as many as the model's vocab_size={vocab_size:,}"
        raise TokenizerError(f"{PREFIX}tokens has {len(tokens):,} tokens: {rule}")
    texts = [text or f"[EMPTY_{token_id}]" for token_id, text in enumerate(tokens)]
    check_length("tokens", texts)
    longest = max(texts, key=len)
    if len(longest) > _MAX_TOKEN:
        token_id = texts.index(longest)
        rule = f"must have at most {_MAX_TOKEN:,} characters, not {len(longest):,}"
        raise TokenizerError(f"{PREFIX}tokens[{token_id}]={shown(longest)}: {rule}")
    if len(set(texts)) < len(texts):
        seen: set[str] = set()
        token_id = next(i for i, text in enumerate(texts) if text in seen or seen.add(text))  # type: ignore[func-returns-value]
        raise TokenizerError(f"{PREFIX}tokens[{token_id}]={shown(texts[token_id])}: must be unique")
    return texts


def _kinds(metadata: Mapping[str, Any], count: int) -> list[int]:
    """Return the types; an unknown number counts as UNDEFINED, as in llama.cpp."""
    known = set(TokenKind)
    kinds = numbers(metadata, "token_type", count)
    return [TokenKind.NORMAL] * count if kinds is None else [kind if kind in known else 0 for kind in kinds]


def _given_ids(metadata: Mapping[str, Any], kind: str, count: int) -> dict[str, int]:
    """Return ids by role from the metadata, with SentencePiece's ids as defaults."""
    found: dict[str, int] = {}
    if kind == "llama":
        found = {role: token_id for role, token_id in (("unknown", 0), ("bos", 1), ("eos", 2)) if token_id < count}
    for role in ("bos", "eos", "eot", "eom", "unknown", *_FIM_TEXTS):
        for name in (_OLD_NAMES.get(role, role), role):
            key = f"{PREFIX}{name}_token_id"
            if metadata.get(key) == _NO_ID:
                found.pop(role, None)
            elif key in metadata:
                found[role] = _checked_id(key, metadata[key], count)
    return found


def _checked_id(key: str, value: object, count: int) -> int:
    if type(value) is not int or not 0 <= value < count:
        raise TokenizerError(f"{key}={shown(value)}: must be a token id from 0 to {count - 1:,}")
    return value


def _named_fim_ids(given: Mapping[str, int], ids: Mapping[str, int]) -> dict[str, int]:
    """Return ids by role that follow from tokens' texts, for roles that the metadata leave out."""
    found = {}
    for role in _FIM_TEXTS.keys() - given.keys():
        texts = [text for text in _FIM_TEXTS[role].split() if text in ids]
        if texts:
            found[role] = ids[texts[0]]
    return found


def _exceptions(ids: Mapping[str, int]) -> dict[str, TokenKind]:
    """Return tokens that look like markers but are text in this vocabulary, with their kinds."""
    found = {text: TokenKind.USER_DEFINED for text in _SHOWN_TEXTS if text in ids}
    if "<|end|>" in ids and any(
        first in ids and second in ids for first in ("<|call|>", "<|calls|>") for second in ("<|return|>", "<|flush|>")
    ):
        found["<|end|>"] = TokenKind.USER_DEFINED  # it ends a part of an answer that goes on
    if "<|tool_response>" in ids and "</s>" in ids:
        found["</s>"] = TokenKind.NORMAL
    return found
