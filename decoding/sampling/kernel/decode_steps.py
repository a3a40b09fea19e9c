"""DecodeSteps: decoding steps in a row, forward passes and draws, as one call into C."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from decoding.errors import LogitsError
from decoding.sampling.kernel.history import TokenHistory
from decoding.sampling.kernel.library import ffi
from decoding.sampling.kernel.row import KernelRow
from decoding.sampling.output import SamplerOutput


class StepsAhead(NamedTuple):
    """The decoding steps to run in a row.

    num_steps: their number, >= 1, unless they end early.
    ending_ids: a step that draws one of these ids is the last.
    interrupted: int32 [1]; no step begins after another thread has set it to 1, except the first.
    """

    num_steps: int
    ending_ids: Collection[int]
    interrupted: NDArray[np.int32]


class DrawnSteps(NamedTuple):
    """The tokens of steps in a row.

    token_ids: int32 [steps, rows]; -1 for a row that failed, which only the last step can have.
    failures: the errors of these rows.
    output: the results of all steps, one after another: row r of step s is its row s * rows + r. Steps that were not
        run have no meaning.
    """

    token_ids: NDArray[np.int32]
    failures: Mapping[int, LogitsError]
    output: SamplerOutput


class DecodeSteps:
    """A `dk_decode_steps`: its first forward pass is prepared, and goes on with the tokens that are drawn.

    logits: float32 [rows, vocab], the row of each sequence's newest token; every pass writes them.
    """

    def __init__(
        self,
        plan: Any,
        forward: Any,
        logits: NDArray[np.float32],
        ahead: StepsAhead,
        *,
        token_ids: NDArray[np.int32],
        start: NDArray[np.int32],
        rotary: NDArray[np.uintp] | None,
        kept: object,
    ) -> None:
        """plan, forward: cdata of a `decoding_plan` and of a `decoding_forward_batch` of one new token per sequence.

        token_ids, start, rotary: the arrays of `forward`; they are updated. kept: what the structs point to.
        """
        self.logits = logits
        self.num_steps = ahead.num_steps
        ending_ids = np.array(sorted(ahead.ending_ids), np.int32)
        self._kept: tuple[object, ...] = (plan, forward, ahead, token_ids, start, rotary, ending_ids, kept)
        self.struct: Any = ffi.new("dk_decode_steps *")
        struct = self.struct
        struct.plan, struct.forward, struct.num_steps = plan, forward, ahead.num_steps
        struct.token_ids, struct.start = _ints(token_ids), _ints(start)
        if rotary is not None:
            struct.rotary = ffi.cast("float **", rotary.ctypes.data)
        struct.ending_ids, struct.num_ending = _ints(ending_ids), len(ending_ids)
        struct.interrupted = _ints(ahead.interrupted)

    def record_in(self, rows: Sequence[KernelRow], histories: Sequence[TokenHistory | None]) -> None:
        """Let the drawn tokens be recorded in these histories, and grow them to hold the tokens of all steps."""
        for row, history in zip(rows, histories, strict=True):
            if history is not None:
                history.reserve(self.num_steps, row)
        pointers = [ffi.NULL if history is None else history.struct for history in histories]
        self.struct.histories = array = ffi.new("decoding_history *[]", pointers)
        self._kept += (array,)

    def draw_with(self, batch: Any, rows: Any, pool: Any, num_parts: int) -> None:
        """Draw with a `decoding_batch` and its `rows`, divided among so many tasks of a pool (null: none)."""
        struct = self.struct
        struct.sampling, struct.rows, struct.pool, struct.num_parts = batch, rows, pool, num_parts


def _ints(array: NDArray[np.int32]) -> Any:
    return ffi.cast("int32_t *", array.ctypes.data)
