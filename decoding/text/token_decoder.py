"""Bytes that each token adds to a text, derived from the `decoder` section of a tokenizer.json.

The section describes how a *list* of token texts becomes a string. A decoding loop needs the same string token
by token, in bytes (a token may hold a part of a character), so the section is compiled into steps that act on
one token at a time, given only if it is the first; into the characters that may be stripped off the start
of the whole; and into the properties of the token before that some kinds need.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from decoding.errors import TokenizerError, shown
from decoding.text.regex_shape import MAX_TEXT, shape_of
from decoding.text.tokenizer_limits import growth_of
from decoding.text.tokenizer_replace import RegexReplacement

Step: TypeAlias = Callable[[str, bool], str]
"""(text, is it the first of the whole) -> text. Bytes that are no UTF-8 travel as surrogate escapes."""

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_AT_START = re.compile(r"(?:\\A|\(\?<!\\n\)\^)([^\\\[\](){}|^$*+?.])")
"""Patterns of one character at the start of a text. In the library's dialect, ^ would match at every line."""
_LOOKING_BACK = {"BPEDecoder", "CTC"}
_FUSING = {"Fuse", "ByteLevel"}
_AT_ENDS = {"ByteLevel", "Strip", "WordPiece"}
"""Decoders that must not follow ByteFallback, which joins neighbouring byte tokens to one."""
_CLEANUPS = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " do not", " 's", " 've", " 're")


class PieceRules:
    """The compiled `decoder` section; None is a tokenizer.json without one: tokens are joined by spaces.

    strip_char, num_strip: up to num_strip of strip_char are stripped off the start of the whole.
    word_end: a token that ends with this is followed by a space, unless it is the last (BPEDecoder).
    drops_repeats: a token equal to the one before has no bytes (CTC).
    max_text: the longest token, in characters, that the rules can be applied to; None if there is no limit.

    Raises TokenizerError for a section that cannot be expressed token by token (one that replaces text across the
    borders of tokens, say).
    """

    def __init__(self, section: Mapping[str, Any] | None, exact: Mapping[str, bytes] | None = None) -> None:
        """Compile the section. exact: bytes of tokens for which the section does not hold, by the tokens' texts."""
        self._exact = exact or {}
        self._steps: list[Step] = []
        self._seen: set[str] = set()
        self.strip_char = ""
        self.num_strip = 0
        self.word_end = ""
        self.drops_repeats = False
        self._later: dict[str, bytes] = {}
        self.max_text: int | None = None
        if section is None:
            self._steps.append(lambda text, first: text if first else " " + text)
        else:
            self._compile(section)
            if self.max_text is not None:
                self.max_text = int(self.max_text / growth_of(section))

    def piece(self, text: str, first: bool) -> bytes:
        """Return the bytes of the token `text` before stripping, at the start of a text or later in it."""
        if text in self._exact:
            return self._exact[text]
        if first:
            return self._run(text, first)
        if text not in self._later:
            self._later[text] = self._run(text, first)
        return self._later[text]

    def _run(self, text: str, first: bool) -> bytes:
        for step in self._steps:
            text = step(text, first)
        return text.encode("utf-8", "surrogateescape")

    def _compile(self, section: Mapping[str, Any]) -> None:
        kind = section["type"]
        if kind == "Sequence":
            for part in section["decoders"]:
                self._compile(part)
        elif self._seen & _FUSING:  # from here on the library sees the whole text as one token
            self._compile_fused(section)
        elif kind == "Replace":
            self._compile_replace(section, is_fused="ByteFallback" in self._seen)
        elif kind in _STEPS and self._takes_each_alone(kind):
            self._steps.append(_STEPS[kind](section))
        elif kind in _LOOKING_BACK and not self._seen:
            self._compile_looking_back(section)
        elif kind != "Fuse":
            raise _unsupported(section)
        self._seen.add(kind)

    def _takes_each_alone(self, kind: str) -> bool:
        """Return True if a step at this index treats each token independently of the others."""
        return not self._seen & _LOOKING_BACK and not (kind in _AT_ENDS and "ByteFallback" in self._seen)

    def _compile_looking_back(self, section: Mapping[str, Any]) -> None:
        """Compile a decoder that looks back; only fusing may follow: others would get its result, not the token."""
        if section["type"] == "CTC":
            self.drops_repeats = True
            self._steps.append(_ctc(section))
        else:
            self.word_end = section["suffix"]
            self._steps.append(_word_end(section))

    def _compile_replace(self, section: Mapping[str, Any], *, is_fused: bool) -> None:
        """Compile a Replace; is_fused: the library may see several tokens as one, so it must match one character."""
        if self._seen & _LOOKING_BACK or self.num_strip:
            raise _unsupported(section)
        pattern = section["pattern"].get("Regex")
        if pattern is None:
            self._steps.append(_replace(section))
            return
        try:
            shape = shape_of(pattern)
            replacement = RegexReplacement(pattern, section["content"])
        except Exception as error:  # the library raises plain Exception
            raise TokenizerError(f"decoder {shown(dict(section))}: the regular expression {error}") from None
        if is_fused and not shape.is_one_character:
            raise _unsupported(section)
        self._steps.append(lambda text, first: replacement(text))
        self.max_text = MAX_TEXT

    def _compile_fused(self, section: Mapping[str, Any]) -> None:
        at_start = _start_of(section)
        if section["type"] == "Strip" and not section["stop"] and not self.num_strip:
            self.strip_char, self.num_strip = section["content"], section["start"]
        elif at_start is not None and not self.num_strip:
            self.strip_char, self.num_strip = at_start, 1
        elif section["type"] == "Replace" and ("Regex" in section["pattern"] or len(section["pattern"]["String"]) == 1):
            self._compile_replace(section, is_fused=True)
        elif section["type"] != "Fuse":
            raise _unsupported(section)


