"""TokenMasks: the bitmask of a candidate's next token, from everything that forbids tokens by the text so far."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from decoding.engine.grammar import Grammar, num_words
from decoding.sampling.state import SamplingState


class TokenMasks:
    """Keeps the bitmask of one candidate in step with its tokens."""

    def __init__(self, grammar: Grammar, ending_ids: Iterable[int]) -> None:
        """ending_ids: the tokens that end the sequence; they are no part of the text."""
        self._matcher = grammar.matcher()
        self._ending_ids = frozenset(ending_ids)
        self._words = np.zeros(num_words(grammar.vocab_size), np.uint32)
        self._num_drafted = 0

    @property
    def is_complete(self) -> bool:
        """Return True if the text is a sentence of the grammar that nothing can follow."""
        return self._matcher.is_complete

    def prepare(self, state: SamplingState) -> None:
        """Set the state's bitmask for the next token. Raises ParameterError if a grammar takes too much work."""
        self._matcher.fill(self._words, self._ending_ids)
        state.bitmask = self._words

    def append(self, token_id: int) -> None:
        """Take a token of the text. Raises ParameterError for one that the grammar does not have here."""
        self._matcher.append(token_id)

    def valid_part(self, draft: list[int]) -> list[int]:
        """Return the first tokens of a draft, as far as the grammar has them."""
        return draft[: self._matcher.num_valid(draft)]

    def draft(self, token_id: int) -> bool:
        """Take a draft token for now, until `forget_drafts`. Return False if none can follow it."""
        if token_id in self._ending_ids or not self._matcher.num_valid([token_id]):
            return False
        self._matcher.append(token_id)
        self._num_drafted += 1
        return not self._matcher.is_complete

    def forget_drafts(self) -> None:
        """Take back the draft tokens."""
        self._matcher.take_back(self._num_drafted)
        self._num_drafted = 0
