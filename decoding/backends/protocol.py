"""Backend: the interface of a forward pass over numbered sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from decoding.models.batch import Logits


class Chunk(NamedTuple):
    """New tokens of one sequence: a prompt, a part of it, or the newest token.

    sequence: its number, from 0 to num_sequences - 1.
    start: tokens of the sequence that the backend has already; the chunk comes behind them.
    token_ids: the new tokens, at least one.
    num_logits: the number of tokens at the chunk's end whose logits are wanted; may be 0.
    """

    sequence: int
    start: int
    token_ids: list[int]
    num_logits: int


class Backend(Protocol):
    """A forward pass over up to `num_sequences` sequences whose keys and values the backend keeps.

    vocab_size: logits in a row.
    max_tokens: the longest sequence.
    num_sequences: sequences that can be kept at the same time, >= 1. All are empty at first.
    token_bytes: memory for the keys and values of one token, >= 1; used to report and bound memory.
    bos_token_id, eos_token_ids: of the vocabulary.
    digest: names weights and library; equal digests mean equal logits.
    can_truncate: False if a sequence can only be cleared as a whole, as that of a recurrent network.

    Methods are called by one thread at a time. An exception ends the requests of the step; the sequences of its chunks
    are cleared afterwards with `truncate(sequence, 0)`.
    """

    @property
    def vocab_size(self) -> int: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def num_sequences(self) -> int: ...
    @property
    def token_bytes(self) -> int: ...
    @property
    def bos_token_id(self) -> int | None: ...
    @property
    def eos_token_ids(self) -> tuple[int, ...]: ...
    @property
    def digest(self) -> str: ...
    @property
    def can_truncate(self) -> bool: ...

    def forward(self, chunks: Sequence[Chunk]) -> Logits:
        """Append chunks of different sequences; return the wanted logits, float32 [rows, vocab], chunk by chunk."""

    def truncate(self, sequence: int, num_tokens: int) -> None:
        """Keep the first `num_tokens` tokens of a sequence; 0 clears it. Others only if `can_truncate`."""

    def fork(self, source: int, target: int, num_tokens: int) -> None:
        """Replace the target by the first `num_tokens` tokens of the source, all of them unless `can_truncate`."""
