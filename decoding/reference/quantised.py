"""Matrix multiplication with quantised weights: the arithmetic of csrc/forward/quantised_body.h in plain numpy.

Weights are stored as small integers with scales per block. Inputs are quantised too, to int8 in groups of 32. So the
products of a group are integers, and their sum is exact in every order. The rest is one multiply-add per group, in
float64 here and in float32 in C.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

GROUP_SIZE = 32
SMALLEST = np.float32(2.0**-100)
"""Smallest magnitude of a group that is not taken as zero: 127 divided by a smaller one might overflow."""


class QuantisedInputs(NamedTuple):
    """Inputs as `scales * q`.

    q: int8 [rows, groups, 32], from -127 to 127.
    scales: float32 [rows, groups, 1]; NaN for a group with a NaN or an infinity, whose q are 0.
    """

    q: NDArray[np.int8]
    scales: NDArray[np.float32]

    def values(self) -> NDArray[np.float64]:
        """Return the numbers that are multiplied, [rows, inputs]."""
        numbers: NDArray[np.float64] = self.scales.astype(np.float64) * self.q
        return numbers.reshape(len(numbers), -1)


def quantise_inputs(inputs: NDArray[np.float32]) -> QuantisedInputs:
    """Quantise rows of inputs, [rows, inputs] with a multiple of 32 inputs.

    With a the largest magnitude of a group, q = x * (127 / a) rounded half to even, and the scale is a / 127.
    """
    groups = inputs.reshape(len(inputs), -1, GROUP_SIZE)  # [rows, groups, 32]
    largest = np.abs(groups).max(axis=2, keepdims=True)  # [rows, groups, 1]; NaN if there is one
    is_finite, is_zero = np.isfinite(largest), largest < SMALLEST
    divisor = np.where(is_finite & ~is_zero, largest, np.float32(1))
    scaled = np.where(is_finite & ~is_zero, groups, np.float32(0)) * (np.float32(127) / divisor)
    scales = np.where(is_zero, np.float32(0), largest / np.float32(127))
    return QuantisedInputs(
        q=np.rint(scaled).astype(np.int8), scales=np.where(is_finite, scales, np.float32(np.nan)).astype(np.float32)
    )


def matmul(
    inputs: NDArray[np.float32], weights: NDArray[np.floating[Any]], bias: NDArray[np.float32] | None = None
) -> NDArray[np.float64]:
    """Return quantised inputs times dequantised weights, plus the bias, in float64.

    inputs: [rows, inputs].
    weights: [outputs, inputs], dequantised.
    bias: [outputs].
    """
    outputs: NDArray[np.float64] = quantise_inputs(inputs).values() @ weights.astype(np.float64).T  # [rows, outputs]
    return outputs if bias is None else outputs + bias
