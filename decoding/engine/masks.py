"""TokenMasks: the bitmask of a candidate's next token, from all rules that forbid tokens by the text so far."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from decoding.engine.grammar import Grammar, num_words
from decoding.sampling.state import SamplingState


class TokenMasks:
    """Keeps the bitmask of one candidate in step with its tokens.

    Two things forbid tokens: the grammar, and tokens that were taken back from this position (banned strings).
    """

    def __init__(self, vocab_size: int, grammar: Grammar | None, ending_ids: Iterable[int]) -> None:
        """ending_ids: the tokens that end the sequence; they are no part of the text."""
        self._matcher = None if grammar is None else grammar.matcher()
        self._ending_ids = frozenset(ending_ids)
        self._words = np.zeros(num_words(vocab_size), np.uint32)
        self._taken_back: dict[int, list[int]] = {}  # by position
        self._num_tokens = self._num_drafted = 0

    @property
    def is_complete(self) -> bool:
        """Return True if the text is a sentence of the grammar that nothing can follow."""
        return self._matcher is not None and self._matcher.is_complete

    def prepare(self, state: SamplingState) -> None:
        """Set the state's bitmask for the next token. Raises ParameterError if a grammar takes too much work."""
        taken_back = self._taken_back.get(self._num_tokens)
        if self._matcher is not None:
            self._matcher.fill(self._words, self._ending_ids)
        elif taken_back is None:
            if state.bitmask is not None:
                state.bitmask = None
            return
        else:
            self._words.fill(0xFFFFFFFF)
        for token_id in taken_back or ():
            self._words[token_id // 32] &= ~np.uint32(1 << token_id % 32)
        state.bitmask = self._words

    def append(self, token_id: int) -> None:
        """Take a token of the text. Raises ParameterError for one that the grammar does not have here."""
        self._num_tokens += 1
        if self._matcher is not None:
            self._matcher.append(token_id)

    def take_back(self, num_tokens: int, token_id: int) -> None:
        """Keep the first `num_tokens` tokens, and mask this token at the position behind them."""
        if self._matcher is not None:
            self._matcher.take_back(self._num_tokens - num_tokens)
        self._num_tokens = num_tokens
        self._taken_back = {at: ids for at, ids in self._taken_back.items() if at <= num_tokens}
        self._taken_back.setdefault(num_tokens, []).append(token_id)

    def valid_part(self, draft: list[int]) -> list[int]:
        """Return the first tokens of a draft, up to the first that the grammar forbids."""
        return draft if self._matcher is None else draft[: self._matcher.num_valid(draft)]

    def draft(self, token_id: int) -> bool:
        """Take a draft token for now, until `forget_drafts`. Return False if none can follow it."""
        if token_id in self._ending_ids or (self._matcher is not None and not self._matcher.num_valid([token_id])):
            return False
        self.append(token_id)
        self._num_drafted += 1
        return not self.is_complete

    def forget_drafts(self) -> None:
        """Take back the draft tokens."""
        if self._matcher is not None:
            self._matcher.take_back(self._num_drafted)
        self._num_tokens -= self._num_drafted
        self._num_drafted = 0
