"""Tiny networks with Philox weights, computed by the native forward pass and in float64 by numpy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from decoding.models import native_plan
from decoding.models.native_matrix import PackedMatrix
from decoding.models.native_plan import (
    KV_BLOCK,
    Forward,
    KVPool,
    Plan,
    PlanLayer,
    PlanNorm,
    Step,
    ThreadPool,
)

Array = NDArray[Any]


@dataclass(frozen=True)
class Shape:
    """The sizes and special features of a network."""

    vocab_size: int = 37
    hidden_size: int = 24
    intermediate_size: int = 40
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 6
    num_layers: int = 2
    activation: str = "silu"
    gated: bool = True
    parallel_residual: bool = False
    bias: bool = False
    weight_type: str = "float32"
    norm: str = "rms"
    norms: tuple[str, ...] = ("attention_norm", "mlp_norm")
    whole_head_norms: bool = False
    rope_pairs: tuple[int, ...] = (3,)
    ropes: tuple[int, ...] = (0, 0)  # index into rope_pairs per layer
    windows: tuple[int, ...] = (0, 0)
    attention_cap: float = 0.0
    logits_cap: float = 0.0
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logits_scale: float = 1.0
    num_positions: int = 0
    seed: int = 1


class Numbers:
    """A source of reproducible numbers in [-1, 1): 24 bits of each Philox word, exact in float32."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.Philox(key=seed)

    def __call__(self, *shape: int) -> Array:
        words = self._bits.random_raw(math.prod(shape)) >> np.uint64(40)
        return (words.astype(np.float32) * np.float32(2.0**-23) - np.float32(1.0)).reshape(shape)


BFLOAT16 = ("bfloat16", "bfloat16_coded")


