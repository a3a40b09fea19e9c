"""The dequantisers of GGUF's tensor types against those of the `gguf` package, to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoding.models.gguf_types import OTHER_TYPES, TENSOR_TYPES, TensorType

gguf = pytest.importorskip("gguf", reason="needs the gguf package (pip install 'decoding-engine[gguf]')")

KINDS = pytest.mark.parametrize("kind", TENSOR_TYPES.values(), ids=lambda kind: kind.name)


def _theirs(kind: TensorType, blocks: np.ndarray) -> np.ndarray:
    """Return the numbers that the `gguf` package reads from blocks."""
    with np.errstate(all="ignore"):
        numbers = gguf.quants.dequantize(blocks.reshape(-1), gguf.GGMLQuantizationType(kind.number))
    return numbers.reshape(len(blocks), kind.block_size)


def _ours(kind: TensorType, blocks: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return kind.dequantize(blocks)


@KINDS
def test_sizes_are_those_of_the_gguf_package(kind: TensorType) -> None:
    """A type's name, numbers per block and bytes per block are those of the `gguf` package."""
    theirs = gguf.GGMLQuantizationType(kind.number)
    assert theirs.name == kind.name
    assert gguf.GGML_QUANT_SIZES[theirs] == (kind.block_size, kind.block_bytes)
    assert kind.row_bytes(3 * kind.block_size) == 3 * kind.block_bytes


def test_other_types_are_named_as_in_the_gguf_package() -> None:
    """Every type of the `gguf` package is implemented or known by name."""
    names = {kind.value: kind.name for kind in gguf.GGMLQuantizationType}
    ours = {number: kind.name for number, kind in TENSOR_TYPES.items()} | OTHER_TYPES
    assert {number: ours.get(number) for number in names} == names


@KINDS
@given(seed=st.integers(0, 2**32 - 1))
def test_random_blocks(kind: TensorType, seed: int) -> None:
    """Random blocks, with infinite and NaN scales among them, dequantise to the `gguf` package's bits."""
    blocks = np.random.default_rng(seed).integers(0, 256, (5, kind.block_bytes), np.uint8)
    np.testing.assert_array_equal(_ours(kind, blocks).view(np.uint32), _theirs(kind, blocks).view(np.uint32))


@KINDS
@pytest.mark.parametrize("byte", [0x00, 0x01, 0x0F, 0x10, 0x3F, 0x7B, 0x7F, 0x80, 0xC0, 0xF0, 0xFB, 0xFF])
def test_corner_blocks(kind: TensorType, byte: int) -> None:
    """Blocks of extreme bit patterns dequantise to the `gguf` package's bits."""
    blocks = np.full((2, kind.block_bytes), byte, np.uint8)
    blocks[1, 1::2] ^= 0x3C
    np.testing.assert_array_equal(_ours(kind, blocks).view(np.uint32), _theirs(kind, blocks).view(np.uint32))


@KINDS
def test_changed_bytes_change_numbers_as_in_the_gguf_package(kind: TensorType) -> None:
    """Changing any byte of a block changes the numbers exactly as in the `gguf` package."""
    block = np.random.default_rng(1).integers(0, 60, (1, kind.block_bytes), np.uint8)
    changed = np.repeat(block, kind.block_bytes, axis=0)
    changed[np.arange(kind.block_bytes), np.arange(kind.block_bytes)] ^= 0x15
    ours, theirs = _ours(kind, changed), _theirs(kind, changed)
    np.testing.assert_array_equal(ours.view(np.uint32), theirs.view(np.uint32))
    assert (ours != _ours(kind, block)).any(axis=1).all()


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_dequantised_numbers_are_close(name: str) -> None:
    """Dequantised numbers differ from the originals by at most a step of the type."""
    kind = next(kind for kind in TENSOR_TYPES.values() if kind.name == name)
    numbers = np.random.default_rng(2).normal(0, 1, (4, 64)).astype(np.float32)
    stored = gguf.quants.quantize(numbers, gguf.GGMLQuantizationType(kind.number)).view(np.uint8)
    back = kind.dequantize(stored.reshape(-1, kind.block_bytes)).reshape(4, 64)
    step = {"F32": 0.0, "F16": 2e-3, "BF16": 2e-2, "Q8_0": 0.05}.get(name, 0.6)
    assert np.abs(back - numbers).max() <= step


def test_empty_tensors() -> None:
    """Zero blocks dequantise to an array of shape (0, block_size)."""
    for kind in TENSOR_TYPES.values():
        assert kind.dequantize(np.empty((0, kind.block_bytes), np.uint8)).shape == (0, kind.block_size)


@KINDS
@given(seed=st.integers(0, 2**32 - 1))
def test_finite_blocks(kind: TensorType, seed: int) -> None:
    """The function is_finite finds from the scales if all numbers of a block are finite."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (3, kind.block_bytes), np.uint8)
    for start in kind.floats:
        last = start + kind.infinity.itemsize - 1
        blocks[:, last] = rng.choice([0x7B, 0x7C, 0x7F, 0xFF, 0x00], 3)
    for block in blocks:
        assert kind.is_finite(block[None]) == bool(np.isfinite(_ours(kind, block[None])).all())


def test_the_documentation_lists_the_types() -> None:
    """The table in docs/models.md has every type with its block size and bits per weight."""
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith(("| F32", "| Q"))]
    listed = {
        name: (block, float(bits))
        for names, block, all_bits, _ in rows
        for name, bits in zip(names.removeprefix("| ").split(", "), all_bits.split(", "), strict=True)
    }
    assert listed == {
        kind.name: (str(kind.block_size), 8 * kind.block_bytes / kind.block_size) for kind in TENSOR_TYPES.values()
    }
