"""Quantised weights for tests: random blocks, and matmuls and tiny networks that use them."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from decoding.models.native_matrix import PackedMatrix
from decoding.models.native_names import BLOCKS
from decoding.models.native_plan import KV_BLOCK, Forward, KVPool, Plan, PlanLayer, Step, ThreadPool
from decoding.reference.quantised import matmul as reference_matmul

Array = NDArray[Any]

SCALES_AT = {"q4_1": (0, 2), "q5_1": (0, 2), "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,)}
"""The bytes of a block at which a float16 begins; byte 0 alone for the other types."""

TYPICAL = {"q8_0": 74, "q4_0": 5, "q4_1": 9, "q5_0": 9, "q5_1": 18, "q4_k": 320, "q5_k": 650, "q6_k": 1370}
"""The root mean square of a weight made of random bits, as a multiple of d."""


def random_blocks(weight_type: str, num_rows: int, num_inputs: int, seed: int = 0) -> Array:
    """Return rows of random weights that keep the size of their inputs, uint8 [num_rows, bytes]."""
    generator = np.random.default_rng(seed)
    size, num_bytes = BLOCKS[weight_type]
    blocks = generator.integers(0, 256, (num_rows, num_inputs // size, num_bytes), np.uint8)
    scales = generator.uniform(-1, 1, (num_rows, num_inputs // size, 2)) / (
        TYPICAL[weight_type] * math.sqrt(num_inputs)
    )
    return with_scales(weight_type, blocks.reshape(num_rows, -1), scales.astype(np.float16))


def with_scales(weight_type: str, rows: Array, scales: Array) -> Array:
    """Return the rows with other float16 scales.

    scales: [rows, blocks, 2], or a shape that broadcasts to it; types with one scale ignore the second.
    """
    blocks = rows.reshape(len(rows), -1, BLOCKS[weight_type][1]).copy()
    every = np.broadcast_to(scales.astype("<f2"), (*blocks.shape[:2], 2))
    for index, start in enumerate(SCALES_AT.get(weight_type, (0,))):
        blocks[:, :, start : start + 2] = np.ascontiguousarray(every[:, :, index : index + 1]).view(np.uint8)
    return blocks.reshape(len(rows), -1)


def dequantised(weight_type: str, rows: Array) -> Array:
    """Return the float32 numbers of rows of blocks, as the gguf package reads them."""
    gguf = pytest.importorskip("gguf")
    numbers: Array = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[weight_type.upper()])
    return numbers


def packed(weight_type: str, rows: Array, bias: Array | None = None, rest: PackedMatrix | None = None) -> PackedMatrix:
    """Return a matrix of rows of blocks."""
    size, num_bytes = BLOCKS[weight_type]
    matrix = PackedMatrix(weight_type, len(rows), rows.shape[1] // num_bytes * size, bias, rest)
    matrix.put(0, rows)
    return matrix


def zeros(num_outputs: int, num_inputs: int) -> PackedMatrix:
    """Return a matrix of float32 zeros."""
    matrix = PackedMatrix("float32", num_outputs, num_inputs)
    matrix.put(0, np.zeros((num_outputs, num_inputs), np.float32))
    return matrix


def native_matmul(inputs: Array, matrix: PackedMatrix, threads: int | None = None) -> Array:
    """Multiply rows of inputs by a matrix, as the head of a network that does nothing else.

    The rows are the network's position embeddings; each row is a separate sequence.
    """
    num_rows, size = inputs.shape
    layer = PlanLayer(zeros(3, size), zeros(size, 1), zeros(1, size), zeros(size, 1), scale=1.0)
    plan = Plan(
        vocab_size=matrix.num_outputs,
        hidden_size=size,
        intermediate_size=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=1,
        activation="linear",
        gated=False,
        residual_scale=0.0,
        embedding=np.zeros((matrix.num_outputs, size), np.float32),
        embedding_type="float32",
        layers=[layer],
        norm=None,
        head=matrix,
        positions=inputs,
    )
    num_blocks = -(-num_rows // KV_BLOCK)
    cache = KVPool(plan, num_rows * num_blocks)
    cache.memory[:] = 0
    tables = np.arange(num_rows * num_blocks, dtype=np.int32).reshape(num_rows, num_blocks)
    rows = np.arange(num_rows, dtype=np.int32)
    step = Step(np.zeros(num_rows, np.int32), np.ones(num_rows, np.int32), rows, list(tables), rows)
    return Forward(plan, None if threads is None else ThreadPool(threads))(step, cache)


def quantised_network(kit: SimpleNamespace, weight_type: str, **changes: Any) -> Any:
    """Return a tiny network whose weights are all blocks, including the embedding."""

    class QuantisedNetwork(kit.Network):  # type: ignore[misc, name-defined]
        def _linear(self, numbers: Any, outputs: int, inputs: int) -> SimpleNamespace:
            self.num_made = getattr(self, "num_made", 0) + 1
            blocks = random_blocks(weight_type, outputs, inputs, seed=self.num_made)
            bias = numbers(outputs) * np.float32(0.25)
            return SimpleNamespace(blocks=blocks, weight=dequantised(weight_type, blocks), bias=bias)

        def _packed(self, linear: SimpleNamespace) -> PackedMatrix:
            return packed(weight_type, linear.blocks, linear.bias)

        def _plan(self) -> Plan:
            self.embedding = random_blocks(weight_type, self.shape.vocab_size, self.shape.hidden_size, seed=99)
            plan: Plan = super()._plan()
            self.blocks, self.embedding = self.embedding, dequantised(weight_type, self.embedding)
            return plan

    shape = kit.Shape(
        weight_type=weight_type, hidden_size=256, intermediate_size=512, num_heads=8, head_dim=32, rope_pairs=(16,)
    )
    return QuantisedNetwork(kit.replace(shape, **changes))


def reference_logits(kit: SimpleNamespace, network: Any, tokens: list[int]) -> Array:
    """Return a network's logits in float64, with quantised inputs of the matmuls."""

    class Reference(kit.Float64Network):  # type: ignore[misc, name-defined]
        def _linear(self, linear: SimpleNamespace, x: Array) -> Array:
            return reference_matmul(x.astype(np.float32), linear.weight, linear.bias)

    logits: Array = Reference(network)(tokens)
    return logits


@pytest.fixture(params=list(BLOCKS))
def weight_type(request: pytest.FixtureRequest) -> str:
    """Return a quantised type, once per type."""
    return str(request.param)


@pytest.fixture
def blocks() -> SimpleNamespace:
    """Return the functions of this file."""
    return SimpleNamespace(**globals())
