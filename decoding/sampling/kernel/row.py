"""KernelRow: a `decoding_row`, i.e. the parameters of one row of logits in C's layout, and their arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decoding.params import PARAMETERS
from decoding.sampling.kernel.library import ffi, lib
from decoding.sampling.stages import PIPELINE
from decoding.sequence_table import SequenceTable
from decoding.types import LogprobsMode, PLessRule

_MODES: dict[LogprobsMode, int] = {
    "raw": lib.DECODING_LOGPROBS_RAW,
    "penalized": lib.DECODING_LOGPROBS_PENALIZED,
    "scaled": lib.DECODING_LOGPROBS_SCALED,
    "final": lib.DECODING_LOGPROBS_FINAL,
}

_COMPUTED = (
    "min_tokens",
    "mirostat_tau",
    "mirostat_eta",
    "mirostat_version",
    "adaptive_p_target",
    "adaptive_p_decay",
)
"""Numbers of the table that C does not read: the state computes values from them for each token."""

NUMBERS: tuple[str, ...] = tuple(
    name
    for stage in PIPELINE
    if stage.has_place
    for name in stage.parameters
    if PARAMETERS[name].is_number and name not in _COMPUTED
)
"""Parameters that the kernel reads unchanged, under the same names."""

_OFF = {name: PARAMETERS[name].c_none for name in NUMBERS if PARAMETERS[name].default is None}
"""The number that stands for None in C."""

_NEW_ROW: dict[str, Any] = {"struct_size": ffi.sizeof("decoding_row"), "flags": lib.DECODING_ALLOW_ZEROS} | {
    name: _OFF[name] if name in _OFF else PARAMETERS[name].default for name in NUMBERS
}
"""Fields of a row with every parameter at its default; all others are 0. No field of this row is zero by omission."""

_POINTERS = {"i": "int32_t[]", "u": "uint32_t[]", "f": "float[]"}


class KernelRow:
    """A `decoding_row` with every parameter at its default, to be filled in; fields have the names of decoding.h.

    Fields that change from token to token may be written to `struct` directly. A row is used by one call at a time.
    """

    __slots__ = ("_kept", "num_chosen", "num_modes", "num_top", "struct")

    def __init__(self) -> None:
        self.struct: Any = ffi.new("decoding_row *", _NEW_ROW)
        self.num_modes = self.num_top = self.num_chosen = 0
        self._kept: dict[str, object] = {}

    def copy(self) -> KernelRow:
        """Return another row with the same parameters that points to the same arrays."""
        row = KernelRow()
        row.struct[0] = self.struct[0]
        row.num_modes, row.num_top, row.num_chosen = self.num_modes, self.num_top, self.num_chosen
        row._kept = self._kept.copy()
        return row

    def set(self, **numbers: float | None) -> None:
        """Set number fields. Floats are rounded to float32; None becomes the number that means "off"."""
        for field, number in numbers.items():
            setattr(self.struct, field, _OFF[field] if number is None else number)

    def set_report(
        self, modes: Sequence[LogprobsMode], num_top: int, *, chosen: Sequence[int] = (), want_raw: bool = False
    ) -> None:
        """Ask for log-probabilities in these modes, if any.

        num_top: also those of so many of the most likely tokens. chosen: also those of these ids, in the first mode.
        """
        for index in range(lib.DECODING_MAX_MODES):
            self.struct.logprobs_modes[index] = _MODES[modes[index]] if index < len(modes) else 0
        self.num_modes = len(modes)
        self.struct.num_top = self.num_top = num_top
        self.point("chosen_token_ids", _int32(chosen))
        self.struct.num_chosen = self.num_chosen = len(chosen)
        if want_raw:
            self.struct.flags |= lib.DECODING_WANT_RAW_LOGPROB

    def force_token(self, token_id: int) -> None:
        """Report on this token instead of drawing one."""
        self.struct.flags |= lib.DECODING_FORCE_TOKEN
        self.struct.forced_token_id = token_id

    def use_mirostat(self) -> None:
        """Replace the truncations by mirostat; `struct.mirostat_mu` is its bound for the next token, >= 0."""
        self.struct.flags |= lib.DECODING_MIROSTAT

    def use_first_mirostat(self) -> None:
        """Let mirostat keep a number of tokens, as its version 1 does."""
        self.struct.flags |= lib.DECODING_MIROSTAT_V1

    def use_adaptive_p(self) -> None:
        """Prefer tokens near the probability `struct.adaptive_p_center`, 0 to 1."""
        self.struct.flags |= lib.DECODING_ADAPTIVE_P

    def use_p_less(self, rule: PLessRule) -> None:
        """Drop the tokens below p-less's threshold."""
        self.struct.flags |= lib.DECODING_P_LESS if rule == "plain" else lib.DECODING_P_LESS_NORM

    def point(self, field: str, array: NDArray[Any] | None) -> None:
        """Let a field point to an int32, uint32 or float32 array; None sets a null pointer.

        C keeps only the address. The row keeps the array alive until the field points elsewhere.
        """
        self._kept[field] = None if array is None else ffi.from_buffer(_POINTERS[array.dtype.kind], array)
        setattr(self.struct, field, ffi.NULL if array is None else self._kept[field])

    @property
    def reads_history(self) -> bool:
        """Return True if the parameters of the row need a TokenHistory."""
        return bool(lib.decoding_row_reads(self.struct))

    def keep(self, name: str, memory: object) -> None:
        """Keep memory alive that the row points to, until another one is kept under this name."""
        self._kept[name] = memory

    def set_bias(self, biases: Sequence[tuple[int, float]]) -> None:
        """Set distinct token ids and the numbers to add to their logits."""
        self.point("bias_token_ids", _int32(token_id for token_id, _ in biases))
        self.point("bias_values", np.array([value for _, value in biases], np.float32))
        self.struct.num_bias = len(biases)

    def set_ids(self, name: str, token_ids: Sequence[int]) -> None:
        """Set the token ids that are "banned" or "allowed"."""
        self.point(f"{name}_token_ids", _int32(token_ids))
        setattr(self.struct, f"num_{name}", len(token_ids))

    def set_sequences(self, name: str, sequences: Sequence[Sequence[int]]) -> None:
        """Set the sequences of token ids that are "dry_breakers" or "bad_words"."""
        target = getattr(self.struct, name)
        table = sequences if isinstance(sequences, SequenceTable) else SequenceTable(sequences)
        for field, array in (("token_ids", table.ids), ("lengths", table.lengths)):
            self._kept[f"{name}.{field}"] = buffer = ffi.from_buffer("int32_t[]", array)
            setattr(target, field, buffer)
        target.num_sequences = len(sequences)


def _int32(numbers: Iterable[int]) -> NDArray[np.int32]:
    return np.array(list(numbers), np.int32)
