"""The nonlinearities of the MLP, under the names that checkpoints give them.

Each takes a float32 or float64 array of any shape and returns a new one of the same shape and type.
"""

# numpy gives most operations on arrays of either float type the type Any.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.floating[Any]]
Activation: TypeAlias = Callable[[Array], Array]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def gelu(x: Array) -> Array:
    """Return GELU (Hendrycks and Gimpel 2016): x Phi(x), where Phi(x) = (1 + erf(x / sqrt(2))) / 2."""
    phi = (1.0 + _erf(x / math.sqrt(2.0))) / 2.0
    return x * phi.astype(x.dtype)


def gelu_tanh(x: Array) -> Array:
    """Return GELU's approximation in its paper: x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2."""
    return x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))) / 2.0


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x))."""
    return 1.0 / (1.0 + np.exp(-x))


def silu(x: Array) -> Array:
    """Return SiLU (Elfwing et al. 2017), also called swish: x sigmoid(x)."""
    return x / (1.0 + np.exp(-x))


def quick_gelu(x: Array) -> Array:
    """Return GELU's approximation in its paper, x sigmoid(1.702 x)."""
    return x / (1.0 + np.exp(-1.702 * x))


def relu(x: Array) -> Array:
    """Return max(x, 0)."""
    return np.maximum(x, 0.0)


def leaky_relu(x: Array) -> Array:
    """Return max(x, 0.01 x) (Maas et al. 2013)."""
    return np.maximum(x, 0.01 * x)


def relu2(x: Array) -> Array:
    """Return squared ReLU (So et al. 2021): max(x, 0)^2."""
    return np.maximum(x, 0.0) ** 2


def relu6(x: Array) -> Array:
    """Return min(max(x, 0), 6)."""
    return np.clip(x, 0.0, 6.0)


def mish(x: Array) -> Array:
    """Return Mish (Misra 2019): x tanh(log(1 + exp(x)))."""
    return x * np.tanh(np.logaddexp(x, x.dtype.type(0.0)))


def hardswish(x: Array) -> Array:
    """Return hard swish (Howard et al. 2019): x clip(x + 3, 0, 6) / 6."""
    return x * np.clip(x + 3.0, 0.0, 6.0) / 6.0


def clipped_gelu(x: Array) -> Array:
    """Return GELU, clipped to -10..10 (I-BERT, Kim et al. 2021)."""
    return np.clip(gelu(x), -10.0, 10.0)


def identity(x: Array) -> Array:
    """Return x itself."""
    return x


def tanh(x: Array) -> Array:
    """Return the hyperbolic tangent."""
    return np.tanh(x)


ACTIVATIONS: dict[str, Activation] = {
    "gelu": gelu,
    "gelu_10": clipped_gelu,
    "gelu_accurate": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_new": gelu_tanh,
    "gelu_python": gelu,
    "gelu_python_tanh": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "hardswish": hardswish,
    "leaky_relu": leaky_relu,
    "linear": identity,
    "mish": mish,
    "quick_gelu": quick_gelu,
    "relu": relu,
    "relu2": relu2,
    "relu6": relu6,
    "sigmoid": sigmoid,
    "silu": silu,
    "swish": silu,
    "tanh": tanh,
}
"""Activations by `hidden_act` of config.json; the names are those of transformers."""
