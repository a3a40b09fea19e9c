"""Speculation: proposes the next tokens of a sequence, which are then checked in one pass.

Draft tokens change the speed, never the text (decoding.engine.sampling_step).
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as ListLike
from contextlib import AbstractContextManager
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np

from decoding.engine.block_manager import BlockManager
from decoding.engine.block_table import BlockTable
from decoding.engine.masks import TokenMasks
from decoding.engine.sequence import Sequence
from decoding.errors import ParameterError
from decoding.models.batch import BLOCK_SIZE, ForwardBatch, Logits, Model
from decoding.sampling.sampler import Sampler
from decoding.sampling.stages import PROFILES, Profile
from decoding.sampling.state import SamplingState

NGRAM_SIZES = (3, 2)
"""Sizes of the n-grams at a sequence's end that are looked up earlier in it, longest first."""
MAX_CHUNK_TOKENS = 512


class Drafter(Protocol):
    """Proposes draft tokens: fills in `draft` of each sequence, with at most the number of tokens beside it."""

    def propose(self, sequences: ListLike[tuple[Sequence, int]]) -> None: ...


class PromptLookup:
    """Proposes the tokens behind an earlier occurrence of the sequence's last ones (prompt lookup, Saxena 2023)."""

    def __init__(self) -> None:
        self._indices: WeakKeyDictionary[Sequence, _NgramIndex] = WeakKeyDictionary()

    def propose(self, sequences: ListLike[tuple[Sequence, int]]) -> None:
        """Look up the end of each sequence, in one dictionary access per size of n-gram."""
        for sequence, room in sequences:
            index = self._indices.get(sequence)
            if index is None:
                index = self._indices[sequence] = _NgramIndex()
            start = index.find(sequence.token_ids)
            sequence.draft = [] if start is None else sequence.token_ids[start : start + room]


class _NgramIndex:
    """The end of the last occurrence of each n-gram of a growing sequence, except its final one."""

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], int] = {}
        self._num_seen = 0

    def find(self, token_ids: ListLike[int]) -> int | None:
        """Return the index behind an earlier occurrence of the last tokens; None if there is none."""
        if len(token_ids) < self._num_seen:  # tokens were taken back
            self._ends.clear()
            self._num_seen = 0
        for end in range(self._num_seen, len(token_ids)):
            for size in NGRAM_SIZES:
                if end >= size:
                    self._ends[tuple(token_ids[end - size : end])] = end
        self._num_seen = len(token_ids)
        found = (self._ends.get(tuple(token_ids[-size:])) for size in NGRAM_SIZES if len(token_ids) > size)
        return next((end for end in found if end is not None), None)


class _Draft:
    """A sequence in the draft model's cache: its blocks, the tokens in them, and the number of their rotary factors."""

    def __init__(self, length: int) -> None:
        self.block_table = BlockTable()
        self.token_ids: list[int] = []
        self.rope_length = length


