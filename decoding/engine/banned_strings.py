"""Banned strings: finds the token with which a banned string began, so that it can be drawn again without this token.

The process: tokens are drawn one after another. Once the text contains a banned string, all tokens from the one on that
has its first byte are taken back, and that position is drawn again with this token masked, beside the tokens that were
masked there before. A mask is dropped when a token before it is taken back. After r redraws all numbers are those of
the random stream `redraw_stream(stream, r)`: with the same numbers again, the tokens drawn instead would not have the
probabilities of the masked distribution (docs/semantics.md, section 11).
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from typing import NamedTuple

from decoding.text.stop_strings import StopAutomaton, StopMatcher

MAX_REDRAWS = 4_096
"""Limit on the redraws of a candidate; beyond that it fails."""


class Drawn(NamedTuple):
    """A token of the output: its bytes, those that stop strings match, and its raw log-probability (of best_of)."""

    data: bytes
    generated: bytes
    raw_logprob: float


class BannedStrings:
    """Follows the text of one candidate, and keeps the data of each token that going back to it needs.

    drawn: the tokens so far. num_redraws: how often tokens were taken back.
    """

    def __init__(self, automaton: StopAutomaton) -> None:
        self._automaton = automaton
        self._matcher = StopMatcher(automaton)
        self._starts: list[int] = []  # of each token's text
        self._pieces: list[bytes] = []
        self._held: list[int | None] = []  # after each token, the first that may still be taken back
        self.drawn: list[Drawn] = []
        self.num_redraws = 0

    def append(self, shown: bytes, drawn: Drawn, limit: int) -> int | None:
        """Take a token; return the index of the token with which a banned string began, if one is complete now.

        shown: the token's bytes in the text. limit: how many of them are certainly part of it, as a stop string may
            have ended the text before; below 0 if it ended in an earlier token.
        """
        start = self._matcher.num_bytes
        self._starts.append(start)
        self._pieces.append(shown)
        self.drawn.append(drawn)
        match = self._matcher.feed(shown)
        held = self._matcher.held
        self._held.append(self._first_held(self._token_at(self._matcher.num_bytes - held)) if held else None)
        if match is None or match.end > start + limit:
            return None
        return self._token_at(match.start)

    @property
    def first_held(self) -> int | None:
        """Index of the first token that may still be taken back; None if there is none."""
        return self._held[-1] if self._held else None

    def _first_held(self, token: int) -> int:
        """Return the first token that may still be taken back, if this one may: it, or an earlier one."""
        before = self._held[token - 1] if token else None
        return token if before is None else before

    def take_back(self, num_tokens: int) -> None:
        """Keep the first tokens."""
        self.num_redraws += 1
        del self._starts[num_tokens:], self._pieces[num_tokens:], self._held[num_tokens:], self.drawn[num_tokens:]
        self._matcher = StopMatcher(self._automaton)
        self._matcher.feed(b"".join(self._pieces), ignore=True)

    def _token_at(self, offset: int) -> int:
        return bisect_right(self._starts, offset) - 1


def redraw_stream(stream: int, num_redraws: int) -> int:
    """Return the rng stream after so many redraws: a BLAKE2b digest of both (8 bytes each, little-endian)."""
    data = stream.to_bytes(8, "little") + num_redraws.to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