def stored(values: Array, weight_type: str) -> Array:
    """Return float32 values in a storage type; bfloat16 as truncated uint16."""
    if weight_type in BFLOAT16:
        return (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    return values.astype(np.float16 if weight_type == "float16" else np.float32)


def widened(values: Array, weight_type: str) -> Array:
    """Return stored values in float64."""
    if weight_type in BFLOAT16:
        values = (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values.astype(np.float64)


class Network:
    """The weights of a shape as arrays in their storage types, and the plan of them."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        numbers = Numbers(shape.seed)
        self.embedding = stored(numbers(shape.vocab_size, shape.hidden_size), shape.weight_type)
        self.positions = numbers(shape.num_positions, shape.hidden_size) if shape.num_positions else None
        self.layers = [self._layer(numbers) for _ in range(shape.num_layers)]
        self.norm = self._norm(numbers, shape.hidden_size)
        self.head = self._linear(numbers, shape.vocab_size, shape.hidden_size)
        self.frequencies = [
            (10000.0 ** (-np.arange(pairs) / max(pairs, 1))).astype(np.float32) * np.float32(1 + index)
            for index, pairs in enumerate(shape.rope_pairs)
        ]
        self.plan = self._plan()

    def _linear(self, numbers: Numbers, outputs: int, inputs: int) -> SimpleNamespace:
        weight = numbers(outputs, inputs) * np.float32(1.5 / math.sqrt(inputs))
        bias = numbers(outputs) * np.float32(0.25) if self.shape.bias else None
        return SimpleNamespace(weight=stored(weight, self.shape.weight_type), bias=bias)

    def _norm(self, numbers: Numbers, size: int) -> PlanNorm:
        weight = np.float32(1.0) + numbers(size) * np.float32(0.25)
        bias = numbers(size) * np.float32(0.25) if self.shape.norm == "layer" else None
        return PlanNorm(self.shape.norm, weight, 1e-5, bias)

    def _layer(self, numbers: Numbers) -> SimpleNamespace:
        shape = self.shape
        heads, kv_heads = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
        sizes = {"query_norm": shape.head_dim, "key_norm": shape.head_dim}
        if shape.whole_head_norms:
            sizes = {"query_norm": heads, "key_norm": kv_heads}
        return SimpleNamespace(
            qkv=self._linear(numbers, heads + 2 * kv_heads, shape.hidden_size),
            output=self._linear(numbers, shape.hidden_size, heads),
            up=self._linear(numbers, shape.intermediate_size * (2 if shape.gated else 1), shape.hidden_size),
            down=self._linear(numbers, shape.hidden_size, shape.intermediate_size),
            norms={name: self._norm(numbers, sizes.get(name, shape.hidden_size)) for name in shape.norms},
        )

    def _packed(self, linear: SimpleNamespace) -> PackedMatrix:
        matrix = PackedMatrix(self.shape.weight_type, *linear.weight.shape, linear.bias)
        matrix.put(0, linear.weight)
        return matrix

    def _plan(self) -> Plan:
        shape = self.shape
        layers = [
            PlanLayer(
                **{name: self._packed(getattr(layer, name)) for name in ("qkv", "output", "up", "down")},
                scale=shape.head_dim**-0.5,
                rope=rope,
                window=window,
                **layer.norms,
            )
            for layer, rope, window in zip(self.layers, shape.ropes, shape.windows, strict=True)
        ]
        names = ("vocab_size", "hidden_size", "intermediate_size", "num_heads", "num_kv_heads", "head_dim")
        names += ("activation", "gated", "parallel_residual", "rope_pairs", "attention_cap", "logits_cap")
        names += ("embedding_scale", "residual_scale", "logits_scale")
        return Plan(
            **{name: getattr(shape, name) for name in names},
            embedding=self.embedding,
            embedding_type=shape.weight_type.removesuffix("_coded"),
            layers=layers,
            norm=self.norm,
            head=self._packed(self.head),
            positions=self.positions,
        )


@dataclass
class Runner:
    """Computes sequences of a network by the native forward pass, with cache blocks in any order."""

    network: Network
    num_blocks: int = 64
    threads: int | None = None
    fill: float = math.nan
    tables: dict[int, Array] = field(default_factory=dict)
    lengths: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        pool = None if self.threads is None else ThreadPool(self.threads)
        self.forward = Forward(self.network.plan, pool)
        self.cache = KVPool(self.network.plan, self.num_blocks)
        self.cache.memory.view(np.float32)[:] = self.fill
        self._rotary = [native_plan.rotary_table(f, 1.0, 0, 16 * self.num_blocks) for f in self.network.frequencies]

    def add(self, sequence: int, blocks: Sequence[int]) -> None:
        """Assign blocks to a sequence."""
        self.tables[sequence], self.lengths[sequence] = np.array(blocks, np.int32), 0

    def step(self, tokens: dict[int, Sequence[int]], wanted: Sequence[int] | None = None) -> Array:
        """Run the next tokens of each sequence. Return the logits of all tokens, or of the wanted ones."""
        num_new = np.array([len(new) for new in tokens.values()], np.int32)
        start = np.array([self.lengths[sequence] for sequence in tokens], np.int32)
        token_ids = np.array([token for new in tokens.values() for token in new], np.int32)
        positions = np.concatenate([np.arange(s, s + n) for s, n in zip(start, num_new, strict=True)])
        rotary = np.array([[table[p].ctypes.data for p in positions] for table in self._rotary], np.uintp).reshape(-1)
        for sequence, new in tokens.items():
            self.lengths[sequence] += len(new)
        logits_tokens = np.arange(len(token_ids)) if wanted is None else np.array(wanted)
        tables = [self.tables[sequence] for sequence in tokens]
        step = Step(token_ids, num_new, start, tables, logits_tokens.astype(np.int32), rotary if len(rotary) else None)
        return self.forward(step, self.cache)


def alone(network: Network, tokens: Sequence[int], **options: Any) -> Array:
    """Return the logits of all tokens of one sequence, computed in one call."""
    num_blocks = max(1, -(-len(tokens) // KV_BLOCK))
    runner = Runner(network, num_blocks=num_blocks, **options)
    runner.add(0, range(num_blocks))
    return runner.step({0: tokens})


# The same in float64


def _erf(x: Array) -> Array:
    return np.vectorize(math.erf)(x)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: x * (1 + _erf(x / math.sqrt(2))) / 2,
    "gelu_10": lambda x: np.clip(x * (1 + _erf(x / math.sqrt(2))) / 2, -10, 10),
    "gelu_new": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "linear": lambda x: x,
    "mish": lambda x: x * np.tanh(np.logaddexp(x, 0)),
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
    "relu6": lambda x: np.clip(x, 0, 6),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


class Float64Network:
    """A network computed in float64 by the formulas of decoding.h, on whole sequences, without a cache."""

    def __init__(self, network: Network) -> None:
        self._network, self._shape = network, network.shape

    def __call__(self, tokens: Sequence[int]) -> Array:
        """Return the logits of the tokens, [tokens, vocab]."""
        shape, network = self._shape, self._network
        hidden = widened(network.embedding, shape.weight_type)[list(tokens)] * shape.embedding_scale
        if network.positions is not None:
            hidden = hidden + network.positions[: len(tokens)]
        for index, layer in enumerate(network.layers):
            attended = self._attention(index, layer, self._normed(layer, "attention_norm", hidden))
            attended = shape.residual_scale * self._normed(layer, "attention_out_norm", attended)
            inner = self._mlp(layer, self._normed(layer, "mlp_norm", hidden + attended * (not shape.parallel_residual)))
            hidden = hidden + attended + shape.residual_scale * self._normed(layer, "mlp_out_norm", inner)
        logits = self._linear(network.head, self._norm(network.norm, hidden)) * shape.logits_scale
        return self._capped(logits, shape.logits_cap)

    def _linear(self, linear: SimpleNamespace, x: Array) -> Array:
        y = x @ widened(linear.weight, self._shape.weight_type).T
        return y if linear.bias is None else y + linear.bias

    def _normed(self, layer: SimpleNamespace, name: str, x: Array) -> Array:
        return self._norm(layer.norms.get(name), x)

    @staticmethod
    def _norm(norm: PlanNorm | None, x: Array) -> Array:
        if norm is None:
            return x
        grouped = x.reshape(*x.shape[:-1], -1, norm.weight.size)
        if norm.kind == "layer":
            grouped = grouped - grouped.mean(axis=-1, keepdims=True)
        scaled = grouped / np.sqrt((grouped**2).mean(axis=-1, keepdims=True) + np.float64(np.float32(norm.eps)))
        return (scaled * norm.weight + (0 if norm.bias is None else norm.bias)).reshape(x.shape)

    @staticmethod
    def _capped(x: Array, cap: float) -> Array:
        return cap * np.tanh(x / cap) if cap else x

    def _mlp(self, layer: SimpleNamespace, x: Array) -> Array:
        up, act = self._linear(layer.up, x), ACTIVATIONS[self._shape.activation]
        size = self._shape.intermediate_size
        return self._linear(layer.down, act(up[:, :size]) * up[:, size:] if self._shape.gated else act(up))

    def _attention(self, index: int, layer: SimpleNamespace, x: Array) -> Array:
        shape, tokens = self._shape, len(x)
        heads, kv_heads = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
        q, k, v = np.split(self._linear(layer.qkv, x), [heads, heads + kv_heads], axis=1)
        q, k = self._normed(layer, "query_norm", q), self._normed(layer, "key_norm", k)
        q, k, v = (part.reshape(tokens, -1, shape.head_dim) for part in (q, k, v))
        if shape.ropes[index] >= 0:
            q, k = self._turned(shape.ropes[index], q), self._turned(shape.ropes[index], k)
        group = shape.num_heads // shape.num_kv_heads
        k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
        scores = np.einsum("qhd,khd->hqk", q, k) * shape.head_dim**-0.5
        scores = self._capped(scores, shape.attention_cap)
        distance = np.arange(tokens)[:, None] - np.arange(tokens)
        visible = (distance >= 0) & (distance < (shape.windows[index] or tokens))
        weights = np.exp(np.where(visible, scores - scores.max(axis=-1, keepdims=True), -np.inf))
        weights /= weights.sum(axis=-1, keepdims=True)
        return self._linear(layer.output, np.einsum("hqk,khd->qhd", weights, v).reshape(tokens, -1))

    def _turned(self, rope: int, x: Array) -> Array:
        pairs = self._shape.rope_pairs[rope]
        angles = np.arange(len(x), dtype=np.float32)[:, None] * self._network.frequencies[rope]
        cos, sin = np.cos(angles.astype(np.float64))[:, None], np.sin(angles.astype(np.float64))[:, None]
        a, b, rest = x[..., :pairs], x[..., pairs : 2 * pairs], x[..., 2 * pairs :]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


BASE = Shape()
SHAPES: dict[str, Shape] = {
    "llama": BASE,
    "float16": replace(BASE, weight_type="float16"),
    "bfloat16": replace(BASE, weight_type="bfloat16"),
    "bfloat16_coded": replace(BASE, weight_type="bfloat16_coded"),
    "gpt2": replace(
        BASE,
        gated=False,
        bias=True,
        norm="layer",
        activation="gelu_new",
        rope_pairs=(),
        ropes=(-1, -1),
        num_positions=256,
        num_kv_heads=4,
    ),
    "neox": replace(
        BASE,
        gated=False,
        bias=True,
        norm="layer",
        activation="gelu",
        parallel_residual=True,
        rope_pairs=(1,),
        num_kv_heads=4,
    ),
    "parallel without norms": replace(BASE, parallel_residual=True, norms=("attention_norm",)),
    "gemma": replace(
        BASE,
        activation="gelu_new",
        attention_cap=5.0,
        logits_cap=3.0,
        embedding_scale=24**0.5,
        rope_pairs=(3, 2),
        ropes=(0, 1),
        windows=(0, 20),
        norms=("attention_norm", "query_norm", "key_norm", "attention_out_norm", "mlp_norm", "mlp_out_norm"),
    ),
    "olmo2": replace(
        BASE, whole_head_norms=True, norms=("query_norm", "key_norm", "attention_out_norm", "mlp_out_norm")
    ),
    "granite": replace(BASE, residual_scale=0.22, logits_scale=0.125, embedding_scale=12.0, bias=True),
    "smollm3": replace(BASE, ropes=(-1, 0)),
    "narrow windows": replace(BASE, windows=(1, 17)),
    "one head": replace(BASE, num_heads=1, num_kv_heads=1),
    "group of 8": replace(BASE, num_heads=8, num_kv_heads=1),
    "group of 13": replace(BASE, num_heads=26, num_kv_heads=2, head_dim=4, rope_pairs=(2,)),
    "odd sizes": replace(BASE, vocab_size=101, hidden_size=17, intermediate_size=31, head_dim=5, rope_pairs=(2,)),
    "long head": replace(BASE, head_dim=257, num_heads=2, num_kv_heads=1, rope_pairs=(128,)),
    "head of 1": replace(BASE, head_dim=1, rope_pairs=(), ropes=(-1, -1)),
    "long sums": replace(BASE, hidden_size=513, intermediate_size=529, vocab_size=16, weight_type="bfloat16"),
}


@pytest.fixture(params=list(SHAPES))
def network(request: pytest.FixtureRequest) -> Network:
    """Return a network, once per shape."""
    return Network(SHAPES[request.param])


@pytest.fixture
def kit() -> SimpleNamespace:
    """Return the classes and functions of this file."""
    return SimpleNamespace(**globals())
