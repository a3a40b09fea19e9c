"""Tensor types of GGUF files: how many numbers a block has, how many bytes, and which float32 numbers they mean.

The layouts are those of the ggml library (ggml-common.h). A block is a run of numbers of one row that share their
scales. Each dequantiser takes blocks as bytes, uint8 [blocks, bytes], and returns float32 [blocks, numbers]; it
rounds after every operation in the order of its formula, so that results are equal to the bit to those of the
`gguf` package.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Bytes: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float32]

_LOW_NIBBLE = np.uint8(15)


class TensorType(NamedTuple):
    """A type of tensor.

    number: its code in the file.
    block_size: numbers per block; a row has whole blocks.
    block_bytes: bytes per block.
    dequantize: uint8 [blocks, block_bytes] -> float32 [blocks, block_size].
    floats: offsets of a block's floating-point numbers, which all others are multiplied with.
    infinity: the bits of infinity in their format; a number that has all of them set is not finite.
    """

    name: str
    number: int
    block_size: int
    block_bytes: int
    dequantize: Callable[[Bytes], Floats]
    floats: tuple[int, ...] = (0,)
    infinity: np.unsignedinteger[Any] = np.uint16(0x7C00)

    def row_bytes(self, row_size: int) -> int:
        """Return the bytes of a row of `row_size` numbers, a multiple of block_size."""
        return row_size // self.block_size * self.block_bytes

    def is_finite(self, blocks: Bytes) -> bool:
        """Return True if no number of these blocks, uint8 [blocks, block_bytes], is NaN or infinite."""
        size = self.infinity.itemsize
        for start in self.floats:
            bits = blocks[:, start : start + size].view(self.infinity.dtype)
            if bool((bits & self.infinity == self.infinity).any()):
                return False
        return True


# Floating point


def _float32(blocks: Bytes) -> Floats:
    """Return the stored numbers."""
    return _field(blocks, 0, 1, "<f4")


def _float16(blocks: Bytes) -> Floats:
    """Return IEEE half precision, widened."""
    return _field(blocks, 0, 1, "<f2")


def _bfloat16(blocks: Bytes) -> Floats:
    """Return x whose upper 16 bits are stored and whose lower 16 bits are zero."""
    stored = np.ascontiguousarray(blocks).view("<u2")
    widened: Floats = np.left_shift(stored, np.uint32(16), dtype=np.uint32).view(np.float32)
    return widened


# 32 numbers per block, with a scale d and perhaps a minimum m


def _q8_0(blocks: Bytes) -> Floats:
    """Compute x = d q with int8 q: d (float16), q[32]."""
    d, q = _field(blocks, 0, 1, "<f2"), _field(blocks, 2, 32, "i1")
    return d * q


def _q4_0(blocks: Bytes) -> Floats:
    """Compute x = d (q - 8) with 4-bit q: d (float16), 16 bytes of nibbles."""
    d, q = _field(blocks, 0, 1, "<f2"), _nibbles(blocks[:, 2:18])
    return d * (q.astype(np.float32) - np.float32(8))


def _q4_1(blocks: Bytes) -> Floats:
    """Compute x = d q + m with 4-bit q: d, m (float16), 16 bytes of nibbles."""
    d, m, q = _field(blocks, 0, 1, "<f2"), _field(blocks, 2, 1, "<f2"), _nibbles(blocks[:, 4:20])
    return d * q.astype(np.float32) + m


def _q5_0(blocks: Bytes) -> Floats:
    """Compute x = d (q - 16) with 5-bit q: d (float16), 4 bytes of fifth bits, 16 bytes of nibbles."""
    d = _field(blocks, 0, 1, "<f2")
    q = _nibbles(blocks[:, 6:22]) | _fifth_bits(blocks[:, 2:6])
    return d * (q.astype(np.float32) - np.float32(16))


def _q5_1(blocks: Bytes) -> Floats:
    """Compute x = d q + m with 5-bit q: d, m (float16), 4 bytes of fifth bits, 16 bytes of nibbles."""
    d, m = _field(blocks, 0, 1, "<f2"), _field(blocks, 2, 1, "<f2")
    q = _nibbles(blocks[:, 8:24]) | _fifth_bits(blocks[:, 4:8])
    return d * q.astype(np.float32) + m


# 256 numbers per block ("k-quants"), in 8 groups of 32 or 16 groups of 16 with integer scales of their own


def _q4_k(blocks: Bytes) -> Floats:
    """Compute x = (d s) q - (dmin m) with 4-bit q.

    The fields are d and dmin (float16), 12 bytes of 6-bit s[8] and m[8], and 128 bytes of nibbles.
    """
    scales, minima = _scales_and_minima(blocks)
    q = _group_nibbles(blocks[:, 16:144])  # [blocks, 8, 32]
    return (scales * q - minima).reshape(len(blocks), 256)


def _q5_k(blocks: Bytes) -> Floats:
    """Compute x = (d s) q - (dmin m) with 5-bit q: as Q4_K, with 32 bytes of fifth bits before the nibbles.

    Bit g of byte i belongs to number i of group g.
    """
    scales, minima = _scales_and_minima(blocks)
    groups = np.arange(8, dtype=np.uint8)[:, None]
    fifth = (blocks[:, None, 16:48] >> groups) & np.uint8(1)  # [blocks, 8, 32]
    q = _group_nibbles(blocks[:, 48:176]) | (fifth << np.uint8(4))
    return (scales * q - minima).reshape(len(blocks), 256)


def _q6_k(blocks: Bytes) -> Floats:
    """Compute x = (d s) (q - 32) with 6-bit q.

    The fields are 128 bytes of nibbles, 64 bytes of bit pairs, int8 s[16], and d (float16). Each half of 128 numbers
    has 64 bytes of nibbles (64 low ones, then 64 high ones) and 32 bytes of bit pairs (pair g of byte i belongs to
    number i of the half's group g of 32).
    """
    num_blocks = len(blocks)
    low = blocks[:, :128].reshape(num_blocks, 2, 64)
    nibbles = np.stack([low & _LOW_NIBBLE, low >> np.uint8(4)], axis=2)  # [blocks, half, low or high, 64]
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    pairs = (blocks[:, 128:192].reshape(num_blocks, 2, 1, 32) >> shifts) & np.uint8(3)  # [blocks, half, group, 32]
    q = nibbles.reshape(num_blocks, 256) | (pairs.reshape(num_blocks, 256) << np.uint8(4))
    scales = _field(blocks, 208, 1, "<f2") * _field(blocks, 192, 16, "i1")  # [blocks, 16]
    centred = (q.astype(np.int8) - np.int8(32)).astype(np.float32).reshape(num_blocks, 16, 16)
    numbers: Floats = (scales[:, :, None] * centred).reshape(num_blocks, 256)
    return numbers


# Parts of blocks


def _field(blocks: Bytes, start: int, count: int, dtype: str) -> Floats:
    """Return `count` stored numbers of each block from byte `start` on, as float32 [blocks, count]."""
    item: np.dtype[Any] = np.dtype(dtype)
    stored = np.ascontiguousarray(blocks[:, start : start + count * item.itemsize])
    return stored.view(item).astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """Return the low nibbles, then the high ones: uint8 [blocks, bytes] -> [blocks, 2 * bytes]."""
    return np.concatenate([packed & _LOW_NIBBLE, packed >> np.uint8(4)], axis=1)


def _fifth_bits(packed: Bytes) -> Bytes:
    """Return bit i of 32, as 16 or 0, for number i: uint8 [blocks, 4] -> [blocks, 32]."""
    return np.unpackbits(packed, axis=1, bitorder="little") << np.uint8(4)


def _group_nibbles(packed: Bytes) -> Bytes:
    """Return 8 groups of 32, two from each 32 bytes (low nibbles first): uint8 [blocks, 128] -> [blocks, 8, 32]."""
    pairs = packed.reshape(len(packed), 4, 32)
    return np.stack([pairs & _LOW_NIBBLE, pairs >> np.uint8(4)], axis=2).reshape(len(packed), 8, 32)


def _scales_and_minima(blocks: Bytes) -> tuple[Floats, Floats]:
    """Return d s and dmin m of Q4_K and Q5_K, each float32 [blocks, 8, 1].

    The first four s and m are the low 6 bits of bytes 0..3 and 4..7. The last four have their low 4 bits in bytes
    8..11 (s in the low nibbles, m in the high ones) and their high 2 bits above the first four.
    """
    packed = blocks[:, 4:16].reshape(len(blocks), 3, 4)
    first, second, rest = packed[:, 0], packed[:, 1], packed[:, 2]
    six, two = np.uint8(63), np.uint8(6)
    scales = [first & six, (rest & _LOW_NIBBLE) | ((first >> two) << np.uint8(4))]
    minima = [second & six, (rest >> np.uint8(4)) | ((second >> two) << np.uint8(4))]
    d, dmin = _field(blocks, 0, 1, "<f2"), _field(blocks, 2, 1, "<f2")
    return (
        (d * np.concatenate(scales, axis=1).astype(np.float32))[:, :, None],
        (dmin * np.concatenate(minima, axis=1).astype(np.float32))[:, :, None],
    )


TENSOR_TYPES = {
    kind.number: kind
    for kind in (
        TensorType("F32", 0, 1, 4, _float32, infinity=np.uint32(0x7F800000)),
        TensorType("F16", 1, 1, 2, _float16),
        TensorType("Q4_0", 2, 32, 18, _q4_0),
        TensorType("Q4_1", 3, 32, 20, _q4_1, (0, 2)),
        TensorType("Q5_0", 6, 32, 22, _q5_0),
        TensorType("Q5_1", 7, 32, 24, _q5_1, (0, 2)),
        TensorType("Q8_0", 8, 32, 34, _q8_0),
        TensorType("Q4_K", 12, 256, 144, _q4_k, (0, 2)),
        TensorType("Q5_K", 13, 256, 176, _q5_k, (0, 2)),
        TensorType("Q6_K", 14, 256, 210, _q6_k, (208,)),
        TensorType("BF16", 30, 1, 2, _bfloat16, infinity=np.uint16(0x7F80)),
    )
}
"""The types that can be read, by their code in the file."""

_OTHER_NAMES = (
    "9=Q8_1 10=Q2_K 11=Q3_K 15=Q8_K 16=IQ2_XXS 17=IQ2_XS 18=IQ3_XXS 19=IQ1_S 20=IQ4_NL 21=IQ3_S 22=IQ2_S 23=IQ4_XS"
    " 24=I8 25=I16 26=I32 27=I64 28=F64 29=IQ1_M 31=Q4_0_4_4 32=Q4_0_4_8 33=Q4_0_8_8"
    " 34=TQ1_0 35=TQ2_0 39=MXFP4 40=NVFP4 41=Q1_0 42=Q2_0"
)
OTHER_TYPES = {int(number): name for number, name in (pair.split("=") for pair in _OTHER_NAMES.split())}
"""The names of types that are not implemented, by their code, for error messages."""
