"""Calls into C: a reused `decoding_batch`, and the threads that share one call's rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decoding.errors import EmptySupportError, KernelError, LogitsError, NonFiniteLogitsError
from decoding.sampling.kernel.decode_steps import DecodeSteps, DrawnSteps
from decoding.sampling.kernel.library import ffi, lib, status_message
from decoding.sampling.kernel.row import KernelRow
from decoding.sampling.kernel.threads import ThreadPool
from decoding.sampling.logits_input import BFLOAT16, FLOAT16, FLOAT32
from decoding.sampling.output import TOKEN_ID, SamplerOutput
from decoding.sampling.stages import STAGE_NAMES

MIN_LOGITS_A_THREAD = 2**17
"""Minimum number of logits for a further thread: fewer are done before it wakes up."""

MAX_PARTS: int = lib.DK_MAX_PARTS
"""Maximum number of parts into which the rows of a call are divided."""

_DTYPES = {FLOAT32: lib.DECODING_FLOAT32, FLOAT16: lib.DECODING_FLOAT16, BFLOAT16: lib.DECODING_BFLOAT16}

# Looked up once, because a short call costs no more than a few look-ups.
_OK, _SHARED_LOGITS = lib.DECODING_OK, lib.DECODING_SHARED_LOGITS
_RESULTS, _ROWS = ffi.typeof("decoding_result[]"), ffi.typeof("decoding_row *[]")
_INTS, _FLOATS, _DOUBLES = ffi.typeof("int32_t[]"), ffi.typeof("float[]"), ffi.typeof("double[]")
_from_buffer, _new = ffi.from_buffer, ffi.new
_sample, _probabilities = lib.decoding_sample, lib.decoding_probabilities


class Call:
    """One `decoding_batch` with its scratch memory: filled in and run, by one thread at a time.

    C gets only addresses, so the return value of `fill` must be kept until the call has run.
    """

    __slots__ = (
        *("_batch", "_flags", "_layout", "_num_parts", "_pointers", "_reports", "_structs", "_workspace"),
        *("kept", "output"),
    )

    def __init__(self, constants: dict[str, Any]) -> None:
        """`constants`: the fields that are the same in every call."""
        self._batch = _new("decoding_batch *", constants)
        self._batch.struct_size = ffi.sizeof("decoding_batch")
        self._flags: int = constants["flags"]
        self._structs: list[Any] = []
        self._layout: tuple[Any, int] | None = None  # element type and row stride of the last call
        self._reports = True  # the last call may have pointed to memory for reports
        self.output: SamplerOutput
        self.kept: object
        self._num_parts = 1
        self._grow(0)

    def fill(self, matrix: NDArray[Any], structs: list[Any], output: SamplerOutput) -> object:
        """Point to the logits [rows, vocab], to each row's struct, and to the memory for results."""
        batch = self._batch
        if structs != self._structs:  # mostly they are those of the last call, and so is the layout
            self._structs, self._pointers = structs, _new(_ROWS, structs)
            batch.rows, batch.num_rows = self._pointers, len(structs)
        layout = matrix.dtype, matrix.strides[0]
        if layout != self._layout:
            self._lay_out(*layout)
        try:
            logits = _from_buffer(matrix)
        except ValueError:  # it refuses what is strided
            logits = _from_buffer(matrix[0]) if structs else ffi.NULL
        batch.logits = logits
        batch.results = results = _from_buffer(_RESULTS, output.memory, True)
        reports = output.top is not None or output.chosen is not None
        if not reports and not self._reports:
            return logits, results
        self._reports = reports
        return logits, results, self._point_to_top(output.top), self._point_to_chosen(output.chosen)

    def _lay_out(self, dtype: np.dtype[Any], stride: int) -> None:
        batch = self._batch
        batch.dtype, batch.row_stride = _DTYPES[dtype], stride
        batch.flags = self._flags if stride else self._flags | _SHARED_LOGITS
        self._layout = dtype, stride

    def _point_to_chosen(self, logprobs: NDArray[np.float32] | None) -> object:
        batch = self._batch
        if logprobs is None:
            batch.chosen_stride = 0
            return None
        batch.chosen_stride = logprobs.shape[1]
        batch.chosen_logprobs = kept = _from_buffer(_FLOATS, logprobs, True)
        return kept

    def _point_to_top(self, top: tuple[NDArray[np.int32], NDArray[np.float32]] | None) -> object:
        batch = self._batch
        if top is None:
            batch.top_stride = 0
            return None
        token_ids, logprobs = top
        kept = _from_buffer(_INTS, token_ids, True), _from_buffer(_FLOATS, logprobs, True)
        batch.top_token_ids, batch.top_logprobs = kept
        batch.top_modes, batch.top_stride = logprobs.shape[1:]
        return kept

    def sample(self) -> bool:
        """Draw (or take the forced token) and report, for every row. Return True if all rows succeeded."""
        status = _sample(self._batch)
        return status == _OK or (self._goes_on(status) and self.sample())

    def probabilities(self, out: NDArray[np.float64]) -> bool:
        """Write the distribution that `sample` draws from to out [rows, vocab]; rows that fail are zero."""
        status = _probabilities(self._batch, _from_buffer(_DOUBLES, out, True))
        return status == _OK or (self._goes_on(status) and self.probabilities(out))

    def run_in_parts(self, threads: ThreadPool, num_parts: int, out: NDArray[np.float64] | None) -> bool:
        """Do what `sample` does, or with `out` what `probabilities` does, on threads whose lock the caller holds."""
        if num_parts > self._num_parts:
            self._num_parts = num_parts
            self._grow(0)
        probabilities = ffi.NULL if out is None else _from_buffer(_DOUBLES, out, True)
        status = lib.dk_sample_in_parts(threads.pool, self._batch, num_parts, probabilities)
        return status == _OK or (self._goes_on(status) and self.run_in_parts(threads, num_parts, out))

    def decode(self, steps: DecodeSteps, threads: ThreadPool | None, num_parts: int) -> bool:
        """Run decoding steps, each with a draw for every row. Return True if all rows of all steps succeeded."""
        if num_parts > self._num_parts:
            self._num_parts = num_parts
            self._grow(0)
        steps.draw_with(self._batch, self._pointers, ffi.NULL if threads is None else threads.pool, num_parts)
        status = lib.dk_decode(steps.struct)
        return status == _OK or (self._goes_on(status) and self.decode(steps, threads, num_parts))

    def _goes_on(self, status: int) -> bool:
        """Return True if the call must be repeated with its larger workspace; otherwise a row has failed."""
        if status == lib.DECODING_SMALL_WORKSPACE:
            self._grow(max(row.num_history + row.num_bias + row.num_context for row in self._structs))
        elif status != lib.DECODING_ROW_FAILED:
            raise KernelError(f"the kernel refused the call: {status_message(status)}{self._refusal()}")
        return bool(status == lib.DECODING_SMALL_WORKSPACE)

    def _refusal(self) -> str:
        """Return a text that names the refused field and its row."""
        row, field = _new("int32_t *"), _new("const char **")
        lib.decoding_check_batch(self._batch, row, field)
        name = "" if field[0] == ffi.NULL else ffi.string(field[0]).decode()
        return f" ({name} of the batch)" if row[0] < 0 else f" ({name} of row {row[0]})"

    def _grow(self, max_edits: int) -> None:
        """Allocate a workspace for twice as many edits, because histories grow; one for each part."""
        batch = self._batch
        batch.workspace_size = self._num_parts * lib.decoding_workspace_size(batch.vocab_size, 2 * max_edits + 64)
        self._workspace = _from_buffer("char[]", np.empty(batch.workspace_size, np.uint8), True)
        batch.workspace = self._workspace


