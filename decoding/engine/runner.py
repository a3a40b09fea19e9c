"""The model as the engine sees it: a cache with slots, and one forward pass over rows of new tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from decoding.engine.block_manager import Change
from decoding.models.batch import ForwardBatch

Logits = NDArray[np.float32]
Cache = TypeVar("Cache", bound="SlotCache")

MAX_CHUNK_LOGITS = 2**22
"""Logits (float32) held at once for a prompt that is scored: 16 MB."""


class ModelShape(Protocol):
    """What the engine reads of a model's config."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def max_position_embeddings(self) -> int: ...
    @property
    def bos_token_id(self) -> int | None: ...
    @property
    def eos_token_ids(self) -> tuple[int, ...]: ...


class SlotCache(Protocol):
    """What the engine does with a cache.

    share: the sequence in dst_slot begins with the first tokens of the one in src_slot, which stay there.
    truncate: nobody will ask for the tokens of a slot after its first `num_tokens`.
    Optional attributes: `token_bytes`, what a token takes, without which nothing is bounded in bytes; `copies`, whether
    `share` copies rather than shares.
    """

    def share(self, src_slot: int, dst_slot: int, num_tokens: int) -> None: ...
    def truncate(self, slot: int, num_tokens: int) -> None: ...


class Model(Protocol[Cache]):
    """Anything that can stand where our models stand."""

    @property
    def config(self) -> ModelShape: ...
    def new_cache(self, num_slots: int) -> Cache: ...
    def forward(self, batch: ForwardBatch, cache: Cache) -> Logits: ...


class Row(NamedTuple):
    """New tokens of one sequence: those after the first `start`, which the cache has already."""

    slot: int
    start: int
    token_ids: Sequence[int]


class Runner:
    """A model and the cache of the sequences that it runs."""

    def __init__(self, model: Model[Cache], num_slots: int) -> None:
        self._model = model
        self._cache = model.new_cache(num_slots)

    @property
    def token_bytes(self) -> int:
        """Memory for the keys and values of one token; 0 where the cache does not say."""
        return int(getattr(self._cache, "token_bytes", 0))

    @property
    def copies(self) -> bool:
        """Whether what sequences share is there once for each of them."""
        return bool(getattr(self._cache, "copies", False))

    def forward(self, rows: Iterable[Row], *, all_logits: bool = False) -> Logits:
        """One forward pass; logits [rows, vocab] of each row's last token, or [tokens, vocab] of all of them."""
        slots, starts, counts, token_ids = list[int](), list[int](), list[int](), list[int]()
        for slot, start, new in rows:
            slots.append(slot)
            starts.append(start)
            counts.append(len(new))
            token_ids += new
        batch = ForwardBatch(
            token_ids=np.array(token_ids, np.int32),
            slots=np.array(slots, np.int64),
            num_new=np.array(counts, np.int64),
            start=np.array(starts, np.int64),
            all_logits=all_logits,
        )
        return self._model.forward(batch, self._cache)

    def follow(self, changes: list[Change]) -> None:
        """Do to the cache what the pool has decided; empties the list."""
        for slot, num_tokens, base in changes:
            if base is None:
                self._cache.truncate(slot, num_tokens)
            else:
                self._cache.share(base, slot, num_tokens)
        changes.clear()
