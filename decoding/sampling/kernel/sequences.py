"""Sequences: rows whose tokens C records, so that a step of a batch has no loop over rows in Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from decoding.errors import KernelError
from decoding.sampling.kernel.history import TokenHistory
from decoding.sampling.kernel.library import ffi, lib, status_message
from decoding.sampling.kernel.row import KernelRow
from decoding.sampling.output import SamplerOutput


class KernelSequence:
    """A `decoding_sequence` with its row, its history and the bounds of mirostat.

    mus: the bound after each number of output tokens, from 0 on; float64 with room for the history's tokens. Empty
        without mirostat.
    """

    __slots__ = ("history", "mus", "row", "struct")

    def __init__(self, row: KernelRow, history: TokenHistory, mus: Sequence[float]) -> None:
        self.row, self.history, self.mus = row, history, np.array(mus, np.float64)
        self.struct: Any = ffi.new("decoding_sequence *", {"struct_size": ffi.sizeof("decoding_sequence")})
        self.struct.row, self.struct.history = row.struct, history.struct
        self.point()

    def set_ending(self, min_tokens: int, num_ending: int, num_banned: int) -> None:
        """Let the last `num_ending` of the row's `num_banned` banned ids be banned before min_tokens only."""
        struct = self.struct
        struct.min_tokens, struct.num_ending, struct.num_banned = min_tokens, num_ending, num_banned

    def set_mirostat(self, tau: float, eta: float) -> None:
        """Let C update mirostat's bound."""
        self.struct.mirostat_tau, self.struct.mirostat_eta = tau, eta

    def point(self) -> None:
        """Point to the history and the bounds, which may have moved."""
        self.history.use(self.row)
        if len(self.mus):
            room = int(self.history.struct.max_tokens) + 1
            self.mus = np.concatenate([self.mus, np.zeros(max(0, room - len(self.mus)))])
            self.struct.mirostat_mus = buffer = ffi.from_buffer("double[]", self.mus)
            self.row.keep("mus", buffer)

    def grow(self) -> None:
        """Move to larger memory."""
        self.history.grow()
        self.point()


class Follower(Protocol):
    """A row that C does not update, because one of its parameters is updated in Python."""

    row: KernelRow

    def commit(self, token_id: int, output: SamplerOutput, row: int) -> None:
        """Record the token that was drawn for a row of this output."""


class Sequences:
    """Rows in the order of a call."""

    __slots__ = ("_followers", "_pointers", "_rows", "items", "num_chosen", "num_modes", "num_top", "structs")

    def __init__(self, items: Sequence[KernelSequence | Follower]) -> None:
        self.items = list(items)
        self.structs = [item.row.struct for item in self.items]
        self._followers = [(i, item) for i, item in enumerate(self.items) if not isinstance(item, KernelSequence)]
        pointers = [item.struct if isinstance(item, KernelSequence) else ffi.NULL for item in self.items]
        self._pointers = ffi.new("decoding_sequence *[]", pointers)
        self._rows = ffi.new("decoding_row *[]", self.structs)
        self.num_top = max((item.row.num_top for item in self.items), default=0)
        self.num_chosen = max((item.row.num_chosen for item in self.items), default=0)
        self.num_modes = max((item.row.num_modes for item in self.items), default=0) or 1

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.items)

    def new_output(self) -> SamplerOutput:
        """Return an output with room for the reports of the rows."""
        return SamplerOutput(len(self.items), self.num_top, self.num_modes, self.num_chosen)

    def use_bitmasks(self, masks: NDArray[np.uint32] | None) -> None:
        """Let each row point to its mask, [rows, words] with contiguous rows, or to none."""
        if masks is None:
            lib.dk_use_bitmasks(self._rows, len(self.items), ffi.NULL, 0)
        else:
            buffer = ffi.from_buffer("uint32_t[]", masks)
            lib.dk_use_bitmasks(self._rows, len(self.items), buffer, masks.shape[1])

    def commit(self, output: SamplerOutput) -> None:
        """Record the tokens of an output of these rows; rows that failed are left alone."""
        results, full = ffi.from_buffer("decoding_result[]", output.memory), ffi.new("int32_t *")
        while True:
            status = lib.decoding_commit(self._pointers, results, len(self.items), full)
            if status != lib.DECODING_SMALL_WORKSPACE:
                break
            cast(KernelSequence, self.items[full[0]]).grow()
        if status != lib.DECODING_OK:  # the structs are made here
            raise KernelError(f"the kernel refused to record tokens: {status_message(status)}")
        token_ids = output.drawn_ids() if self._followers else []
        for row, follower in self._followers:
            token_id = token_ids[row]
            if token_id >= 0:
                follower.commit(token_id, output, row)