class PieceJoiner:
    """Joins a growing list of tokens: returns the bytes that each adds, given those before it."""

    def __init__(self, rules: PieceRules, *, at_start: bool = True) -> None:
        """at_start: True if the first token begins the text; otherwise every token is in the middle."""
        self._rules = rules
        self._previous = None if at_start else ""
        self._strip_char = rules.strip_char.encode()
        self._num_strip = rules.num_strip if at_start else 0

    @property
    def settled(self) -> bool:
        """Return True if a token's bytes no longer depend on the tokens before it."""
        looks_back = self._rules.drops_repeats or self._rules.word_end
        return self._previous is not None and not self._num_strip and not looks_back

    def append(self, text: str) -> bytes:
        """Return the bytes that the next token, whose text in the vocabulary is `text`, adds."""
        previous, self._previous = self._previous, text
        if self._rules.drops_repeats and text == previous:
            return b""
        piece = self._rules.piece(text, first=previous is None)
        if self._rules.word_end and previous and previous.endswith(self._rules.word_end):
            piece = b" " + piece
        return self._stripped(piece) if self._num_strip else piece

    def _stripped(self, piece: bytes) -> bytes:
        begin = 0
        while self._num_strip and piece.startswith(self._strip_char, begin):
            begin += len(self._strip_char)
            self._num_strip -= 1
        if begin < len(piece):  # stripping ends at the first character that stays
            self._num_strip = 0
        return piece[begin:]


def _start_of(section: Mapping[str, Any]) -> str | None:
    """Return the character that a Replace strips off the start of a text; None for any other Replace."""
    if section["type"] != "Replace" or section["content"] or "Regex" not in section["pattern"]:
        return None
    found = _AT_START.fullmatch(section["pattern"]["Regex"])
    return found and found[1]


def _unsupported(section: Mapping[str, Any]) -> TokenizerError:
    return TokenizerError(f"decoder {shown(dict(section))}: cannot be applied token by token at this place")


def _escaped(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _byte_alphabet() -> dict[str, int]:
    """Return GPT-2's alphabet (Radford et al. 2019): printable bytes are themselves, the others begin at U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(0x100) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()


def _byte_level(section: Mapping[str, Any]) -> Step:
    """Compile a ByteLevel: a token with characters outside the alphabet (an added token) keeps its text."""

    def step(text: str, first: bool) -> str:
        if all(char in _BYTE_OF for char in text):
            return _escaped(bytes(_BYTE_OF[char] for char in text))
        return text

    return step


def _byte_fallback(section: Mapping[str, Any]) -> Step:
    def step(text: str, first: bool) -> str:
        match = _BYTE_TOKEN.fullmatch(text)
        return _escaped(bytes.fromhex(match[1])) if match else text

    return step


def _replace(section: Mapping[str, Any]) -> Step:
    pattern, content = section["pattern"]["String"], section["content"]
    if not pattern:
        raise _unsupported(section)
    return lambda text, first: text.replace(pattern, content)


def _strip(section: Mapping[str, Any]) -> Step:
    """Compile a Strip before fusing, which strips both ends of every token."""
    char, start, stop = section["content"], section["start"], section["stop"]

    def step(text: str, first: bool) -> str:
        begin = min(start, len(text) - len(text.lstrip(char)))
        text = text[begin:]
        return text[: len(text) - min(stop, len(text) - len(text.rstrip(char)))]

    return step


def _metaspace(section: Mapping[str, Any]) -> Step:
    """Compile a Metaspace: as in `tokenizers`, the first token loses all its markers, unless none was prepended."""
    marker = section["replacement"]
    at_start = " " if section.get("prepend_scheme", "always") == "never" else ""
    return lambda text, first: text.replace(marker, at_start if first else " ")


def _word_piece(section: Mapping[str, Any]) -> Step:
    prefix, cleanup = section["prefix"], section["cleanup"]

    def step(text: str, first: bool) -> str:
        if not first:
            text = text.removeprefix(prefix) if text.startswith(prefix) else " " + text
        return _cleaned(text) if cleanup else text

    return step


def _ctc(section: Mapping[str, Any]) -> Step:
    """Compile a CTC decoder (connectionist temporal classification): pads vanish, a delimiter is a space."""
    pad, delimiter, cleanup = section["pad_token"], section["word_delimiter_token"], section["cleanup"]

    def step(text: str, first: bool) -> str:
        text = text.replace(pad, "")
        return _cleaned(text).replace(delimiter, " ") if cleanup else text

    return step


def _word_end(section: Mapping[str, Any]) -> Step:
    """Compile a BPEDecoder: the space for the mark at a word's end (`</w>`) is part of the next token."""
    suffix = section["suffix"]
    if not suffix:
        raise _unsupported(section)
    return lambda text, first: text.removesuffix(suffix).replace(suffix, " ")


def _cleaned(text: str) -> str:
    for dirty in _CLEANUPS:
        clean = " don't" if dirty == " do not" else dirty.strip()
        text = text.replace(dirty, clean)
    return text


_STEPS: dict[str, Callable[[Mapping[str, Any]], Step]] = {
    "ByteFallback": _byte_fallback,
    "ByteLevel": _byte_level,
    "Strip": _strip,
    "Metaspace": _metaspace,
    "WordPiece": _word_piece,
}