class Kernel:
    """Calls into C for one vocabulary and one order of the stages, with memory that is reused from call to call.

    Calls may run at the same time in several threads: each takes a `Call` of its own from the pool.
    """

    def __init__(
        self,
        vocab_size: int,
        num_valid_tokens: int,
        *,
        mask_nan: bool = False,
        stages: Sequence[int] | None = None,
        rules: int = 0,
        threads: ThreadPool | None = None,
        plain_search: bool = False,
    ) -> None:
        """Prepare calls that run all stages in their default order.

        stages: numbers of the stages to run instead, in that order (decoding.sampling.stages).
        threads: share the rows of a call if there is enough work; a call that finds them at work does without.
        plain_search: find top_k and top_p by a slow and simple search, for comparison; the bits are the same.
        """
        self.vocab_size = vocab_size
        self.threads = threads
        self._constants = {
            "flags": lib.DECODING_MASK_NAN * mask_nan | lib.DECODING_PLAIN_SEARCH * plain_search,
            "rules": rules,
            "vocab_size": vocab_size,
            "num_valid_tokens": num_valid_tokens,
            "num_stages": 0 if stages is None else len(stages),
            "stages": ffi.NULL if stages is None else _new(_INTS, list(stages)),
        }
        self._pool: list[Call] = []

    def sample(self, matrix: NDArray[Any], rows: Sequence[KernelRow]) -> SamplerOutput:
        """Draw (or take the forced token) and report, for every row of a matrix (logits_input.matrix_of)."""
        output = output_of(len(rows), rows)
        self.sample_into(output, matrix, [row.struct for row in rows])
        return output

    def sample_into(self, output: SamplerOutput, matrix: NDArray[Any], structs: list[Any]) -> None:
        """Do what `sample` does for the structs of rows, into an output that has room for their reports."""
        if not self._run(matrix, structs, output):
            output.failures = _failures(output.records)

    def probabilities(
        self, matrix: NDArray[Any], rows: Sequence[KernelRow]
    ) -> tuple[NDArray[np.float64], SamplerOutput]:
        """Return the distribution that `sample` draws from: float64 [rows, vocab]; rows that fail are zero.

        Only `failures` of the output is filled in.
        """
        structs, output = [row.struct for row in rows], output_of(len(rows), rows)
        out = np.zeros((len(rows), self.vocab_size), np.float64)
        if not self._run(matrix, structs, output, out):
            output.failures = _failures(output.records)
        return out, output

    def decode(self, steps: DecodeSteps, structs: list[Any], output: SamplerOutput) -> DrawnSteps:
        """Run decoding steps for the structs of rows, into an output that has room for the reports of all steps."""
        num_rows = len(structs)
        call = self._taken_call()
        kept = call.fill(steps.logits, structs, output)
        threads, num_parts = self._taken_threads(steps.logits)
        try:
            succeeded = call.decode(steps, threads, num_parts)
        finally:
            if threads is not None:
                threads.lock.release()
        del kept
        self._pool.append(call)
        done = int(steps.struct.num_done)
        last = output.records[(done - 1) * num_rows : done * num_rows]
        token_ids = output.words[: done * num_rows, TOKEN_ID].reshape(done, num_rows)
        return DrawnSteps(token_ids, {} if succeeded else _failures(last), output)

    def prepare(self, matrix: NDArray[Any], rows: Sequence[KernelRow]) -> Call:
        """Return a call that is ready to run, for benchmarks. It may be run repeatedly, always into `output`."""
        call = Call(self._constants)
        call.output = output_of(len(rows), rows)
        call.kept = call.fill(matrix, [row.struct for row in rows], call.output), rows
        return call

    def _run(
        self,
        matrix: NDArray[Any],
        structs: list[Any],
        output: SamplerOutput,
        out: NDArray[np.float64] | None = None,
    ) -> bool:
        """Call C once, to draw or, with `out`, for the probabilities. Return True if all rows succeeded."""
        call = self._taken_call()
        kept = call.fill(matrix, structs, output)
        threads, num_parts = self._taken_threads(matrix)
        try:
            if threads is not None:
                succeeded = call.run_in_parts(threads, num_parts, out)
            else:
                succeeded = call.sample() if out is None else call.probabilities(out)
        finally:
            if threads is not None:
                threads.lock.release()
        del kept
        self._pool.append(call)
        return succeeded

    def _taken_call(self) -> Call:
        """Take a call from the pool; the caller puts it back, unless it raises."""
        try:
            return self._pool.pop()
        except IndexError:
            return Call(self._constants)

    def _taken_threads(self, matrix: NDArray[Any]) -> tuple[ThreadPool | None, int]:
        """Take the threads, if there is enough work and they are free; also return the number of parts.

        The caller releases their lock.
        """
        threads = self.threads
        if threads is None:
            return None, 1
        num_parts = min(threads.num_threads, len(matrix), matrix.size // MIN_LOGITS_A_THREAD, MAX_PARTS)
        if num_parts > 1 and threads.lock.acquire(blocking=False):
            return threads, num_parts
        return None, 1


def output_of(num_rows: int, reporting: Iterable[KernelRow]) -> SamplerOutput:
    """Return an output for so many rows, with room for what some of them report."""
    num_top, num_modes, num_chosen = 0, 1, 0
    for row in reporting:
        num_top, num_modes = max(num_top, row.num_top), max(num_modes, row.num_modes)
        num_chosen = max(num_chosen, row.num_chosen)
    return SamplerOutput(num_rows, num_top, num_modes, num_chosen)


def _failures(records: NDArray[np.void]) -> dict[int, LogitsError]:
    """Return the errors of the rows that failed, by row."""
    return {row: _error(row, records[row]) for row in np.flatnonzero(records["status"]).tolist()}


def _error(row: int, record: np.void) -> LogitsError:
    status, stage = int(record["status"]), STAGE_NAMES.get(int(record["stage"]), "")
    if status == lib.DECODING_NONFINITE:
        return NonFiniteLogitsError(row, int(record["bad_token_id"]), stage)
    if status == lib.DECODING_EMPTY:
        return EmptySupportError(row, stage)
    # the state checks ids before the call, so an array has changed since
    raise KernelError(f"row {row}, stage {stage}: {status_message(status)}: {record['bad_token_id']}")
