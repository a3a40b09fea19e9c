"""Grammars for structured output, compiled by llguidance (imported nowhere else, and only when one is asked for).

A grammar sees the bytes of tokens. It has an end token of its own, one id behind the model's vocabulary: llguidance
allows it exactly where the text so far is a sentence, and there the request's own ending tokens are allowed.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from decoding.errors import ParameterError, shown
from decoding.json_schema import has_keyword
from decoding.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_NO_LIBRARY = "needs the package llguidance: pip install 'decoding-engine[structured]'"
_LIMITS: dict[str, Any] = {
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 20_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 200_000,
    "precompute_large_lexemes": False,
    "verbose_errors": False,
}
"""Limits for llguidance on the work and memory of compiling a grammar and of computing one mask."""
_MAX_ITEMS = {"json": 2_000, "grammar": 400}
"""Limit on the items in a row of the Earley parser. A schema of 400 properties needs 1,600; the time of an ambiguous
grammar is proportional to their square."""
_ANY_TOKENS = '%llguidance {"no_forcing": true}'
"""Grammar option: forced text may be spelled with any tokens; by default llguidance allows only the tokenizer's own."""
_WHITESPACE = r" |\n[ \t]{0,32}"
"""White space between the tokens of JSON; bounded, because small models may write blanks without end."""
_PLAIN_ESCAPES = '"\\bfnrt'
_Words = NDArray[np.uint32]


class Grammar:
    """A compiled grammar over the tokens of one tokenizer; each of its matchers follows one text."""

    def __init__(self, kind: str, source: Any, vocab_size: int, tokenizer: Tokenizer) -> None:
        """kind, source: as `Structured` keeps them. Raises ParameterError for a grammar that cannot be used."""
        self._spec = {kind: source}
        self.vocab_size = vocab_size
        self._lock = threading.Lock()  # a matcher is not for two threads at once
        matcher = _compiled(kind, source, _tokens_of(tokenizer, vocab_size))
        if matcher.is_error():
            raise self.error(matcher.get_error())
        self._first = matcher
        words = np.zeros(num_words(vocab_size), np.uint32)
        if not GrammarMatcher(self, matcher.deep_copy()).fill(words, ()) or not words.any():
            raise self.error(
                "no token of this model can begin a text of this grammar, or it allows only the empty text"
            )

    def error(self, problem: str) -> ParameterError:
        """Return the error of a grammar that cannot be used."""
        return ParameterError.single("structured", self._spec, f"cannot be followed: {_first_line(problem)}")

    def matcher(self) -> GrammarMatcher:
        """Return a matcher at the beginning of a text."""
        with self._lock:
            return GrammarMatcher(self, self._first.deep_copy())


class GrammarMatcher:
    """Follows one text: allows the tokens after which it is still the beginning of a sentence."""

    def __init__(self, grammar: Grammar, matcher: LLMatcher) -> None:
        self._grammar = grammar
        self._matcher = matcher
        self._buffer = np.zeros(num_words(grammar.vocab_size + 1), np.uint32)

    @property
    def is_complete(self) -> bool:
        """Return True if the text is a sentence that nothing can follow."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    @property
    def may_end(self) -> bool:
        """Return True if the text is a sentence."""
        return bool(self._matcher.is_accepting())

    def fill(self, words: _Words, ending_ids: Iterable[int]) -> bool:
        """Write the bitmask of the next token; ending_ids are allowed exactly after a sentence.

        Return False if nothing is allowed. Raises ParameterError if the grammar takes more work than its limits.
        """
        buffer, end = self._buffer, self._grammar.vocab_size
        self._matcher.unsafe_compute_mask_ptr(buffer.ctypes.data, buffer.nbytes)
        self._check()
        may_end = bool(buffer[end // 32] >> np.uint32(end % 32) & np.uint32(1))
        _set(buffer, end, False)
        words[:] = buffer[: len(words)]
        for token_id in ending_ids:
            _set(words, token_id, may_end)
        return may_end or bool(words.any())

    def append(self, token_id: int) -> None:
        """Append a token of the text. Raise ParameterError if the grammar does not allow it here."""
        self._matcher.consume_token(token_id)
        self._check()

    def num_valid(self, token_ids: list[int]) -> int:
        """Return the number of these tokens, from the first, that could follow one another."""
        return int(self._matcher.validate_tokens(token_ids)) if token_ids else 0

    def take_back(self, num_tokens: int) -> None:
        """Remove the last tokens."""
        if num_tokens:
            self._matcher.rollback(num_tokens)
            self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise self._grammar.error(self._matcher.get_error())


def num_words(vocab_size: int) -> int:
    """Return the number of 32-bit words of a bitmask."""
    return -(-vocab_size // 32)


@lru_cache(maxsize=16)
def compiled_grammar(structured: tuple[str, Any], vocab_size: int, tokenizer: Tokenizer) -> Grammar:
    """Return the grammar of a `structured` parameter; cached, because a program's requests often share one."""
    return Grammar(*structured, vocab_size, tokenizer)


