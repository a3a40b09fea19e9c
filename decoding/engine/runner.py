"""The model as the engine sees it: a cache with slots, and one forward pass over rows of new tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from decoding.models.batch import ForwardBatch

Logits = NDArray[np.float32]
Cache = TypeVar("Cache", bound="ForkableCache")

MAX_CHUNK_TOKENS = 512
"""New tokens of one row in one forward pass: what bounds the memory that a long prompt takes."""
MAX_CHUNK_LOGITS = 2**22
"""Logits (float32) held at once while a prompt is scored: 16 MB."""


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


class ForkableCache(Protocol):
    """What the engine does with a cache."""

    def copy(self, src_slot: int, dst_slot: int, num_tokens: int) -> None: ...


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

    def forward(self, rows: Sequence[Row], *, all_logits: bool = False) -> Logits:
        """One forward pass; logits [rows, vocab] of each row's last token, or [tokens, vocab] of all of them."""
        batch = ForwardBatch(
            token_ids=np.array([token_id for row in rows for token_id in row.token_ids], np.int32),
            slots=np.array([row.slot for row in rows], np.int64),
            num_new=np.array([len(row.token_ids) for row in rows], np.int64),
            start=np.array([row.start for row in rows], np.int64),
            all_logits=all_logits,
        )
        return self._model.forward(batch, self._cache)

    def prefill_head(self, slot: int, token_ids: Sequence[int]) -> int:
        """Feed a long prompt's first tokens; returns how many, so that the rest makes one row of the next step."""
        start = 0
        while len(token_ids) - start > MAX_CHUNK_TOKENS:
            self.forward([Row(slot, start, token_ids[start : start + MAX_CHUNK_TOKENS])])
            start += MAX_CHUNK_TOKENS
        return start

    def prompt_logits(self, slot: int, token_ids: Sequence[int]) -> Iterator[tuple[Logits, Sequence[int]]]:
        """Feed all but the last token of a prompt: the logits of each, with the token that came next."""
        size = max(1, min(MAX_CHUNK_TOKENS, MAX_CHUNK_LOGITS // self._model.config.vocab_size))
        for start in range(0, len(token_ids) - 1, size):
            end = min(start + size, len(token_ids) - 1)
            logits = self.forward([Row(slot, start, token_ids[start:end])], all_logits=True)  # [end - start, vocab]
            yield logits, token_ids[start + 1 : end + 1]

    def fork(self, src_slot: int, dst_slot: int, num_tokens: int) -> None:
        """Give `dst_slot` the first `num_tokens` of `src_slot`, and nothing after them."""
        self._cache.copy(src_slot, dst_slot, num_tokens)
