"""Plan: a network as the native forward pass takes it, one C struct over the memory of its weights."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from decoding.models.config import ModelConfig
from decoding.models.packing import TYPES, PackedMatrix
from decoding.models.rotary import RotaryTables
from decoding.models.weights import Block, NormWeights, Weights
from decoding.sampling.kernel.library import ffi, lib

ACTIVATIONS: dict[str, int] = {
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
"""The kernel's number for each `hidden_act`."""


class Plan:
    """A decoding_plan, and the memory that it points to. pointer: `const decoding_plan *` of C."""

    def __init__(self, config: ModelConfig, weights: Weights[PackedMatrix], ropes: RotaryTables) -> None:
        self._kept: list[Any] = [weights]
        self.pointer = ffi.new("decoding_plan *")
        self._set_sizes(config)
        self._set_scalars(config)
        self._set_ropes(ropes)
        self._set_embeddings(weights)
        layers = ffi.new("decoding_layer[]", config.num_hidden_layers)
        for index, block in enumerate(weights.blocks):
            self._set_layer(layers[index], config, index, block, ropes)
        self._kept.append(layers)
        self.pointer.layers = layers
        self._set_norm(self.pointer.norm, weights.norm, config.norm_eps)
        self._set_matrix(self.pointer.head, weights.head)

    def _set_sizes(self, config: ModelConfig) -> None:
        plan = self.pointer
        plan.struct_size = ffi.sizeof("decoding_plan")
        plan.vocab_size = config.vocab_size
        plan.hidden_size = config.hidden_size
        plan.intermediate_size = config.intermediate_size
        plan.num_heads = config.num_attention_heads
        plan.num_kv_heads = config.num_key_value_heads
        plan.head_dim = config.head_dim
        plan.num_layers = config.num_hidden_layers

    def _set_scalars(self, config: ModelConfig) -> None:
        plan = self.pointer
        plan.activation = ACTIVATIONS[config.hidden_act]
        plan.gated = config.gated_mlp
        plan.parallel_residual = config.parallel_residual
        plan.attention_cap = config.attn_logit_softcapping or 0.0
        plan.logits_cap = config.final_logit_softcapping or 0.0
        plan.embedding_scale = config.embedding_scale
        plan.residual_scale = config.residual_scale
        plan.logits_scale = config.logits_scale

    def _set_ropes(self, ropes: RotaryTables) -> None:
        pairs = ffi.new("int32_t[]", [rope.num_pairs for rope in ropes.ropes])
        self._kept.append(pairs)
        self.pointer.num_ropes = len(ropes.ropes)
        self.pointer.rope_pairs = pairs

    def _set_embeddings(self, weights: Weights[PackedMatrix]) -> None:
        """Point to the embedding in its file; one in a type that the kernel cannot read is converted to float32."""
        tensor, plan = weights.embedding, self.pointer
        rows: NDArray[Any] = tensor.raw if tensor.dtype in TYPES else tensor.read()
        plan.embedding_type = TYPES.get(tensor.dtype, lib.DECODING_FLOAT32)
        plan.embedding = self._address("void *", rows)
        plan.embedding_stride = rows.strides[0]
        if weights.positions is not None:
            plan.positions = self._address("float *", weights.positions)
            plan.num_positions = len(weights.positions)

    def _set_layer(
        self, layer: Any, config: ModelConfig, index: int, block: Block[PackedMatrix], ropes: RotaryTables
    ) -> None:
        settings = config.layers[index]
        rope = ropes.index(settings.rope)
        layer.rope = -1 if rope is None else rope
        layer.window = settings.window or 0
        layer.scale = settings.scale
        for name in ("qkv", "output", "up", "down"):
            self._set_matrix(getattr(layer, name), getattr(block, name))
        for name, norm in block.norms._asdict().items():
            self._set_norm(getattr(layer, f"{name}_norm"), norm, config.norm_eps)

    def _set_matrix(self, target: Any, matrix: PackedMatrix) -> None:
        target.type = matrix.type
        target.num_outputs = matrix.num_outputs
        target.num_inputs = matrix.num_inputs
        target.panels = self._address("void *", matrix.panels)
        if matrix.bias is not None:
            target.bias = self._address("float *", matrix.bias)

    def _set_norm(self, target: Any, norm: NormWeights | None, eps: float) -> None:
        if norm is None:
            target.kind = lib.DECODING_NORM_NONE
            return
        target.kind = lib.DECODING_NORM_RMS if norm.bias is None else lib.DECODING_NORM_LAYER
        target.size = norm.weight.size
        target.eps = eps
        target.weight = self._address("float *", norm.weight)
        if norm.bias is not None:
            target.bias = self._address("float *", norm.bias)

    def _address(self, kind: str, array: NDArray[np.generic]) -> Any:
        """Return a pointer to an array's memory, which is kept as long as the plan."""
        self._kept.append(array)
        return ffi.cast(kind, array.ctypes.data)
