"""The compiled kernel, seen from Python: the only module that touches `ffi` and `lib`.

It knows dtypes, layouts, pointers and status codes, and nothing of requests. Everything that C will read is checked
here before C sees an address.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decoding.errors import (
    EmptySupportError,
    InstructionSetError,
    KernelError,
    LogitsError,
    NonFiniteLogitsError,
    ParameterError,
)
from decoding.stages import STAGE_NAMES
from decoding.types import LogprobsMode

try:
    from decoding._kernel import ffi, lib
except ImportError as error:
    raise KernelError(
        "the compiled module decoding._kernel is missing: install the package (pip install .); a source folder on"
        f" sys.path hides an installed one ({error})"
    ) from error

ABI_VERSION: int = lib.DECODING_ABI_VERSION
STREAM_VERSION: int = lib.DECODING_STREAM_VERSION
MAX_VOCAB_SIZE: int = lib.DECODING_MAX_VOCAB_SIZE

_DTYPES: dict[np.dtype[Any], int] = {  # in native byte order: other orders are other keys
    np.dtype(np.float32): lib.DECODING_FLOAT32,
    np.dtype(np.float16): lib.DECODING_FLOAT16,
    np.dtype(np.uint16): lib.DECODING_BFLOAT16,  # numpy has no bfloat16: its bits are handed over as uint16
}

_MODES: dict[LogprobsMode | None, int] = {
    None: lib.DECODING_LOGPROBS_NONE,
    "raw": lib.DECODING_LOGPROBS_RAW,
    "penalized": lib.DECODING_LOGPROBS_PENALIZED,
    "scaled": lib.DECODING_LOGPROBS_SCALED,
    "final": lib.DECODING_LOGPROBS_FINAL,
}

RESULT_DTYPE = np.dtype(
    [
        ("status", "<i4"),
        ("stage", "<i4"),
        ("bad_token_id", "<i4"),
        ("token_id", "<i4"),
        ("rank", "<i4"),
        ("num_top", "<i4"),
        ("logprob", "<f4"),
        ("raw_logprob", "<f4"),
    ]
)


def available_isas() -> tuple[str, ...]:
    """Instruction sets that this build has and this CPU runs, widest first."""
    names: list[str] = []
    index = 0
    while (name := lib.decoding_isa_name(index)) != ffi.NULL:
        if lib.decoding_isa_available(name):
            names.append(ffi.string(name).decode())
        index += 1
    return tuple(names)


def active_isa() -> str:
    """The instruction set in use."""
    name: str = ffi.string(lib.decoding_active_isa()).decode()
    return name


def force_isa(name: str | None) -> None:
    """Use the named instruction set from now on, process-wide; None goes back to the widest.

    Raises InstructionSetError where the name is unknown or the CPU or the build does not have the set.
    """
    status = lib.decoding_force_isa(ffi.NULL if name is None else os.fsencode(name))
    if status != lib.DECODING_OK:
        raise InstructionSetError(
            f"DECODING_ISA={name!r}: {_message(status)} (this machine has: {', '.join(available_isas())})"
        )


@contextmanager
def forced_isa(name: str) -> Iterator[None]:
    """Force an instruction set inside a `with` block, for tests and benchmarks."""
    before = active_isa()
    force_isa(name)
    try:
        yield
    finally:
        force_isa(before)


def philox(counter: Sequence[int], key: Sequence[int]) -> tuple[int, int, int, int]:
    """Philox4x64-10: four 64-bit counter words and two key words in, four random words out."""
    out = ffi.new("uint64_t[4]")
    lib.decoding_philox4x64(ffi.new("uint64_t[4]", list(counter)), ffi.new("uint64_t[2]", list(key)), out)
    return (out[0], out[1], out[2], out[3])


def _message(status: int) -> str:
    text: str = ffi.string(lib.decoding_status_message(status)).decode()
    return text


class Row:
    """One `decoding_row`: what a row asks for, as C reads it, and the arrays that it points to."""

    __slots__ = ("_kept", "struct")

    def __init__(self) -> None:
        self.struct: Any = ffi.new("decoding_row *")
        self._kept: dict[str, object] = {}
        row = self.struct
        row.struct_size = ffi.sizeof("decoding_row")
        row.temperature = row.top_p = row.repetition_penalty = 1.0
        row.top_k = lib.DECODING_TOP_K_OFF

    def set_draw(self, *, seed: int, stream: int, choice: int) -> None:
        """The key and the choice index of every draw, each as 64 bits (negative: two's complement)."""
        row = self.struct
        row.seed, row.stream, row.choice = seed & (2**64 - 1), stream, choice

    def set_distribution(self, *, temperature: float, top_k: int | None, top_p: float, min_p: float) -> None:
        """Stages 8 to 12; floats are rounded to float32 here."""
        row = self.struct
        row.temperature, row.top_p, row.min_p = temperature, top_p, min_p
        row.top_k = lib.DECODING_TOP_K_OFF if top_k is None else top_k

    def set_penalties(self, *, repetition: float, frequency: float, presence: float, context_frequency: float) -> None:
        """Stages 2 to 4; floats are rounded to float32 here."""
        row = self.struct
        row.repetition_penalty, row.context_frequency_penalty = repetition, context_frequency
        row.frequency_penalty, row.presence_penalty = frequency, presence

    def set_report(self, *, mode: LogprobsMode | None, num_top: int, want_raw: bool) -> None:
        """Which log-probabilities to report, and for how many of the most likely tokens."""
        row = self.struct
        row.logprobs_mode, row.num_top = _MODES[mode], num_top
        row.flags = lib.DECODING_WANT_RAW_LOGPROB if want_raw else 0

    def force_token(self, token_id: int) -> None:
        """Report on this token instead of drawing one."""
        self.struct.flags |= lib.DECODING_FORCE_TOKEN
        self.struct.forced_token_id = token_id

    def set_history(
        self,
        token_ids: NDArray[np.int32],
        scope: NDArray[np.int32],
        output: NDArray[np.int32],
        total: NDArray[np.int32],
    ) -> None:
        """Point to the history arrays, int32 of one length; `num_history` says how much of them is in use."""
        self._point("history_token_ids", token_ids)
        self._point("history_scope_counts", scope)
        self._point("history_output_counts", output)
        self._point("history_total_counts", total)

    def set_bias(self, token_ids: NDArray[np.int32], values: NDArray[np.float32]) -> None:
        """Stage 5: distinct token ids and what to add to their logits."""
        self._point("bias_token_ids", token_ids)
        self._point("bias_values", values)
        self.struct.num_bias = len(token_ids)

    def set_banned(self, token_ids: NDArray[np.int32]) -> None:
        """Point to the banned ids; `num_banned` says how many of them are banned now."""
        self._point("banned_token_ids", token_ids)

    def set_allowed(self, token_ids: NDArray[np.int32]) -> None:
        """Only these ids may be drawn."""
        self._point("allowed_token_ids", token_ids)
        self.struct.num_allowed = len(token_ids)

    def set_bitmask(self, words: NDArray[np.uint32] | None) -> None:
        """The grammar's mask of the next row, packed; None for no mask."""
        if words is None:
            self.struct.bitmask = ffi.NULL
            self._kept.pop("bitmask", None)
        else:
            self._point("bitmask", words)

    def _point(self, field: str, array: NDArray[Any]) -> None:
        """C keeps the address only, so the buffer must live as long as this row."""
        kind = {"i": "int32_t[]", "u": "uint32_t[]", "f": "float[]"}[array.dtype.kind]
        buffer = ffi.from_buffer(kind, array)
        self._kept[field] = buffer
        setattr(self.struct, field, buffer)


class Matrix:
    """A matrix of logits [rows, vocab] as C reads it: address, element type, row stride. Nothing is copied."""

    __slots__ = ("buffer", "dtype", "num_rows", "row_stride", "vocab_size")

    def __init__(self, logits: object, vocab_size: int) -> None:
        array = _checked_logits(logits, vocab_size)  # [rows, vocab]
        self.dtype = _DTYPES.get(array.dtype, lib.DECODING_BFLOAT16)
        self.num_rows, self.vocab_size = array.shape
        self.row_stride = array.strides[0]
        # from_buffer refuses strided arrays, and bfloat16 has no buffer format: pass the bytes of row 0.
        first = array[0].view(np.uint8) if self.num_rows else np.empty(0, np.uint8)
        self.buffer = ffi.from_buffer(first)


def _checked_logits(logits: object, vocab_size: int) -> NDArray[Any]:
    if not isinstance(logits, np.ndarray) or isinstance(logits, np.ma.MaskedArray):
        raise LogitsError(f"logits={type(logits).__name__}: must be a numpy array (and not a masked one)")
    if logits.dtype not in _DTYPES and logits.dtype.name != "bfloat16":
        raise LogitsError(
            f"logits.dtype={logits.dtype}: must be float32, float16 or bfloat16 (or bfloat16's bits as uint16),"
            " in native byte order"
        )
    if logits.ndim not in (1, 2) or logits.shape[-1] != vocab_size:
        raise LogitsError(
            f"logits.shape={logits.shape}: must be [rows, {vocab_size}] (vocab_size), or [{vocab_size}] for one row"
        )
    matrix = logits[np.newaxis] if logits.ndim == 1 else logits
    if matrix.size and vocab_size > 1 and matrix.strides[1] != matrix.itemsize:
        raise LogitsError(f"logits.strides={logits.strides}: the elements of a row must be contiguous")
    return matrix


class Batch:
    """One call's results: written by C, read as numpy arrays."""

    __slots__ = ("results", "top_logprobs", "top_token_ids")

    def __init__(self, num_rows: int, num_top: int) -> None:
        self.results: NDArray[np.void] = np.empty(num_rows, RESULT_DTYPE)  # [rows]
        self.top_token_ids = np.empty((num_rows, num_top), np.int32)
        self.top_logprobs = np.empty((num_rows, num_top), np.float32)

    def error(self, row: int) -> LogitsError | None:
        """Why this row failed, or None."""
        result = self.results[row]
        stage = STAGE_NAMES.get(int(result["stage"]), "")
        if result["status"] == lib.DECODING_OK:
            return None
        if result["status"] == lib.DECODING_NONFINITE:
            return NonFiniteLogitsError(row, int(result["bad_token_id"]), stage)
        if result["status"] == lib.DECODING_EMPTY:
            return EmptySupportError(row, stage)
        # The sampler checks ids before the call; an array that changed behind its back ends here.
        raise KernelError(f"row {row}, stage {stage}: {_message(result['status'])}: {result['bad_token_id']}")


class Call:
    """A filled-in decoding_batch and everything that C reads and writes while it runs; it may be run again."""

    __slots__ = ("_arguments", "_kept", "batch", "workspace")

    def __init__(self, arguments: Any, batch: Batch, workspace: NDArray[np.uint8], kept: list[Any]) -> None:
        self._arguments = arguments
        self._kept = kept  # C has addresses only: what they point to must live as long as this
        self.batch = batch
        self.workspace = workspace

    def sample(self) -> Batch:
        """Draw (or take the forced token) and report, for every row."""
        _check(lib.decoding_sample(self._arguments))
        return self.batch

    def probabilities(self, out: NDArray[np.float64]) -> Batch:
        """The distribution that `sample` draws from, into out [rows, vocab]; rows that fail are zero."""
        _check(lib.decoding_probabilities(self._arguments, ffi.from_buffer("double[]", out, require_writable=True)))
        return self.batch


def _check(status: int) -> None:
    if status not in (lib.DECODING_OK, lib.DECODING_ROW_FAILED):
        raise KernelError(f"the kernel refused the call: {_message(status)}")


class Kernel:
    """Calls into C for one vocabulary, with scratch memory that is reused from call to call.

    Calls may run at the same time in several threads: each takes a workspace of its own from the pool.
    """

    def __init__(self, vocab_size: int, num_valid_tokens: int, *, mask_nan: bool, plain_search: bool = False) -> None:
        """`plain_search` finds top_k and top_p the slow and simple way: the same bits, to compare with."""
        self.vocab_size = vocab_size
        self._num_valid_tokens = num_valid_tokens
        self._flags = lib.DECODING_MASK_NAN if mask_nan else 0
        self._flags |= lib.DECODING_PLAIN_SEARCH if plain_search else 0
        self._pool: list[NDArray[np.uint8]] = []

    def sample(self, matrix: Matrix, rows: Sequence[Row], num_top: int, *, ban_padding: bool = True) -> Batch:
        """Draw (or take the forced token) and report, for every row."""
        call = self.prepare(matrix, rows, num_top, ban_padding=ban_padding)
        batch = call.sample()
        self._pool.append(call.workspace)
        return batch

    def probabilities(self, matrix: Matrix, rows: Sequence[Row]) -> tuple[NDArray[np.float64], Batch]:
        """The distribution that `sample` draws from: float64 [rows, vocab]; rows that fail are zero."""
        out = np.zeros((len(rows), self.vocab_size), np.float64)
        call = self.prepare(matrix, rows, max((row.struct.num_top for row in rows), default=0))
        batch = call.probabilities(out)
        self._pool.append(call.workspace)
        return out, batch

    def prepare(self, matrix: Matrix, rows: Sequence[Row], num_top: int, *, ban_padding: bool = True) -> Call:
        """Everything for a call but the call itself."""
        batch = Batch(len(rows), num_top)
        workspace = self._workspace(max((r.struct.num_history + r.struct.num_bias for r in rows), default=0))
        pointers = ffi.new("decoding_row *[]", [row.struct for row in rows])
        arguments = ffi.new("decoding_batch *")
        arguments.struct_size = ffi.sizeof("decoding_batch")
        arguments.flags = self._flags
        arguments.dtype, arguments.vocab_size = matrix.dtype, self.vocab_size
        arguments.num_valid_tokens = self._num_valid_tokens if ban_padding else self.vocab_size
        arguments.num_rows, arguments.row_stride = len(rows), matrix.row_stride
        arguments.logits = ffi.cast("void *", matrix.buffer)
        arguments.rows = pointers
        kept = [pointers, matrix.buffer, *rows]
        for field, kind, array in (
            ("results", "decoding_result[]", batch.results),
            ("top_token_ids", "int32_t[]", batch.top_token_ids),
            ("top_logprobs", "float[]", batch.top_logprobs),
            ("workspace", "char[]", workspace),
        ):
            buffer = ffi.from_buffer(kind, array, require_writable=True)
            setattr(arguments, field, buffer)
            kept.append(buffer)
        arguments.top_stride = num_top
        arguments.workspace_size = workspace.nbytes
        return Call(arguments, batch, workspace, kept)

    def _workspace(self, max_edits: int) -> NDArray[np.uint8]:
        size = lib.decoding_workspace_size(self.vocab_size, max_edits)
        try:
            workspace = self._pool.pop()
        except IndexError:
            workspace = np.empty(0, np.uint8)
        return workspace if workspace.nbytes >= size else np.empty(size, np.uint8)


def checked_vocab_size(vocab_size: int) -> int:
    """The vocabulary size itself; ParameterError outside 1 .. MAX_VOCAB_SIZE."""
    is_integer = isinstance(vocab_size, (int, np.integer)) and not isinstance(vocab_size, bool)
    if not is_integer or not 1 <= vocab_size <= MAX_VOCAB_SIZE:
        raise ParameterError.single("vocab_size", vocab_size, f"must be an integer from 1 to {MAX_VOCAB_SIZE:,}")
    return int(vocab_size)


def num_mask_words(vocab_size: int) -> int:
    """Words of 32 tokens in a packed bitmask."""
    return math.ceil(vocab_size / 32)


if _forced := os.environ.get("DECODING_ISA"):
    force_isa(_forced)
