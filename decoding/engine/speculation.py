"""Speculation: who guesses the next tokens, to be checked several at once.

Guesses decide how fast a text comes, never what it is (decoding.engine.sampling_step).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from decoding.engine.block_manager import Change
from decoding.engine.runner import Model, Row, Runner
from decoding.engine.scheduler import Entry
from decoding.errors import ParameterError
from decoding.sampling.sampler import Sampler

NGRAM_SIZES = (3, 2)
"""Ends of a sequence that are looked for earlier in it, longest first."""
MAX_CHUNK_TOKENS = 512


class Drafter(Protocol):
    """Fills in `entry.draft`, with at most as many guesses as each entry has room for."""

    def guess(self, ready: Sequence[tuple[Entry, int]]) -> None: ...


class PromptLookup:
    """Guesses that a sequence goes on as it did where its last tokens stood before (Saxena 2023, prompt lookup)."""

    def guess(self, ready: Sequence[tuple[Entry, int]]) -> None:
        """One dictionary access a sequence and n-gram size."""
        for entry, room in ready:
            if entry.memo is None:
                entry.memo = _NgramIndex()
            start = entry.memo.find(entry.token_ids)
            entry.draft = () if start is None else entry.token_ids[start : start + room]


class _NgramIndex:
    """Where each n-gram of a growing sequence ended last, its newest one excepted."""

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], int] = {}
        self._num_seen = 0

    def find(self, token_ids: Sequence[int]) -> int | None:
        """Where the last tokens stood before, the place behind them; None where they did not."""
        for end in range(self._num_seen, len(token_ids)):
            for size in NGRAM_SIZES:
                if end >= size:
                    self._ends[tuple(token_ids[end - size : end])] = end
        self._num_seen = len(token_ids)
        found = (self._ends.get(tuple(token_ids[-size:])) for size in NGRAM_SIZES if len(token_ids) > size)
        return next((end for end in found if end is not None), None)


class DraftModel:
    """Guesses what a smaller model of the same vocabulary would draw, with the sequence's own random numbers.

    The same numbers make both models draw alike more often than any others would.
    """

    def __init__(
        self,
        model: Model[Any],
        vocab_size: int,
        max_num_seqs: int,
        exclusive: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        """`exclusive`: keeps others off the model while it is used here."""
        if model.config.vocab_size != vocab_size:
            rule = f"must be a model of the same vocabulary ({vocab_size:,} tokens)"
            raise ParameterError.single("speculation", f"a model of {model.config.vocab_size:,} tokens", rule)
        self._exclusive = exclusive
        self._runner = Runner(model, max_num_seqs)
        self._sampler = Sampler(vocab_size)
        self._max_tokens = model.config.max_position_embeddings
        self._free = list(range(max_num_seqs))
        self._fed: dict[Entry, tuple[int, list[int]]] = {}  # each one's slot, and the tokens in it

    def guess(self, ready: Sequence[tuple[Entry, int]]) -> None:
        """As many forward passes of the small model as tokens are guessed."""
        for entry in [entry for entry in self._fed if entry.slot is None]:
            self._free.append(self._fed.pop(entry)[0])
        going = [(entry, room) for entry, room in ready if len(entry.token_ids) + room <= self._max_tokens]
        going = [(entry, room) for entry, room in going if entry in self._fed or self._give_slot(entry)]
        positions = {entry: entry.owner.state.position for entry, _ in going}
        try:
            with self._exclusive():
                while going:
                    going = self._draw(going)
        finally:
            for entry, position in positions.items():
                entry.owner.state.truncate(position)

    def _give_slot(self, entry: Entry) -> bool:
        if self._free:
            self._fed[entry] = (self._free.pop(), [])
        return entry in self._fed

    def _draw(self, going: Sequence[tuple[Entry, int]]) -> list[tuple[Entry, int]]:
        """One more guess for each; returns who has room for another. A row that fails ends its sequence's guessing."""
        logits = self._runner.forward([self._feed(entry) for entry, _ in going])
        output = self._sampler.sample(logits, [entry.owner.state for entry, _ in going], on_error="status")
        drawn = list(zip(going, output.token_ids.tolist(), strict=True))
        for (entry, _), token_id in drawn:
            entry.draft = [*entry.draft, token_id] if token_id >= 0 else entry.draft
        return [(entry, room) for (entry, room), token_id in drawn if token_id >= 0 and len(entry.draft) < room]

    def _feed(self, entry: Entry) -> Row:
        """What the cache lacks of a sequence and its guesses, in the end at most a chunk of it."""
        slot, fed = self._fed[entry]
        wanted = [*entry.token_ids, *entry.draft]
        start = min(_common(fed, wanted), len(wanted) - 1)
        if start < len(fed):
            self._runner.follow([Change(slot, start)])
        while len(wanted) - start > MAX_CHUNK_TOKENS:
            self._runner.forward([Row(slot, start, wanted[start : start + MAX_CHUNK_TOKENS])])
            start += MAX_CHUNK_TOKENS
        self._fed[entry] = (slot, wanted)
        return Row(slot, start, wanted[start:])


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    size = min(len(one), len(other))
    differ = np.flatnonzero(np.asarray(one[:size]) != np.asarray(other[:size]))
    return int(differ[0]) if differ.size else size
