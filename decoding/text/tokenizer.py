"""Tokenizer: a model folder's tokenizer.json, through the `tokenizers` library (imported nowhere else)."""

from __future__ import annotations

import hashlib
import json
import operator
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tokenizers

from decoding.errors import ParameterError, PromptError, TokenizerError, shown
from decoding.json_file import read_json_object
from decoding.text.pieces import PieceJoiner, PieceRules

_MAX_TOKEN_ID = 2**31 - 1


class Tokenizer:
    """Text to token ids and back.

    vocab_size: the largest token id + 1.
    rules: how tokens become bytes of text (decoding.text.pieces).
    bos_token_id, eos_token_id, chat_template: as tokenizer_config.json says; None where it does not.
    digest: hex digest of tokenizer.json.

    The text of token ids is the bytes of the tokens, decoded as UTF-8 with maximal-subpart replacement. That
    is what the library's own decoding gives wherever those bytes are valid UTF-8. A special token has no
    bytes, unless it is asked for; nor has an id that the vocabulary does not know (models pad their
    vocabulary).
    """

    def __init__(self, raw: bytes, config: dict[str, Any]) -> None:
        """From what tokenizer.json and tokenizer_config.json hold; TokenizerError where one is broken."""
        self._library = _parse(raw)
        self.digest = hashlib.blake2b(raw, digest_size=16).hexdigest()
        self.vocab_size = 1 + max(self._library.get_vocab(with_added_tokens=True).values(), default=-1)
        if not 0 < self.vocab_size <= _MAX_TOKEN_ID:
            raise TokenizerError(f"tokenizer.json must have token ids, all of them below {_MAX_TOKEN_ID:,}")
        added = self._library.get_added_tokens_decoder().values()
        self._special = frozenset(token.content for token in added if token.special)
        decoder = self._library.decoder
        self.rules = PieceRules(None if decoder is None else json.loads(decoder.__getstate__()))
        self.bos_token_id = self._configured_id(config, "bos_token")
        self.eos_token_id = self._configured_id(config, "eos_token")
        self.chat_template = _chat_template(config)

    @classmethod
    def from_folder(cls, path: str | os.PathLike[str], vocab_size: int | None = None) -> Tokenizer:
        """Read the tokenizer in the folder `path`.

        vocab_size: the model's, where the tokenizer must fit a model. Raises TokenizerError where there is no
        tokenizer.json, where a file breaks a rule, or where the tokenizer has ids that the model has not.
        """
        file = Path(path) / "tokenizer.json"
        if not file.is_file():
            raise TokenizerError(f"{file.parent}: no tokenizer.json in this folder")
        try:
            tokenizer = cls(file.read_bytes(), _read_config(file.parent / "tokenizer_config.json"))
        except OSError as error:
            raise TokenizerError(f"{file}: cannot be read ({error.strerror})") from None
        except TokenizerError as error:
            raise TokenizerError(f"{file.parent}: {error}") from None
        if vocab_size is not None and tokenizer.vocab_size > vocab_size:
            rule = f"must be below the model's vocab_size={vocab_size}"
            raise TokenizerError(f"{file}: largest token id {tokenizer.vocab_size - 1}: {rule}")
        return tokenizer

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The token ids of `text`, with the special tokens (a BOS, say) that the tokenizer adds, or without.

        Raises PromptError where `text` is not a string of valid Unicode.
        """
        if not _is_unicode(text):
            raise PromptError(f"text={shown(text)}: must be a string of valid Unicode (no lone surrogates)")
        with _library_failures():
            return self._library.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, token_ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of `token_ids`. Raises ParameterError where one is no integer from 0 to 2**31 - 1."""
        try:
            ids = list(token_ids)
        except TypeError:
            rule = f"must be integers from 0 to {_MAX_TOKEN_ID:,}"
            raise ParameterError.single("token_ids", token_ids, rule) from None
        joiner = PieceJoiner(self.rules)
        texts = (self.token_text(token_id, skip_special_tokens) for token_id in ids)
        return b"".join(joiner.append(text) for text in texts if text is not None).decode("utf-8", "replace")

    def token_text(self, token_id: int, skip_special_tokens: bool = True) -> str | None:
        """The token as the vocabulary spells it; None where it takes no part in the text."""
        text = self._library.id_to_token(_checked(token_id))
        return None if skip_special_tokens and text in self._special else text

    def token_bytes(self, token_id: int, skip_special_tokens: bool = True) -> bytes:
        """The bytes of one token in the middle of a text."""
        text = self.token_text(token_id, skip_special_tokens)
        return b"" if text is None else self.rules.piece(text, first=False)

    def is_special(self, token_id: int) -> bool:
        """Whether the token has no bytes in text, such as BOS."""
        return self._library.id_to_token(_checked(token_id)) in self._special

    def token_to_id(self, text: str) -> int | None:
        """The id of the token that the vocabulary spells `text`."""
        return self._library.token_to_id(text) if _is_unicode(text) else None

    def _configured_id(self, config: dict[str, Any], key: str) -> int | None:
        value = config.get(key)
        text = value.get("content") if isinstance(value, dict) else value
        if text is not None and not isinstance(text, str):
            raise TokenizerError(f"tokenizer_config.json: {key}={shown(value)}: must be a token's text")
        return None if text is None else self.token_to_id(text)


@contextmanager
def _library_failures() -> Iterator[None]:
    """Turn whatever the library raises over a broken tokenizer.json into TokenizerError.

    It raises plain Exception; a panic of its Rust code is a BaseException of a class that cannot be imported.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise TokenizerError(f"tokenizer.json is not valid ({error})") from None
        raise


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except (UnicodeEncodeError, AttributeError):
        return False
    return True


def _parse(raw: bytes) -> tokenizers.Tokenizer:
    with _library_failures():
        library = tokenizers.Tokenizer.from_buffer(raw)
    library.no_truncation()  # a prompt is never cut or padded behind the user's back
    library.no_padding()
    return library


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path) if path.exists() else {}
    except ValueError as error:
        raise TokenizerError(f"{path.name} {error}") from None


def _chat_template(config: dict[str, Any]) -> str | None:
    """The template, or the one called "default" of a list of named ones."""
    template = config.get("chat_template")
    if isinstance(template, list):
        named = (entry for entry in template if isinstance(entry, dict) and entry.get("name") == "default")
        template = next(named, {}).get("template")
    if template is not None and not isinstance(template, str):
        raise TokenizerError(f"tokenizer_config.json: chat_template={shown(template)}: must be a string")
    return template


def _checked(token_id: int) -> int:
    try:
        value = operator.index(token_id)
    except TypeError:
        value = -1
    if not 0 <= value <= _MAX_TOKEN_ID:
        raise ParameterError.single("token_ids", token_id, f"must be integers from 0 to {_MAX_TOKEN_ID:,}")
    return value
