"""What of a candidate may be seen: text, tokens and log-probabilities that no stop string can take back."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple, TypeAlias

from decoding.engine.outputs import TokenLogprob
from decoding.text.detokenizer import Utf8Decoder

Pieces: TypeAlias = tuple[str, list[int], list[TokenLogprob]]
"""A stretch of a transcript: its text, its tokens, and their entries where logprobs were asked for."""


class Prefix(NamedTuple):
    """What stands before the output: bytes of the prompt, and the tokens and entries that echo shows of it."""

    data: bytes
    token_ids: list[int]
    entries: list[TokenLogprob]


NO_PREFIX = Prefix(b"", [], [])


class _HeldToken(NamedTuple):
    """A token that may still lose its place to a stop string, and the offset of its first byte."""

    start: int
    token_id: int
    entry: TokenLogprob | None


class Transcript:
    """The tokens of a candidate with their bytes: first held, then released, never taken back.

    Released bytes are decoded as UTF-8 once their character is complete. A token is released when a byte after its
    start is: a stop string drops the tokens whose first byte it takes, so until then it might drop this one.
    """

    def __init__(self, shown: Prefix, *, may_cut: bool) -> None:
        """`shown` comes first: the prompt, with echo. A character may begin in it and end in the output.

        may_cut: whether a stop string takes text back; without that, tokens that have no bytes need not wait.
        num_bytes: bytes added so far, held or released.
        """
        self._may_cut = may_cut
        self._utf8 = Utf8Decoder()
        text = self._utf8.feed(shown.data)
        self._text = [text] if text else []
        self._token_ids = list(shown.token_ids)
        self._entries = list(shown.entries)
        self._num_pieces_taken = self._num_tokens_taken = 0
        self._held_bytes = bytearray()
        self._held_tokens: deque[_HeldToken] = deque()
        self.num_bytes = 0

    def add(self, token_id: int, data: bytes, entry: TokenLogprob | None, num_held: int) -> None:
        """Add a token and its bytes, `entry` where logprobs were asked for, and hold the last `num_held` bytes."""
        start = self.num_bytes
        self.num_bytes += len(data)
        if num_held or self._held_tokens or self._held_bytes or (self._may_cut and not data):
            self._held_tokens.append(_HeldToken(start, token_id, entry))
            self._held_bytes += data
            self._release_text(self.num_bytes - num_held, final=False)
            self._release_tokens(self.num_bytes - num_held)
        else:  # most tokens: released without having been held
            self._show_text(self._utf8.feed(data))
            self._show_token(token_id, entry)

    def close(self, cut: int | None) -> None:
        """Release what is left, up to `cut` where a stop string cuts the text, and drop the rest."""
        self._release_text(self.num_bytes if cut is None else cut, final=True)
        self._release_tokens(self.num_bytes + 1 if cut is None else cut)
        self._held_bytes.clear()
        self._held_tokens.clear()

    def take(self) -> Pieces:
        """What was released since the last call."""
        num_pieces, num_tokens = self._num_pieces_taken, self._num_tokens_taken
        self._num_pieces_taken, self._num_tokens_taken = len(self._text), len(self._token_ids)
        return "".join(self._text[num_pieces:]), self._token_ids[num_tokens:], self._entries[num_tokens:]

    def whole(self) -> Pieces:
        """All that was released."""
        return "".join(self._text), list(self._token_ids), self._entries

    def _release_text(self, end: int, *, final: bool) -> None:
        count = end - (self.num_bytes - len(self._held_bytes))
        self._show_text(self._utf8.feed(bytes(self._held_bytes[:count]), final=final))
        del self._held_bytes[:count]

    def _release_tokens(self, end: int) -> None:
        while self._held_tokens and self._held_tokens[0].start < end:
            _, token_id, entry = self._held_tokens.popleft()
            self._show_token(token_id, entry)

    def _show_text(self, text: str) -> None:
        if text:
            self._text.append(text)

    def _show_token(self, token_id: int, entry: TokenLogprob | None) -> None:
        self._token_ids.append(token_id)
        if entry is not None:
            self._entries.append(entry)
