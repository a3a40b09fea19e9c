"""The nonlinearities of the MLP, under the names that checkpoints give them.

Each takes a float32 array of any shape and writes its result to another of that shape, which it also returns.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float32]
Activation: TypeAlias = Callable[[Array, Array], Array]

_ONE, _HALF, _ZERO = np.float32(1.0), np.float32(0.5), np.float32(0.0)
_ERF = (1.12837971, 0.102765481, -1.84383018e-4, -6.2572008e-4, 8.97127214e-5, -5.98569686e-6, 1.5895914e-7)
_ERF_IS_ONE = 3.9
_ROOT = math.sqrt(2 / math.pi)


def erf(x: Array, out: Array) -> Array:
    """The error function, to 1.4e-7: tanh(x p(x^2)), p fitted to atanh(erf(x)) / x for the smallest error in erf."""
    square = np.minimum(x * x, np.float32(_ERF_IS_ONE**2))
    out[...] = _ERF[-1]
    for coefficient in _ERF[-2::-1]:
        out *= square
        out += np.float32(coefficient)
    out *= x
    return np.tanh(out, out=out)


def gelu(x: Array, out: Array) -> Array:
    """GELU (Hendrycks and Gimpel 2016): x times the standard normal distribution function."""
    erf(x * np.float32(math.sqrt(0.5)), out)
    out += _ONE
    out *= x
    out *= _HALF
    return out


def gelu_tanh(x: Array, out: Array) -> Array:
    """The same paper's approximation of it by a tanh."""
    np.multiply(x, x, out=out)
    out *= np.float32(0.044715 * _ROOT)
    out += np.float32(_ROOT)
    out *= x
    np.tanh(out, out=out)
    out += _ONE
    out *= x
    out *= _HALF
    return out


def _sigmoid_product(x: Array, slope: float, out: Array) -> Array:
    """The result is x / (1 + exp(-slope x))."""
    np.multiply(x, np.float32(-slope), out=out)
    np.exp(out, out=out)
    out += _ONE
    return np.divide(x, out, out=out)


def silu(x: Array, out: Array) -> Array:
    """SiLU (Elfwing et al. 2017), also called swish: x sigmoid(x)."""
    return _sigmoid_product(x, 1.0, out)


def quick_gelu(x: Array, out: Array) -> Array:
    """GELU's approximation by x sigmoid(1.702 x), from its paper."""
    return _sigmoid_product(x, 1.702, out)


def sigmoid(x: Array, out: Array) -> Array:
    """1 / (1 + exp(-x))."""
    np.negative(x, out=out)
    np.exp(out, out=out)
    out += _ONE
    return np.reciprocal(out, out=out)


def relu(x: Array, out: Array) -> Array:
    """max(x, 0)."""
    return np.maximum(x, _ZERO, out=out)


def relu2(x: Array, out: Array) -> Array:
    """Squared ReLU (So et al. 2021): max(x, 0)^2."""
    return np.square(relu(x, out), out=out)


def mish(x: Array, out: Array) -> Array:
    """Mish (Misra 2019): x tanh(log(1 + exp(x)))."""
    np.logaddexp(x, _ZERO, out=out)
    np.tanh(out, out=out)
    out *= x
    return out


def hardswish(x: Array, out: Array) -> Array:
    """Hard swish (Howard et al. 2019): x clip(x + 3, 0, 6) / 6."""
    np.clip(x + np.float32(3.0), _ZERO, np.float32(6.0), out=out)
    out *= x
    out /= np.float32(6.0)
    return out


def _clipped_gelu(x: Array, out: Array) -> Array:
    return np.clip(gelu(x, out), np.float32(-10.0), np.float32(10.0), out=out)


def _identity(x: Array, out: Array) -> Array:
    out[...] = x
    return out


ACTIVATIONS: dict[str, Activation] = {
    "gelu": gelu,
    "gelu_10": _clipped_gelu,
    "gelu_accurate": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_new": gelu_tanh,
    "gelu_python": gelu,
    "gelu_python_tanh": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "hardswish": hardswish,
    "leaky_relu": lambda x, out: np.maximum(x, x * np.float32(0.01), out=out),
    "linear": _identity,
    "mish": mish,
    "quick_gelu": quick_gelu,
    "relu": relu,
    "relu2": relu2,
    "relu6": lambda x, out: np.clip(x, _ZERO, np.float32(6.0), out=out),
    "sigmoid": sigmoid,
    "silu": silu,
    "swish": silu,
    "tanh": lambda x, out: np.tanh(x, out=out),
}
"""By `hidden_act`; the names are transformers'."""
