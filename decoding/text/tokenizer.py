"""Tokenizer: a model folder's tokenizer.json, through the `tokenizers` library (imported by tokenizer*.py only)."""

from __future__ import annotations

import hashlib
import json
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from decoding.errors import ContextLengthError, ParameterError, PromptError, TokenizerError, shown
from decoding.json_file import check_num_values, read_regular_file
from decoding.text.piece_index import PieceIndex
from decoding.text.private_tokens import PrivateTokens
from decoding.text.score_merger import ScoreMerger
from decoding.text.token_decoder import PieceJoiner, PieceRules
from decoding.text.tokenizer_config import TokenizerConfig
from decoding.text.tokenizer_encode import encode_ids
from decoding.text.tokenizer_limits import check_growth, check_template
from decoding.text.tokenizer_plain import PlainText

_MAX_TOKEN_ID = 2**31 - 1
_FILE = "tokenizer.json"
_OTHER_FORMATS = ("tokenizer.model", "tekken.json", "vocab.json", "vocab.txt", "spiece.model")
_MAX_BYTES = 1 << 26  # the largest we know of, with 262,144 tokens, has 34 MB
_MAX_VALUES = 1 << 22  # ... and 1.9 million values
_VALUES_PER_TOKEN, _MORE_VALUES = 16, 1 << 16  # ... which are 7 for each token
_BYTES_PER_TOKEN, _MORE_BYTES = 512, 1 << 20  # ... and 130 bytes
_IMAGE = "<image_soft_token>"  # Gemma 3's tokenizer is one for all sizes; those that see no images have no row for it
_MARKS = ("☺", "\n", ".")
_CACHED_WORDS = 1000
"""Words whose tokens the library caches: 6 MB at most. If a text is one word, the cache would not help."""


