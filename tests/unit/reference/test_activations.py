"""The activations of the reference against independent formulas."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from decoding.reference.activations import ACTIVATIONS

X = np.concatenate([np.linspace(-12, 12, 4801), [0.0, 1e-30, -1e-30, 300.0, -300.0]])
NORMAL = np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in X])
TANH = 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (X + 0.044715 * X**3)))
SOFTPLUS = np.logaddexp(X, 0)
FORMULAS = {
    "gelu": X * NORMAL,
    "gelu_10": np.clip(X * NORMAL, -10, 10),
    "gelu_accurate": X * TANH,
    "gelu_fast": X * TANH,
    "gelu_new": X * TANH,
    "gelu_python": X * NORMAL,
    "gelu_python_tanh": X * TANH,
    "gelu_pytorch_tanh": X * TANH,
    "hardswish": X * np.clip(X + 3, 0, 6) / 6,
    "leaky_relu": np.where(X > 0, X, 0.01 * X),
    "linear": X,
    "mish": X * np.tanh(SOFTPLUS),
    "quick_gelu": X * np.exp(-np.logaddexp(0, -1.702 * X)),
    "relu": np.maximum(X, 0),
    "relu2": np.maximum(X, 0) ** 2,
    "relu6": np.clip(X, 0, 6),
    "sigmoid": np.exp(-np.logaddexp(0, -X)),
    "silu": X * np.exp(-np.logaddexp(0, -X)),
    "swish": X * np.exp(-np.logaddexp(0, -X)),
    "tanh": np.tanh(X),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float64, 1e-14)])
@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name: str, dtype: Any, tolerance: float) -> None:
    """Each activation is close to its formula, from -300 to 300, in the input's dtype."""
    x = X.astype(dtype)
    with np.errstate(over="ignore"):  # as in the forward pass
        found = ACTIVATIONS[name](x)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, FORMULAS[name], rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(x, X.astype(dtype))


def test_every_activation_has_a_formula_here() -> None:
    """Every activation of the reference has a formula in this file."""
    assert FORMULAS.keys() == ACTIVATIONS.keys()
