"""The numbers of csrc/decoding.h for types of weights, norms and activations, by the names that Python uses."""

from __future__ import annotations

from decoding.sampling.kernel.library import lib

WEIGHT_TYPES: dict[str, int] = {
    "float32": lib.DECODING_FLOAT32,
    "float16": lib.DECODING_FLOAT16,
    "bfloat16": lib.DECODING_BFLOAT16,
    "bfloat16_coded": lib.DECODING_BFLOAT16_CODED,
    "q8_0": lib.DECODING_Q8_0,
    "q4_0": lib.DECODING_Q4_0,
    "q4_1": lib.DECODING_Q4_1,
    "q5_0": lib.DECODING_Q5_0,
    "q5_1": lib.DECODING_Q5_1,
    "q4_k": lib.DECODING_Q4_K,
    "q5_k": lib.DECODING_Q5_K,
    "q6_k": lib.DECODING_Q6_K,
}
"""Storage types of weights, by name."""

BLOCKS: dict[str, tuple[int, int]] = {
    "q8_0": (32, 34),
    "q4_0": (32, 18),
    "q4_1": (32, 20),
    "q5_0": (32, 22),
    "q5_1": (32, 24),
    "q4_k": (256, 144),
    "q5_k": (256, 176),
    "q6_k": (256, 210),
}
"""Weights per block and bytes per block of the quantised types, by name."""

NORM_KINDS: dict[str, int] = {"rms": lib.DECODING_NORM_RMS, "layer": lib.DECODING_NORM_LAYER}
"""Kinds of norms, by name."""

ACTIVATION_NUMBERS: dict[str, int] = {
    "gelu": lib.DECODING_ACT_GELU,
    "gelu_10": lib.DECODING_ACT_GELU_10,
    "gelu_accurate": lib.DECODING_ACT_GELU_TANH,
    "gelu_fast": lib.DECODING_ACT_GELU_TANH,
    "gelu_new": lib.DECODING_ACT_GELU_TANH,
    "gelu_python": lib.DECODING_ACT_GELU,
    "gelu_python_tanh": lib.DECODING_ACT_GELU_TANH,
    "gelu_pytorch_tanh": lib.DECODING_ACT_GELU_TANH,
    "hardswish": lib.DECODING_ACT_HARDSWISH,
    "leaky_relu": lib.DECODING_ACT_LEAKY_RELU,
    "linear": lib.DECODING_ACT_LINEAR,
    "mish": lib.DECODING_ACT_MISH,
    "quick_gelu": lib.DECODING_ACT_QUICK_GELU,
    "relu": lib.DECODING_ACT_RELU,
    "relu2": lib.DECODING_ACT_RELU2,
    "relu6": lib.DECODING_ACT_RELU6,
    "sigmoid": lib.DECODING_ACT_SIGMOID,
    "silu": lib.DECODING_ACT_SILU,
    "swish": lib.DECODING_ACT_SILU,
    "tanh": lib.DECODING_ACT_TANH,
}
"""The activations of `decoding.reference.activations`, by the same names."""