class Tokenizer:
    """Text to token ids and back.

    vocab_size: the largest token id + 1.
    rules: how tokens become bytes of text (decoding.text.token_decoder).
    bos_token_id, eos_token_id: those of tokenizer_config.json; None if it has none.
    chat_templates: their texts by name, and chat_template, the one called "default"; decoding.chat runs them.
    special_tokens: texts of the tokens that tokenizer_config.json names, as bos_token.
    digest: hex digest of everything that the ids depend on.
    known_bytes: by skip_special_tokens, a cache of the bytes of tokens in the middle of a text.

    The text of token ids is the bytes of the tokens, decoded as UTF-8 with maximal-subpart replacement. It
    equals the library's own decoding if those bytes are valid UTF-8. A special token has no bytes, unless
    skip_special_tokens is False, and an id outside the vocabulary has none, because models pad their
    vocabulary.
    """

    def __init__(
        self,
        raw: bytes,
        config: TokenizerConfig,
        exact: Mapping[str, bytes] | None = None,
        merger: ScoreMerger | None = None,
    ) -> None:
        """Read the bytes of a tokenizer.json.

        exact: bytes of tokens for which the decoder does not hold, by the tokens' texts.
        merger: splits a normalised text into tokens, in place of the pre-tokenizer and the merges.

        Raises TokenizerError if the file breaks a rule.
        """
        self._library = _parse(raw)
        if merger is not None:
            self._library.pre_tokenizer = tokenizers.pre_tokenizers.PreTokenizer.custom(_Cutter(merger))
            raw += merger.state  # decides the ids as well
        vocabulary = self._library.get_vocab(with_added_tokens=True)
        self.vocab_size = 1 + max(vocabulary.values(), default=-1)
        if not 0 < self.vocab_size <= _MAX_TOKEN_ID + 1:
            raise TokenizerError(f"{_FILE} must have token ids, all of them at most {_MAX_TOKEN_ID:,}")
        self._largest_id = self.vocab_size - 1 - (vocabulary.get(_IMAGE) == self.vocab_size - 1)
        self._longest = max(map(len, vocabulary))
        self._added = self._library.get_added_tokens_decoder()
        self._special = frozenset(token.content for token in self._added.values() if token.special)
        self._check_bounds()
        self.rules = PieceRules(self._section("decoder"), exact)
        if self.rules.max_text is not None and self._longest > self.rules.max_text:
            rule = f"replaces a regular expression: tokens must have at most {self.rules.max_text:,} characters"
            raise TokenizerError(f"{_FILE} decoder {rule}, one has {self._longest:,}")
        self.bos_token_id, self.eos_token_id = map(self._id_or_none, (config.bos_token, config.eos_token))
        self.chat_templates = config.chat_templates
        self.chat_template = config.chat_templates.get("default")
        self.special_tokens = config.special_tokens
        self._frame = self._find_frame(config)
        self._private_libraries: dict[tuple[str, tuple[str, ...]], PrivateTokens] = {}
        self.known_bytes: tuple[dict[int, bytes], dict[int, bytes]] = ({}, {})
        self.digest = hashlib.blake2b(raw + repr(self._frame).encode(), digest_size=16).hexdigest()

    @classmethod
    def from_folder(cls, path: str | os.PathLike[str], vocab_size: int | None = None) -> Tokenizer:
        """Read the tokenizer in the folder `path`.

        vocab_size: the model's, if the tokenizer must fit a model. Raises TokenizerError if there is no
        tokenizer.json, if a file breaks a rule, or if the tokenizer has ids that the model does not have.
        """
        file = Path(path) / _FILE
        try:
            tokenizer = cls(_read(file, vocab_size), TokenizerConfig.from_folder(file.parent))
        except TokenizerError as error:
            raise TokenizerError(f"{file.parent}: {error}") from None
        largest = max([tokenizer._largest_id, *tokenizer.encode("")])  # a post-processor may have ids of its own
        if vocab_size is not None and largest >= vocab_size:
            raise TokenizerError(
                f"{file}: largest token id {largest}: must be below the model's vocab_size={vocab_size}"
            )
        return tokenizer

    def encode(
        self,
        text: str,
        add_special_tokens: bool = True,
        *,
        at_start: bool = True,
        max_tokens: int | None = None,
        parse_special: bool = True,
    ) -> list[int]:
        """Return the token ids of `text`, with the special tokens (a BOS, say) that the tokenizer adds, or without.

        parse_special: text that spells a special token becomes that token. False encodes it as plain text: no added
            token is found in it, special or not, except runs of whitespace.
        at_start: False for text that continues another, without the leading space that SentencePiece's
            convention gives to the first word of a text.
        max_tokens: maximum number of tokens. A text with more characters than so many of the longest token is a
            ContextLengthError at once, because tokenising takes about 1 s and 160 MB per MB.

        Raises PromptError if `text` is not a string of valid Unicode, or cannot be encoded as plain text.
        """
        if not _is_unicode(text):
            raise PromptError(f"text={shown(text)}: must be a string of valid Unicode (no lone surrogates)")
        if max_tokens is not None and len(text) > max_tokens * self._longest:
            raise ContextLengthError(-(-len(text) // self._longest), max_tokens, at_least=True)
        if add_special_tokens and self._frame is None and parse_special:
            return self._library_ids(text, add_special_tokens=True)
        encode: Callable[[str], list[int]] = self._library_ids if parse_special else self._plain_ids
        ids = encode(text) if at_start or not self._adds_space else self._encode_inside(text, encode)
        if not add_special_tokens:
            return ids
        before, after = self._surroundings if self._frame is None else self._frame
        return [*before, *ids, *after]

    @cached_property
    def added_tokens(self) -> dict[str, bool]:
        """The texts of added tokens, with True for special ones."""
        return {token.content: token.special for token in self._added.values()}

    def encode_marked(
        self, text: str, mark: str, tokens: tuple[str, ...], *, max_tokens: int | None = None
    ) -> list[int]:
        """Return the ids of a text that a chat template has written, without added special tokens.

        tokens: added tokens that are recognised only without a mark inside; with one, their spelling is text.
        mark: a character; it is not encoded. max_tokens: as of `encode`.
        """
        if max_tokens is not None and len(text) > 2 * max_tokens * self._longest:  # a mark per character at most
            raise ContextLengthError(-(-len(text) // (2 * self._longest)), max_tokens, at_least=True)
        library = self._private_libraries.get((mark, tokens))
        if library is None:
            library = PrivateTokens(self._library, mark, tokens)
            self._private_libraries = {(mark, tokens): library}  # the last one: it is nearly always the same
        with _library_failures(f"tokenizer.json cannot encode text={shown(text)}"):
            return library.encode(text)

    def decode(self, token_ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Return the text of `token_ids`. Raises ParameterError if one is not an integer from 0 to 2**31 - 1."""
        try:
            ids = list(token_ids)
        except TypeError:
            rule = f"must be integers from 0 to {_MAX_TOKEN_ID:,}"
            raise ParameterError.single("token_ids", token_ids, rule) from None
        return self._joined(ids, skip_special_tokens).decode("utf-8", "replace")

    def token_text(self, token_id: int, skip_special_tokens: bool = True) -> str | None:
        """Return the token's text in the vocabulary; None if it adds nothing to a text."""
        text = self._library.id_to_token(_checked(token_id))
        return None if skip_special_tokens and text in self._special else text

    def token_bytes(self, token_id: int, skip_special_tokens: bool = True) -> bytes:
        """Return the bytes of one token in the middle of a text."""
        text = self.token_text(token_id, skip_special_tokens)
        return b"" if text is None else self.rules.piece(text, first=False)

    def is_special(self, token_id: int) -> bool:
        """Return True if the token has no bytes in text, such as BOS."""
        return self._library.id_to_token(_checked(token_id)) in self._special

    def is_added(self, token_id: int) -> bool:
        """Return True for an added token: text that spells it always becomes it, special or not."""
        return _checked(token_id) in self._added

    def token_to_id(self, text: str) -> int | None:
        """Return the id of the token whose text in the vocabulary is `text`; None if there is none."""
        return self._library.token_to_id(text) if _is_unicode(text) else None

    def tokens_containing(self, text: str) -> NDArray[np.int64]:
        """Return the ids of all tokens whose bytes contain those of `text`, in ascending order."""
        return self._piece_index.find(text.encode())

    @cached_property
    def _piece_index(self) -> PieceIndex:
        return PieceIndex([self.token_bytes(token_id) for token_id in range(self.vocab_size)])

    def _joined(self, token_ids: Iterable[int], skip_special_tokens: bool, at_start: bool = True) -> bytes:
        joiner = PieceJoiner(self.rules, at_start=at_start)
        texts = (self.token_text(token_id, skip_special_tokens) for token_id in token_ids)
        return b"".join(joiner.append(text) for text in texts if text is not None)

    def _section(self, name: str) -> Any:
        """Return a section of tokenizer.json as the library has parsed it, or None if it has no such section."""
        part = getattr(self._library, name)
        return None if part is None else json.loads(part.__getstate__())

    def _check_bounds(self) -> None:
        for name in ("normalizer", "decoder"):
            check_growth(f"{_FILE} {name}", self._section(name))
        check_template(f"{_FILE} post_processor", self._section("post_processor"))

    def _library_ids(self, text: str, add_special_tokens: bool = False) -> list[int]:
        with _library_failures(f"tokenizer.json cannot encode text={shown(text)}"):
            return encode_ids(self._library, text, add_special_tokens=add_special_tokens)

    def _plain_ids(self, text: str) -> list[int]:
        """Encode without added tokens. Raise PromptError if the model itself makes one of the text."""
        with _library_failures(f"tokenizer.json cannot encode text={shown(text)}"):
            ids = self._plain.encode(text)
        wrong = next(filter(self._plain.hides, ids), None)
        if wrong is not None:
            token = shown(self._added[wrong].content)
            raise PromptError(f"text={shown(text)}: cannot be plain text, as this model makes the token {token} of it")
        return ids

    @cached_property
    def _plain(self) -> PlainText:
        return PlainText(self._library)

    @cached_property
    def _surroundings(self) -> tuple[list[int], list[int]]:
        """Return the ids that the post-processor of tokenizer.json puts before and after every text."""
        whole = self._library.encode("a", add_special_tokens=True)
        inside = [index for index, is_added in enumerate(whole.special_tokens_mask) if not is_added]
        first, end = (inside[0], inside[-1] + 1) if inside else (len(whole.ids), len(whole.ids))
        return whole.ids[:first], whole.ids[end:]

    @cached_property
    def _adds_space(self) -> bool:
        """Return True if the first word of a text gets a leading space that is not in the text."""
        return self._joined(self._library_ids("a"), False, at_start=False).startswith(b" ")

    def _encode_inside(self, text: str, encode: Callable[[str], list[int]]) -> list[int]:
        """Encode after a character that never merges, and drop its tokens (as Code Llama does)."""
        for mark in _MARKS:
            ids = encode(mark + text)
            for count in range(1, min(len(ids), 8) + 1):
                if self._joined(ids[:count], False) == mark.encode():
                    return ids[count:]
        return encode(text)

    def _find_frame(self, config: TokenizerConfig) -> tuple[list[int], list[int]] | None:
        """Return the ids before and after every text if tokenizer_config.json overrides those of tokenizer.json.

        None if the post-processor of tokenizer.json decides. The config wins, as it does in llama.cpp and in
        transformers' Llama tokenizers before version 5: some models set BOS only in this file.
        """
        added = self._library_ids("", add_special_tokens=True)
        if max(added, default=0) > _MAX_TOKEN_ID:
            raise TokenizerError(f"{_FILE} post_processor adds ids {shown(added)}: must be at most {_MAX_TOKEN_ID:,}")
        before = [] if self.bos_token_id is None or added[:1] != [self.bos_token_id] else added[:1]
        after = [] if self.eos_token_id is None or added[len(before) :][-1:] != [self.eos_token_id] else added[-1:]
        wanted = (
            _wanted(config.add_bos_token, self.bos_token_id, before),
            _wanted(config.add_eos_token, self.eos_token_id, after),
        )
        return None if wanted == (before, after) else wanted

    def _id_or_none(self, text: str | None) -> int | None:
        return None if text is None else self.token_to_id(text)


class _Cutter:
    """A pre-tokenizer of the library that calls a merger."""

    def __init__(self, merger: ScoreMerger) -> None:
        self._merger = merger

    def pre_tokenize(self, text: tokenizers.PreTokenizedString) -> None:
        """Split each part of the text that is not a token yet."""
        text.split(self._pieces)

    def _pieces(self, index: int, text: tokenizers.NormalizedString) -> list[tokenizers.NormalizedString]:
        ends = accumulate(map(len, self._merger.pieces(str(text))), initial=0)
        return [piece for begin, end in pairwise(ends) if (piece := text[begin:end]) is not None]


def _wanted(flag: bool | None, token_id: int | None, present: list[int]) -> list[int]:
    """Return the special tokens on one side of a text, given those that tokenizer.json adds there."""
    if flag is None or token_id is None:
        return present
    return [token_id] if flag else []


@contextmanager
def _library_failures(what: str) -> Iterator[None]:
    """Raise TokenizerError for any exception of the library except MemoryError.

    It raises plain Exception; a panic of its Rust code is a BaseException of a class that cannot be imported.
    (The message that the panic prints to stderr could only be suppressed by closing stderr for all threads.)
    """
    try:
        yield
    except MemoryError:
        raise
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise TokenizerError(f"{what} ({error})") from None
        raise


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except (UnicodeEncodeError, AttributeError):
        return False
    return True


def _read(file: Path, vocab_size: int | None) -> bytes:
    """Return the file's bytes; TokenizerError if it is too large for a vocabulary of this size."""
    if not os.path.lexists(file):
        raise TokenizerError(f"no {_FILE} in this folder{_other_format(file.parent)}")
    most_bytes, most_values = _MAX_BYTES, _MAX_VALUES
    if vocab_size is not None:
        most_bytes = min(most_bytes, _BYTES_PER_TOKEN * vocab_size + _MORE_BYTES)
        most_values = _VALUES_PER_TOKEN * vocab_size + _MORE_VALUES
    try:
        raw = read_regular_file(file, most_bytes)
        check_num_values(raw, most_values)
    except ValueError as error:
        raise TokenizerError(f"{_FILE} {error}") from None
    return raw


def _other_format(folder: Path) -> str:
    names = [name for name in _OTHER_FORMATS if (folder / name).exists()]
    return f" ({names[0]} is not read: save the tokenizer as {_FILE})" if names else ""


def _parse(raw: bytes) -> tokenizers.Tokenizer:
    with _library_failures(f"{_FILE} is not valid"):
        library = tokenizers.Tokenizer.from_buffer(raw)
    library.no_truncation()  # a prompt is never cut or padded behind the user's back
    library.no_padding()
    if getattr(library.model, "dropout", None):  # BPE's noise for training: the same text must have the same ids
        library.model.dropout = None
    _bound_cache(library)
    return library


def _bound_cache(library: tokenizers.Tokenizer) -> None:
    """Bound the caches of words in BPE and Unigram models, which grow with the texts.

    They hold 10,000 words by default, of up to 256 bytes with 24 bytes for each byte, and as many per thread.
    """
    if hasattr(library.model, "_resize_cache"):
        library.model._resize_cache(_CACHED_WORDS if library.pre_tokenizer is not None else 0)


def _checked(token_id: int) -> int:
    try:
        value = operator.index(token_id)
    except TypeError:
        value = -1
    if not 0 <= value <= _MAX_TOKEN_ID:
        raise ParameterError.single("token_ids", token_id, f"must be integers from 0 to {_MAX_TOKEN_ID:,}")
    return value
