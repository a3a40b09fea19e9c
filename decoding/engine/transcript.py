"""What of a candidate may be seen: text, tokens and log-probabilities that no stop string can take back."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from decoding.engine.outputs import Logprobs, TokenLogprob
from decoding.text.detokenizer import Utf8Decoder


class Pieces(NamedTuple):
    """A stretch of a transcript."""

    text: str
    token_ids: list[int]
    entries: list[TokenLogprob]

    def logprobs(self) -> Logprobs:
        """The entries as columns."""
        return Logprobs.from_tokens(self.entries)


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

    def __init__(self, shown: Prefix) -> None:
        """`shown` comes first: the prompt, with echo. A character may begin in it and end in the output."""
        self._utf8 = Utf8Decoder()
        text = self._utf8.feed(shown.data)
        self._text = [text] if text else []
        self._token_ids = list(shown.token_ids)
        self._entries = list(shown.entries)
        self._num_taken = (0, 0)  # pieces of text and tokens that `take` has handed out
        self._held_bytes = bytearray()
        self._held_tokens: deque[_HeldToken] = deque()
        self._num_bytes = 0

    @property
    def num_bytes(self) -> int:
        """Bytes added so far, held or released."""
        return self._num_bytes

    def add(self, token_id: int, data: bytes, entry: TokenLogprob | None) -> None:
        """Hold a token that added `data` to the text; `entry` where logprobs were asked for."""
        self._held_tokens.append(_HeldToken(self._num_bytes, token_id, entry))
        self._held_bytes += data
        self._num_bytes += len(data)

    @property
    def holds(self) -> bool:
        """Whether a token is held, or bytes of one that is not."""
        return bool(self._held_tokens or self._held_bytes)

    def pass_on(self, token_id: int, data: bytes, entry: TokenLogprob | None) -> None:
        """Add a token and release it at once, where nothing is held: `add` and `release` without the detour."""
        self._num_bytes += len(data)
        text = self._utf8.feed(data)
        if text:
            self._text.append(text)
        self._token_ids.append(token_id)
        if entry is not None:
            self._entries.append(entry)

    def release(self, end: int) -> None:
        """Release the bytes up to `end` and the tokens that start before it; past the last byte, those without any."""
        self._release_text(min(end, self._num_bytes), final=False)
        self._release_tokens(end)

    def close(self, cut: int | None) -> None:
        """Release what is left, up to `cut` where a stop string cuts the text, and drop the rest."""
        self._release_text(self._num_bytes if cut is None else cut, final=True)
        self._release_tokens(self._num_bytes + 1 if cut is None else cut)
        self._held_bytes.clear()
        self._held_tokens.clear()

    def take(self) -> Pieces:
        """What was released since the last call."""
        num_pieces, num_tokens = self._num_taken
        self._num_taken = (len(self._text), len(self._token_ids))
        text = "".join(self._text[num_pieces:])
        return Pieces(text, self._token_ids[num_tokens:], self._entries[num_tokens:])

    def whole(self) -> Pieces:
        """All that was released."""
        return Pieces("".join(self._text), list(self._token_ids), self._entries)

    def _release_text(self, end: int, *, final: bool) -> None:
        count = end - (self._num_bytes - len(self._held_bytes))
        text = self._utf8.feed(bytes(self._held_bytes[:count]), final=final)
        del self._held_bytes[:count]
        if text:
            self._text.append(text)

    def _release_tokens(self, end: int) -> None:
        while self._held_tokens and self._held_tokens[0].start < end:
            _, token_id, entry = self._held_tokens.popleft()
            self._token_ids.append(token_id)
            if entry is not None:
                self._entries.append(entry)
