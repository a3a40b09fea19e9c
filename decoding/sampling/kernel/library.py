"""The compiled module: what it is, which instruction sets it has, what its statuses mean."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from decoding.errors import InstructionSetError, KernelError, ParameterError

try:
    from decoding._kernel import ffi, lib
except ImportError as error:
    raise KernelError(
        "the compiled module decoding._kernel is missing: install the package (pip install .); a source folder on"
        f" sys.path hides an installed one ({error})"
    ) from error

__all__ = [
    "ABI_VERSION",
    "MAX_VOCAB_SIZE",
    "STREAM_VERSION",
    "active_isa",
    "available_isas",
    "checked_vocab_size",
    "ffi",
    "force_isa",
    "forced_isa",
    "lib",
    "num_mask_words",
    "philox",
    "status_message",
]

ABI_VERSION: int = lib.DECODING_ABI_VERSION
STREAM_VERSION: int = lib.DECODING_STREAM_VERSION
MAX_VOCAB_SIZE: int = lib.DECODING_MAX_VOCAB_SIZE


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
            f"DECODING_ISA={name!r}: {status_message(status)} (this machine has: {', '.join(available_isas())})"
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


def status_message(status: int) -> str:
    """A DECODING_* status in words."""
    text: str = ffi.string(lib.decoding_status_message(status)).decode()
    return text


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