def _compiled(kind: str, source: Any, tokens: LLTokenizer) -> LLMatcher:
    from llguidance import LLMatcher, LLParserLimits

    limits = LLParserLimits(max_items_in_row=_MAX_ITEMS.get(kind, 2_000), **_LIMITS)
    return LLMatcher(tokens, _text_of(kind, source), log_level=0, limits=limits)


def _text_of(kind: str, source: Any) -> str:
    """Return a grammar as llguidance reads it, with `_ANY_TOKENS`."""
    from llguidance import LLMatcher

    if kind == "json":
        schema = json.loads(source)
        options: dict[str, Any] = {"lenient": False, "whitespace_pattern": _WHITESPACE}
        if has_keyword(schema, "patternProperties"):  # an escape would hide a key from the patterns
            options["json_allowed_escapes"] = _PLAIN_ESCAPES
        inner = json.loads(LLMatcher.grammar_from_json_schema(source, overrides=options))["grammars"][0]  # type: ignore[arg-type]
        start = {"lark_grammar": f"start: @schema\n{_ANY_TOKENS}"}
        return json.dumps({"grammars": [start, {**inner, "name": "schema"}]})
    lark = source
    if kind != "grammar":
        regex = source if kind == "regex" else "|".join(map(_escaped, source))
        lark = json.loads(LLMatcher.grammar_from_regex(regex))["grammars"][0]["lark_grammar"]
    return LLMatcher.grammar_from_lark(f"{lark}\n{_ANY_TOKENS}")


def _escaped(text: str) -> str:
    """Return a regular expression that matches this text alone."""
    return "".join(char if char.isascii() and char.isalnum() else f"\\x{{{ord(char):X}}}" for char in text)


@lru_cache(maxsize=4)
def _tokens_of(tokenizer: Tokenizer, vocab_size: int) -> LLTokenizer:
    """Return the tokens' bytes as llguidance reads them. Takes about a second for 100,000 tokens."""
    try:
        from llguidance import LLTokenizer, TokenizerWrapper
    except ImportError:
        raise ParameterError.single("structured", "a grammar", _NO_LIBRARY) from None
    return LLTokenizer(TokenizerWrapper(_TokenTable(tokenizer, vocab_size)))


class _TokenTable:
    """The tokens for llguidance: special tokens, and those without bytes, are never part of a text."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        known = range(min(vocab_size, tokenizer.vocab_size))
        self.tokens = [tokenizer.token_bytes(token_id) for token_id in known]
        self.tokens += [b""] * (vocab_size + 1 - len(self.tokens))
        self.special_token_ids = [token_id for token_id, data in enumerate(self.tokens) if not data]
        for token_id in self.special_token_ids:
            self.tokens[token_id] = f"<{token_id}>".encode()
        self.eos_token_id = vocab_size
        self.bos_token_id = None
        self._tokenizer = tokenizer

    def __call__(self, text: str | bytes) -> list[int]:
        """Return the tokens of a text in the middle of another."""
        text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        return self._tokenizer.encode(text, add_special_tokens=False, at_start=False)


def _set(words: _Words, token_id: int, allowed: bool) -> None:
    bit = np.uint32(1 << token_id % 32)
    if allowed:
        words[token_id // 32] |= bit
    else:
        words[token_id // 32] &= ~bit


def _first_line(problem: str) -> str:
    """Return the first line of llguidance's message, short enough for an error of ours."""
    lines = [line.strip() for line in problem.splitlines() if line.strip()]
    return shown(lines[0] if lines else "unknown").strip("'\"")