class DraftModel:
    """Proposes the tokens that a smaller model of the same vocabulary samples with the sequence's own random numbers.

    With the same random numbers both models sample the same token most often.
    """

    def __init__(
        self,
        model: Model,
        vocab_size: int,
        max_num_seqs: int,
        exclusive: Callable[[], AbstractContextManager[Model]],
        profile: Profile = PROFILES["openai"],
    ) -> None:
        """exclusive: returns a context manager that locks the model. profile: of the sampler."""
        if model.config.vocab_size != vocab_size:
            rule = f"must be a model of the same vocabulary ({vocab_size:,} tokens)"
            raise ParameterError.single("speculation", f"a model of {model.config.vocab_size:,} tokens", rule)
        self._exclusive = exclusive
        self._model = model
        self._sampler = Sampler(vocab_size, profile=profile)
        self._max_tokens = model.config.max_position_embeddings
        self._max_num_seqs = max_num_seqs
        num_blocks = max_num_seqs * -(-self._max_tokens // BLOCK_SIZE)
        self._cache = model.new_cache(num_blocks)
        self._blocks = BlockManager(num_blocks, BLOCK_SIZE, self._cache.copy_block, prefix_cache=False)
        self._drafts: dict[Sequence, _Draft] = {}

    def propose(self, sequences: ListLike[tuple[Sequence, int]]) -> None:
        """Propose draft tokens, with one forward pass of the small model for each."""
        for sequence in [sequence for sequence in self._drafts if not sequence.is_running]:
            self._blocks.free(self._drafts.pop(sequence).block_table)
        going_on = [one for one in sequences if self._fits(*one)]
        states = [_state_of(sequence) for sequence, _ in going_on]
        positions = [state.position for state in states]
        try:
            with self._exclusive():
                while going_on:
                    going_on = self._sample(going_on)
        finally:
            for state, position in zip(states, positions, strict=True):
                state.truncate(position)
            for sequence, _ in sequences:
                if (masks := _masks_of(sequence)) is not None:
                    masks.forget_drafts()

    def _fits(self, sequence: Sequence, room: int) -> bool:
        if len(sequence.token_ids) + room > self._max_tokens:
            return False
        return sequence in self._drafts or len(self._drafts) < self._max_num_seqs

    def _sample(self, going_on: ListLike[tuple[Sequence, int]]) -> list[tuple[Sequence, int]]:
        """Sample one more draft token each; return the sequences with room for another.

        A row that fails ends the proposal of its sequence.
        """
        logits = self._forward([self._catch_up(sequence) for sequence, _ in going_on])
        states = [_state_of(sequence) for sequence, _ in going_on]
        all_masks = [_masks_of(sequence) for sequence, _ in going_on]
        for state, masks in zip(states, all_masks, strict=True):
            if masks is not None:
                masks.prepare(state)
        output = self._sampler.sample(logits, states, on_error="status")
        further = []
        drawn = zip(going_on, all_masks, output.token_ids.tolist(), strict=True)
        for (sequence, room), masks, token_id in drawn:
            if token_id >= 0:
                sequence.draft.append(token_id)
                if len(sequence.draft) < room and (masks is None or masks.draft(token_id)):
                    further.append((sequence, room))
        return further

    def _catch_up(self, sequence: Sequence) -> tuple[_Draft, int]:
        """Compute what the cache lacks, except for the last chunk; return where that chunk starts."""
        draft = self._drafts.setdefault(sequence, _Draft(len(sequence.token_ids)))
        wanted = [*sequence.token_ids, *sequence.draft]
        border = self._model.rope_border
        if border is not None and draft.rope_length <= border < len(wanted):
            draft.token_ids, draft.rope_length = [], len(wanted)
        start = min(_num_common(draft.token_ids, wanted), len(wanted) - 1)
        self._blocks.truncate(draft.block_table, start)
        self._blocks.reserve(draft.block_table, start, len(wanted))
        while len(wanted) - start > MAX_CHUNK_TOKENS:
            draft.token_ids = wanted[: start + MAX_CHUNK_TOKENS]
            self._forward([(draft, start)])
            start += MAX_CHUNK_TOKENS
        draft.token_ids = wanted
        return draft, start

    def _forward(self, chunks: list[tuple[_Draft, int]]) -> Logits:
        """Compute the tokens of drafts from `start` on; return the logits of the last ones [drafts, vocab]."""
        num_new = np.array([len(draft.token_ids) - start for draft, start in chunks], np.int32)
        batch = ForwardBatch(
            token_ids=np.concatenate([np.array(draft.token_ids[start:], np.int32) for draft, start in chunks]),
            num_new=num_new,
            start=np.array([start for _, start in chunks], np.int32),
            block_tables=[draft.block_table.array for draft, _ in chunks],
            rope_lengths=np.array([draft.rope_length for draft, _ in chunks], np.int32),
            logits_tokens=np.cumsum(num_new, dtype=np.int32) - 1,
        )
        return self._model.forward(batch, self._cache)


def _state_of(sequence: Sequence) -> SamplingState:
    if sequence.candidate is None:
        raise AssertionError("a sequence without a candidate has nothing to propose for")
    return sequence.candidate.state


def _masks_of(sequence: Sequence) -> TokenMasks | None:
    return None if sequence.candidate is None else sequence.candidate.masks


def _num_common(one: ListLike[int], other: ListLike[int]) -> int:
    """Return how many tokens two sequences have in common at their beginning."""
    size = min(len(one), len(other))
    differ = np.flatnonzero(np.asarray(one[:size]) != np.asarray(other[:size]))
    return int(differ[0]) if differ.size else size
