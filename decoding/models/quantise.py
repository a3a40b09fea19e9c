"""Quantise weights at load: float32 rows to the blocks of GGUF files, by the formats' own rules.

A block is 32 weights of a row with a float16 scale d in front. The bytes equal those of the `gguf` package.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from decoding.errors import ParameterError, Problem

Bytes: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float32]

BLOCK_SIZE = 32


def quantize_rows(kind: str, rows: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the blocks of each row, uint8 [rows, bytes].

    kind: "q8_0" (34 bytes per block) or "q4_0" (18 bytes).
    rows: [rows, weights]; weights must be a multiple of 32.

    Raises ParameterError for another kind or shape, and for weights that are not finite or too large for a float16
    scale.
    """
    if kind not in QUANTIZERS:
        raise ParameterError.single("kind", kind, f"must be one of {', '.join(map(repr, QUANTIZERS))}")
    if rows.ndim != 2 or rows.shape[1] % BLOCK_SIZE or rows.dtype != np.float32:
        rule = f"must be float32 [rows, weights] with a multiple of {BLOCK_SIZE} weights"
        raise _error(f"{rows.dtype} {list(rows.shape)}", rule)
    blocks = rows.reshape(-1, BLOCK_SIZE)
    is_finite = np.isfinite(blocks)
    if not is_finite.all():
        raise _error(str(blocks[~is_finite][0]), "must be finite")
    scales, numbers = QUANTIZERS[kind](blocks)
    with np.errstate(over="ignore"):
        d = scales.astype("<f2")  # [blocks, 1]
    if not np.isfinite(d).all():
        raise _error(f"{np.abs(blocks).max():g}", "must be small enough for float16 scales")
    return np.concatenate([d.view(np.uint8), numbers], axis=1).reshape(len(rows), -1)


def _q8_0(blocks: Floats) -> tuple[Floats, Bytes]:
    """Return d = max|x| / 127 and q = x / d rounded half away from zero, int8."""
    d = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    scaled = blocks * _inverse(d)
    magnitude = np.floor(np.abs(scaled))
    magnitude += np.floor(np.float32(2) * (np.abs(scaled) - magnitude))
    return d, np.copysign(magnitude, scaled).astype(np.int8).view(np.uint8)


def _q4_0(blocks: Floats) -> tuple[Floats, Bytes]:
    """Return d = x / -8 for the x of the largest magnitude, and q = floor(x / d + 8.5), at most 15, two per byte.

    The first half of a block is in the low nibbles.
    """
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1)
    d = largest / np.float32(-8)
    q = np.minimum(np.trunc(blocks * _inverse(d) + np.float32(8.5)), np.float32(15)).astype(np.uint8)
    return d, q[:, : BLOCK_SIZE // 2] | q[:, BLOCK_SIZE // 2 :] << np.uint8(4)


def _inverse(d: Floats) -> Floats:
    """Return 1 / d, and 0 where that is not a finite number."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / d
    return np.where(np.isfinite(inverse), inverse, np.float32(0))


def _error(value: str, rule: str) -> ParameterError:
    return ParameterError([Problem("rows", value, rule)])


QUANTIZERS: dict[str, Callable[[Floats], tuple[Floats, Bytes]]] = {"q8_0": _q8_0, "q4_0": _q4_0}
"""float32 [blocks, 32] -> scales [blocks, 1] and the bytes of the numbers, by kind."""
