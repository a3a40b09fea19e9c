"""One `decoding_row`: what a row asks for, as C reads it, and the arrays that it points to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decoding.sampling.kernel.library import ffi, lib
from decoding.types import LogprobsMode

_MODES: dict[LogprobsMode, int] = {
    "raw": lib.DECODING_LOGPROBS_RAW,
    "penalized": lib.DECODING_LOGPROBS_PENALIZED,
    "scaled": lib.DECODING_LOGPROBS_SCALED,
    "final": lib.DECODING_LOGPROBS_FINAL,
}

_OFF: dict[str, float] = {
    "top_k": lib.DECODING_TOP_K_OFF,
    "top_n_sigma": math.inf,
    "dry_range": lib.DECODING_DRY_RANGE_ALL,
    "no_repeat_ngram_size": 0,
}
"""What None is called in C."""

_POINTERS = {"i": "int32_t[]", "u": "uint32_t[]", "f": "float[]"}


class Row:
    """A `decoding_row` in which everything is off, to be filled in; fields have the names of decoding.h.

    `struct` may also be written to directly where a field changes from token to token. One row is used by one call at
    a time.
    """

    __slots__ = ("_kept", "num_modes", "num_top", "struct")

    def __init__(self) -> None:
        self.struct: Any = ffi.new("decoding_row *")
        self.struct.struct_size = ffi.sizeof("decoding_row")
        self.num_modes = self.num_top = 0
        self._kept: dict[str, object] = {}
        self.set(temperature=1.0, top_p=1.0, typical_p=1.0, top_k=None, top_n_sigma=None, repetition_penalty=1.0)

    def copy(self) -> Row:
        """A row of its own that asks for the same and points to the same arrays."""
        row = Row()
        row.struct[0] = self.struct[0]
        row.num_modes, row.num_top, row._kept = self.num_modes, self.num_top, self._kept.copy()
        return row

    def set(self, **numbers: float | None) -> None:
        """Plain fields; floats are rounded to float32 here, None is "off"."""
        for field, number in numbers.items():
            setattr(self.struct, field, _OFF[field] if number is None else number)

    def set_report(self, modes: Sequence[LogprobsMode], num_top: int, *, want_raw: bool = False) -> None:
        """Modes of the log-probabilities to report (none: none), and of how many of the most likely tokens."""
        for place in range(lib.DECODING_MAX_MODES):
            self.struct.logprobs_modes[place] = _MODES[modes[place]] if place < len(modes) else 0
        self.num_modes = len(modes)
        self.struct.num_top = self.num_top = num_top
        if want_raw:
            self.struct.flags |= lib.DECODING_WANT_RAW_LOGPROB

    def force_token(self, token_id: int) -> None:
        """Report on this token instead of drawing one."""
        self.struct.flags |= lib.DECODING_FORCE_TOKEN
        self.struct.forced_token_id = token_id

    def use_mirostat(self) -> None:
        """Mirostat in place of the truncations; `struct.mirostat_mu` is its bound for the next token, >= 0."""
        self.struct.flags |= lib.DECODING_MIROSTAT

    def point(self, field: str, array: NDArray[Any] | None) -> None:
        """Let a field point to an int32, uint32 or float32 array; None for no array.

        C keeps the address only, so the memory lives as long as this row does, or until the field points elsewhere.
        """
        self._kept[field] = None if array is None else ffi.from_buffer(_POINTERS[array.dtype.kind], array)
        setattr(self.struct, field, ffi.NULL if array is None else self._kept[field])

    def set_bias(self, biases: Sequence[tuple[int, float]]) -> None:
        """Distinct token ids and what to add to their logits."""
        self.point("bias_token_ids", _int32(token_id for token_id, _ in biases))
        self.point("bias_values", np.array([value for _, value in biases], np.float32))
        self.struct.num_bias = len(biases)

    def set_ids(self, name: str, token_ids: Sequence[int]) -> None:
        """Token ids that are "banned" or "allowed"."""
        self.point(f"{name}_token_ids", _int32(token_ids))
        setattr(self.struct, f"num_{name}", len(token_ids))

    def set_sequences(self, name: str, sequences: Sequence[Sequence[int]]) -> None:
        """Sequences of token ids that are "dry_breakers" or "bad_words"."""
        target = getattr(self.struct, name)
        ids = _int32(token_id for sequence in sequences for token_id in sequence)
        lengths = _int32(len(sequence) for sequence in sequences)
        for field, array in (("token_ids", ids), ("lengths", lengths)):
            self._kept[f"{name}.{field}"] = buffer = ffi.from_buffer("int32_t[]", array)
            setattr(target, field, buffer)
        target.num_sequences = len(sequences)


def _int32(numbers: Iterable[int]) -> NDArray[np.int32]:
    return np.array(list(numbers), np.int32)
