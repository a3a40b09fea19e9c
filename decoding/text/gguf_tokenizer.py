"""A tokenizer from the metadata of a GGUF file, by way of an equivalent tokenizer.json for `decoding.text.tokenizer`.

Ids are those of llama.cpp, with special tokens recognised in the text. Nothing is normalised, as there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from decoding.errors import TokenizerError, shown
from decoding.text.gguf_splits import PreTokenizer, pre_tokenizer
from decoding.text.gguf_vocab import (
    PREFIX,
    WHOLE_KINDS,
    GGUFVocabulary,
    TokenKind,
    check_length,
    flag,
    numbers,
    strings,
)
from decoding.text.score_merger import ScoreMerger
from decoding.text.tokenizer import Tokenizer
from decoding.text.tokenizer_config import TokenizerConfig

_TEMPLATE = "tokenizer.chat_template"
_SPACE = "▁"
_KEEPING_BLANKS = ("<unk>", "<s>", "<|endoftext|>")  # Phi-3's special tokens that leave blanks after them alone


def read_tokenizer(metadata: Mapping[str, Any], vocab_size: int | None = None) -> Tokenizer | None:
    """Return the tokenizer that the metadata describe, or None if they have no vocabulary.

    vocab_size: the model's, which must be the number of tokens. Raises TokenizerError naming key, value and rule.
    """
    vocabulary = GGUFVocabulary.read(metadata, vocab_size)
    if vocabulary is None:
        return None
    if vocabulary.kind == "llama":
        merger = ScoreMerger(_scores(metadata, vocabulary.tokens))
        document, config = _sentencepiece(metadata, vocabulary), _config(metadata, vocabulary, add_bos=True)
        return Tokenizer(_encoded(document), config, _exact(vocabulary), merger)
    rules = pre_tokenizer(metadata.get(f"{PREFIX}pre", "default"))
    document, config = _byte_level(metadata, vocabulary, rules), _config(metadata, vocabulary, add_bos=rules.add_bos)
    return Tokenizer(_encoded(document), config, _exact(vocabulary))


def _encoded(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()


def _config(metadata: Mapping[str, Any], vocabulary: GGUFVocabulary, *, add_bos: bool) -> TokenizerConfig:
    """Return start and end tokens, and chat templates; add_bos: the default for the metadata."""
    special, tokens = vocabulary.special_ids, vocabulary.tokens
    bos, eos = (tokens[special[role]] if role in special else None for role in ("bos", "eos"))
    return TokenizerConfig(
        {
            "bos_token": bos,
            "eos_token": eos,
            "add_bos_token": flag(metadata, "add_bos_token", add_bos),
            "add_eos_token": flag(metadata, "add_eos_token", False),
            "chat_template": _templates(metadata),
        }
    )


def _exact(vocabulary: GGUFVocabulary) -> dict[str, bytes]:
    """Return the bytes of tokens that are not spelled in the vocabulary's alphabet: unused ones have none."""
    exact = {}
    for text, kind in zip(vocabulary.tokens, vocabulary.kinds, strict=True):
        if kind == TokenKind.UNUSED:
            exact[text] = b""
        elif vocabulary.kind == "gpt2" and kind in WHOLE_KINDS:  # in which an é may stand for one byte
            exact[text] = text.encode()
    return exact


def _templates(metadata: Mapping[str, Any]) -> list[dict[str, str]]:
    found = []
    for key in metadata:
        if key == _TEMPLATE or key.startswith(f"{_TEMPLATE}."):
            value = metadata[key]
            if not isinstance(value, str):
                raise TokenizerError(f"{key}={shown(value)}: must be a string")
            found.append({"name": key[len(_TEMPLATE) + 1 :] or "default", "template": value})
    return found


# Sections of tokenizer.json


def _document(vocabulary: GGUFVocabulary, model: dict[str, Any], keeps_blanks: bool = True) -> dict[str, Any]:
    """Return a tokenizer.json without normaliser, pre-tokenizer and decoder."""
    ids = {text: token_id for token_id, text in enumerate(vocabulary.tokens)}
    bpe = {"type": "BPE", "dropout": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
    return {
        "version": "1.0",
        "added_tokens": [
            {
                "id": token_id,
                "content": text,
                "single_word": False,
                "lstrip": False,
                "rstrip": not keeps_blanks and text not in _KEEPING_BLANKS,
                "normalized": False,
                "special": kind != TokenKind.USER_DEFINED,
            }
            for (text, token_id), kind in zip(ids.items(), vocabulary.kinds, strict=True)
            if kind in WHOLE_KINDS
        ],
        "model": bpe | model | {"vocab": ids},
    }


def _byte_level(metadata: Mapping[str, Any], vocabulary: GGUFVocabulary, rules: PreTokenizer) -> dict[str, Any]:
    """Return GPT-2's kind (Radford et al. 2019): words become bytes, which are merged in the order of a list."""
    bytes_of = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in rules.patterns
    ]
    model: dict[str, Any] = {
        "unk_token": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": rules.ignore_merges,
        "merges": _merges(strings(metadata, "merges"), vocabulary.tokens),
    }
    return _document(vocabulary, model) | {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, bytes_of]},
        "decoder": bytes_of,
    }


def _sentencepiece(metadata: Mapping[str, Any], vocabulary: GGUFVocabulary) -> dict[str, Any]:
    """Return SentencePiece's kind: spaces become marks; characters that are no token become bytes.

    The merging is not in the document (see ScoreMerger): the model only looks tokens up.
    """
    replaced = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    restored = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    normalizers: list[dict[str, Any]] = [replaced]
    decoders: list[dict[str, Any]] = [restored, {"type": "ByteFallback"}, {"type": "Fuse"}]
    if flag(metadata, "add_space_prefix", True):
        normalizers.insert(0, {"type": "Prepend", "prepend": _SPACE})
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    unknown = vocabulary.special_ids.get("unknown")
    model: dict[str, Any] = {
        "unk_token": None if unknown is None else vocabulary.tokens[unknown],
        "fuse_unk": True,
        "byte_fallback": True,
        "ignore_merges": True,
        "merges": [],
    }
    return _document(vocabulary, model, keeps_blanks=not _is_phi3(metadata)) | {
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "decoder": {"type": "Sequence", "decoders": decoders},
    }


def _is_phi3(metadata: Mapping[str, Any]) -> bool:
    """Return True if llama.cpp would strip blanks after special tokens; it decides by the model's name."""
    name = str(metadata.get("general.name", "")).lower()
    return "phi-3" in name or "phi3" in name


def _merges(lines: Sequence[str], tokens: Sequence[str]) -> list[str]:
    """Return the merges, each once, that make a token out of two."""
    check_length("merges", lines)
    known, merges = set(tokens), list(dict.fromkeys(lines))
    for line in merges:
        first, _, second = line.partition(" ")
        if not first or not second or " " in second:
            rule = "must be two tokens with a space between them"
        elif first not in known or second not in known or first + second not in known:
            rule = "must be two tokens that make a third one"
        else:
            continue
        raise TokenizerError(f"{PREFIX}merges[{lines.index(line)}]={shown(line)}: {rule}")
    return merges


def _scores(metadata: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, float]:
    """Return the scores by token; all are 0 if the metadata have none."""
    scores = numbers(metadata, "scores", len(tokens)) or [0.0] * len(tokens)
    for token_id, score in enumerate(scores):
        if math.isnan(score):
            raise TokenizerError(f"{PREFIX}scores[{token_id}]={score}: must be a number")
    return dict(zip(tokens, map(float, scores), strict=True))
