"""The compiled module: its versions, its instruction sets, and texts for its status codes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from decoding.errors import InstructionSetError, KernelError
from decoding.validation import checked_integer

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
    """Return the instruction sets that this build has and this CPU runs, widest first."""
    names: list[str] = []
    index = 0
    while (name := lib.decoding_isa_name(index)) != ffi.NULL:
        if lib.decoding_isa_available(name):
            names.append(ffi.string(name).decode())
        index += 1
    return tuple(names)


def active_isa() -> str:
    """Return the name of the instruction set in use."""
    name: str = ffi.string(lib.decoding_active_isa()).decode()
    return name


def force_isa(name: str | None) -> None:
    """Use this instruction set from now on in the whole process; None is the widest.

    Raise InstructionSetError if the name is unknown, or if the CPU or the build does not have the set.
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
    """Return the four 64-bit words of Philox4x64-10 for a counter of four words and a key of two."""
    out = ffi.new("uint64_t[4]")
    lib.decoding_philox4x64(ffi.new("uint64_t[4]", list(counter)), ffi.new("uint64_t[2]", list(key)), out)
    return (out[0], out[1], out[2], out[3])


def status_message(status: int) -> str:
    """Return the text for a DECODING_* status."""
    text: str = ffi.string(lib.decoding_status_message(status)).decode()
    return text


def checked_vocab_size(vocab_size: int) -> int:
    """Return the vocabulary size. Raise ParameterError if it is not from 1 to MAX_VOCAB_SIZE."""
    return checked_integer("vocab_size", vocab_size, 1, MAX_VOCAB_SIZE)


def num_mask_words(vocab_size: int) -> int:
    """Return the number of 32-bit words in a packed bitmask."""
    return math.ceil(vocab_size / 32)


if _forced := os.environ.get("DECODING_ISA"):
    force_isa(_forced)
