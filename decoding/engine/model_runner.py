"""ModelRunner: builds the batch of one forward pass from scheduled sequences, and runs it."""

from __future__ import annotations

from collections.abc import Sequence as ListLike
from operator import attrgetter, itemgetter

import numpy as np
from numpy.typing import NDArray

from decoding.engine.sequence import NO_ROW, Sequence
from decoding.models.batch import BLOCK_SIZE, ForwardBatch, KVCache, Logits, Model, StepsModel
from decoding.sampling.kernel import DrawnSteps, StepsAhead
from decoding.sampling.sampler import Sampler
from decoding.sampling.state import SamplingState

_TOKEN_IDS, _LAST, _BLOCKS = attrgetter("token_ids"), itemgetter(-1), attrgetter("block_table.array")


class ModelRunner:
    """A model with its KV cache. The arrays of a batch are reused from step to step."""

    def __init__(self, model: Model, cache: KVCache, max_tokens: int) -> None:
        """max_tokens: the maximum number of tokens in a batch, and so of sequences."""
        self._model = model
        self._cache = cache
        self._no_logits: Logits = np.empty((0, model.config.vocab_size), np.float32)
        self._token_ids = np.empty(max_tokens, np.int32)
        self._start, self._rope_lengths = np.empty(max_tokens, np.int32), np.empty(max_tokens, np.int32)
        self._ones, self._rows = np.ones(max_tokens, np.int32), np.arange(max_tokens, dtype=np.int32)
        self._decoding: list[Sequence] = []  # the sequences of the last step, if each computed one token
        self._views: tuple[NDArray[np.int32], ...] = ()  # of the arrays above, one element per sequence

    def forward(self, sequences: list[Sequence], *, only_decodes: bool = False) -> Logits:
        """Run the scheduled tokens of sequences; return the wanted logits [rows, vocab], sequence after sequence.

        only_decodes: that of the scheduler.
        Sets each sequence's `first_row`, `num_rows` and `row`. Sequences without a scheduled token have no rows.
        """
        if not sequences:
            return self._no_logits
        if only_decodes:
            batch = self._decode_batch(sequences)
        else:
            batch, self._decoding = self._mixed_batch(sequences), []
        if not len(batch.num_new):
            return self._no_logits
        return self._model.forward(batch, self._cache)

    def decode(
        self,
        model: StepsModel,
        sequences: list[Sequence],
        sampler: Sampler,
        states: list[SamplingState],
        ahead: StepsAhead,
    ) -> DrawnSteps:
        """Decode several tokens for sequences of which each computes its last one. model: this one."""
        batch = self._decode_batch(sequences)
        drawn = model.decode(batch, self._cache, sampler, states, ahead)
        batch.start[:] -= 1  # as after a single step
        return drawn

    def forget(self) -> None:
        """Drop the references to the sequences of the last step; also needed when a sequence has lost tokens."""
        self._decoding = []

    def row_behind(self, sequence: Sequence, token_ids: ListLike[int]) -> Logits:
        """Return the logits [vocab] of the last of one or more tokens behind the computed part of a sequence.

        The sequence's blocks must have room for them; their keys are not counted as computed.
        """
        batch = ForwardBatch(
            token_ids=_int32(token_ids),
            num_new=_int32([len(token_ids)]),
            start=_int32([sequence.num_computed]),
            block_tables=[sequence.block_table.array],
            rope_lengths=_int32([sequence.rope_length]),
            logits_tokens=_int32([len(token_ids) - 1]),
        )
        row: Logits = self._model.forward(batch, self._cache)[0]
        return row

    def _decode_batch(self, sequences: list[Sequence]) -> ForwardBatch:
        """Return the batch of the usual step: one token and one row of logits per sequence.

        If the sequences are those of the last step, one token later, only the changed values are written.
        """
        if sequences == self._decoding:
            token_ids, num_new, start, rope_lengths, logits_tokens = self._views
            start += 1
        else:
            count = len(sequences)
            arrays = (self._token_ids, self._ones, self._start, self._rope_lengths, self._rows)
            self._decoding, self._views = sequences, tuple(array[:count] for array in arrays)
            token_ids, num_new, start, rope_lengths, logits_tokens = self._views
            start[:] = [sequence.num_computed for sequence in sequences]
            rope_lengths[:] = [sequence.rope_length for sequence in sequences]
            for row, sequence in enumerate(sequences):
                sequence.num_rows = 1
                sequence.row = sequence.first_row = row
        token_ids[:] = list(map(_LAST, map(_TOKEN_IDS, sequences)))
        return ForwardBatch(
            token_ids=token_ids,
            num_new=num_new,
            start=start,
            block_tables=list(map(_BLOCKS, sequences)),
            rope_lengths=rope_lengths,
            logits_tokens=logits_tokens,
        )

    def _mixed_batch(self, sequences: list[Sequence]) -> ForwardBatch:
        """Return the batch of any other step: prompts, draft tokens and texts to score."""
        token_ids, num_new, logits_tokens = list[int](), list[int](), list[int]()
        computed = [sequence for sequence in sequences if sequence.num_scheduled]
        for sequence in sequences:
            if not sequence.num_scheduled:
                sequence.num_rows, sequence.row = 0, NO_ROW
                continue
            before, end = len(token_ids), sequence.num_computed + sequence.num_scheduled
            token_ids += sequence.token_ids[sequence.num_computed : end]
            token_ids += sequence.draft[: sequence.num_draft]
            num_new.append(len(token_ids) - before)
            num_rows = wanted_rows(sequence)
            sequence.first_row, sequence.num_rows = len(logits_tokens), num_rows
            sequence.row = sequence.first_row + num_rows - 1 - sequence.num_draft
            logits_tokens += range(len(token_ids) - num_rows, len(token_ids))
        count = len(computed)
        self._start[:count] = [sequence.num_computed for sequence in computed]
        self._rope_lengths[:count] = [sequence.rope_length for sequence in computed]
        return ForwardBatch(
            token_ids=_int32(token_ids),
            num_new=_int32(num_new),
            start=self._start[:count],
            block_tables=[sequence.block_table.array for sequence in computed],
            rope_lengths=self._rope_lengths[:count],
            logits_tokens=_int32(logits_tokens),
        )


def wanted_rows(sequence: Sequence) -> int:
    """Return the number of a sequence's last tokens in this step whose logits are used."""
    end = sequence.num_computed + sequence.num_scheduled
    if sequence.score_from is not None:
        return max(0, end - max(sequence.num_computed, sequence.score_from))
    return 1 + sequence.num_draft if end == len(sequence.token_ids) else 0


def all_logits(model: Model, token_ids: ListLike[int]) -> Logits:
    """Return the logits of every token of a text [tokens, vocab], in one pass with a cache of its own."""
    count = len(token_ids)
    blocks = np.arange(-(-count // BLOCK_SIZE), dtype=np.int32)
    batch = ForwardBatch(
        token_ids=_int32(token_ids),
        num_new=_int32([count]),
        start=_int32([0]),
        block_tables=[blocks],
        rope_lengths=_int32([count]),
        logits_tokens=np.arange(count, dtype=np.int32),
    )
    return model.forward(batch, model.new_cache(len(blocks)))


def _int32(values: ListLike[int]) -> NDArray[np.int32]:
    return np.array(values, np.int32)
