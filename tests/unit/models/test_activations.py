"""The nonlinearities against their formulas in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest

from decoding.models.activations import ACTIVATIONS, erf

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


@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name: str) -> None:
    """Within 1e-6 of the formula, or so much of its value, from far left to far right; the input stays as it was."""
    x = X.astype(np.float32)
    out = np.full_like(x, np.nan)
    with np.errstate(over="ignore"):  # as in the forward pass
        assert ACTIVATIONS[name](x, out) is out
    np.testing.assert_allclose(out, FORMULAS[name], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(x, X.astype(np.float32))


def test_every_activation_has_a_formula_here() -> None:
    """None is left out."""
    assert FORMULAS.keys() == ACTIVATIONS.keys()


def test_erf() -> None:
    """Within 1.5e-7, and odd to the bit."""
    x = X.astype(np.float32)
    found = erf(x, np.empty_like(x))
    np.testing.assert_allclose(found, [math.erf(v) for v in x.astype(float)], atol=1.5e-7, rtol=0)
    np.testing.assert_array_equal(erf(-x, np.empty_like(x)), -found)
