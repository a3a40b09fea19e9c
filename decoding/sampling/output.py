"""SamplerOutput: the kernel's results as arrays over the memory that it wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from decoding.errors import LogitsError

RECORD = np.dtype(
    [
        ("status", "<i4"),
        ("stage", "<i4"),
        ("bad_token_id", "<i4"),
        ("token_id", "<i4"),
        ("rank", "<i4"),
        ("num_top", "<i4"),
        ("raw_logprob", "<f4"),
        ("surprise", "<f4"),
        ("logprobs", "<f4", (4,)),
    ]
)
"""The dtype of `decoding_result` in decoding.h."""

RECORD_SIZE = RECORD.itemsize
NUM_WORDS, TOKEN_ID = RECORD_SIZE // 4, RECORD.fields["token_id"][1] // 4  # type: ignore[index]


class SamplerOutput:
    """Results per row. Arrays are made on first use, and belong to this output alone.

    memory: the kernel's records, RECORD_SIZE bytes per row.

    N is the largest params.logprobs of the rows, M the largest number of logprobs modes of a row, at least 1, C the
    largest number of params.logprob_token_ids.
    `failures` has the errors of the rows that failed, by row: only with on_error="status" can there be any.
    """

    memory: bytearray
    num_modes: int = 1
    failures: Mapping[int, LogitsError] = MappingProxyType({})
    top: tuple[NDArray[np.int32], NDArray[np.float32]] | None = None
    chosen: NDArray[np.float32] | None = None

    def __init__(self, num_rows: int, num_top: int = 0, num_modes: int = 1, num_chosen: int = 0) -> None:
        """Allocate memory for the results of so many rows."""
        self.memory = bytearray(num_rows * RECORD_SIZE)  # in a third of the time that an array takes
        if num_modes != 1:
            self.num_modes = num_modes
        if num_top:
            shape = (num_rows, num_modes, num_top)
            self.top = np.empty((num_rows, num_top), np.int32), np.empty(shape, np.float32)
        if num_chosen:
            self.chosen = np.empty((num_rows, num_chosen), np.float32)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.memory) // RECORD_SIZE

    def __repr__(self) -> str:
        """Show the tokens, and the rows that failed."""
        failed = f", failed rows {sorted(self.failures)}" if self.failures else ""
        ids = self.token_ids.tolist()
        return f"<SamplerOutput token_ids={ids if len(ids) <= 16 else [*ids[:15], '...']}{failed}>"

    @classmethod
    def joined(cls, outputs: Sequence[SamplerOutput]) -> SamplerOutput:
        """Return the rows of several outputs, all with the same numbers of modes and top entries, as one output."""
        joined = cls(0)
        if outputs:
            joined.memory = bytearray().join([output.words.data for output in outputs])
            joined.num_modes = outputs[0].num_modes
        tops = [output.top for output in outputs if output.top is not None]
        if tops:
            ids, logprobs = zip(*tops, strict=True)
            joined.top = np.concatenate(ids), np.concatenate(logprobs)
        chosen = [output.chosen for output in outputs if output.chosen is not None]
        joined.chosen = np.concatenate(chosen) if chosen else None
        return joined

    @property
    def errors(self) -> tuple[LogitsError | None, ...]:
        """Each row's own error, or None."""
        return tuple(self.failures.get(row) for row in range(len(self)))

    @cached_property
    def words(self) -> NDArray[np.int32]:
        """int32 [rows, NUM_WORDS], `memory` as an array."""
        return np.ndarray((len(self), NUM_WORDS), np.int32, self.memory)

    def drawn_ids(self) -> list[int]:
        """Return `token_ids` as integers, sooner than from the array if there are few rows."""
        return memoryview(self.memory).cast("i")[TOKEN_ID::NUM_WORDS].tolist()

    @cached_property
    def records(self) -> NDArray[np.void]:
        """RECORD [rows], as the kernel wrote them."""
        return self.words.view(RECORD)[:, 0]

    @cached_property
    def token_ids(self) -> NDArray[np.int32]:
        """int32 [rows]; -1 for a row that failed."""
        return np.ndarray(len(self) * NUM_WORDS, np.int32, self.memory)[TOKEN_ID::NUM_WORDS].copy()

    @cached_property
    def logprobs(self) -> NDArray[np.float32]:
        """float32 [rows], log-probability of the drawn token in the row's first mode; NaN without params.logprobs."""
        return self.records["logprobs"][:, 0].copy()

    @cached_property
    def all_logprobs(self) -> NDArray[np.float32]:
        """float32 [rows, M], log-probability of the drawn token in each of the row's modes; NaN past its last."""
        return self.records["logprobs"][:, : self.num_modes].copy()

    @cached_property
    def raw_logprobs(self) -> NDArray[np.float32]:
        """float32 [rows], log-probability in mode "raw"; NaN unless that mode or a best_of ranking needs it."""
        return self.records["raw_logprob"].copy()

    @cached_property
    def ranks(self) -> NDArray[np.int32]:
        """int32 [rows], ranks in the order of the first mode, from 1; 0 if params.logprobs is None."""
        return self.records["rank"].copy()

    @cached_property
    def surprises(self) -> NDArray[np.float32]:
        """float32 [rows], -log2 of the token's probability before adaptive_p and skew; NaN if not needed."""
        return self.records["surprise"].copy()

    @property
    def chosen_logprobs(self) -> NDArray[np.float32]:
        """float32 [rows, C], of the row's params.logprob_token_ids in its first mode; NaN past its last."""
        return np.empty((len(self), 0), np.float32) if self.chosen is None else self.chosen

    @cached_property
    def top_token_ids(self) -> NDArray[np.int32]:
        """int32 [rows, N], most likely first, in the order of the first mode.

        -1 for entries that a row did not request, or that only banned tokens could fill.
        """
        return np.empty((len(self), 0), np.int32) if self.top is None else self.top[0]

    @cached_property
    def top_logprobs(self) -> NDArray[np.float32]:
        """float32 [rows, N], log-probabilities of top_token_ids in the first mode; -inf without an entry."""
        return self.all_top_logprobs[:, 0]

    @cached_property
    def all_top_logprobs(self) -> NDArray[np.float32]:
        """float32 [rows, M, N], log-probabilities of top_token_ids in each mode; -inf without an entry."""
        return np.empty((len(self), self.num_modes, 0), np.float32) if self.top is None else self.top[1]
