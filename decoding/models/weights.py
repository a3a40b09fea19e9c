"""Which tensors a network has, under which names and in which layout; and reading them into the layout of the ops."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from decoding.models.activations import Array
from decoding.models.checkpoint import Checkpoint, Shape, Tensor
from decoding.models.config import ModelConfig
from decoding.models.layers import LayerNorm, Linear, Norm, RMSNorm, pair_order
from decoding.models.products import block_width, padded, put_outputs

Order: TypeAlias = NDArray[np.intp]

# What a checkpoint has


class HeadOrder(NamedTuple):
    """In which order the ops want the output features of a projection to heads.

    The first `num_turned` heads have their rotated pairs side by side (`layers.pair_order`). interleaved: the file
    keeps query, key and value of each head together, where the ops want all queries first, then keys, then values.
    """

    num_heads: int
    num_turned: int
    head_dim: int
    num_pairs: int
    interleaved: bool = False

    def indices(self) -> Order:
        """The places of the features in the file, in the order of the ops."""
        places = np.arange(self.num_heads * self.head_dim).reshape(-1, self.head_dim)
        if self.interleaved:
            places = places.reshape(-1, 3, self.head_dim).swapaxes(0, 1).reshape(-1, self.head_dim)
        turned = places[: self.num_turned, pair_order(self.head_dim, self.num_pairs)]
        return np.concatenate([turned, places[self.num_turned :]]).ravel()


class Part(NamedTuple):
    """One stored matrix, `name`.weight and perhaps `name`.bias: how many features it makes, in which order."""

    name: str
    out_features: int
    order: HeadOrder | None = None


class LinearSpec(NamedTuple):
    """A product of one input with several stored matrices, which become one.

    transposed: stored as [in, out] (GPT-2's Conv1D). scale: what weights and biases are multiplied with.
    """

    parts: tuple[Part, ...]
    in_features: int
    has_bias: bool = False
    transposed: bool = False
    scale: float = 1.0

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """Names and shapes in the file."""
        for part in self.parts:
            shape = (part.out_features, self.in_features)
            yield f"{part.name}.weight", shape[::-1] if self.transposed else shape
            if self.has_bias:
                yield f"{part.name}.bias", shape[:1]


class NormSpec(NamedTuple):
    """A normalisation: LayerNorm if it has a bias, else RMSNorm. offset: what is added to its weights (Gemma)."""

    name: str
    size: int
    has_bias: bool = False
    offset: float = 0.0
    order: HeadOrder | None = None

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """Names and shapes in the file."""
        yield f"{self.name}.weight", (self.size,)
        if self.has_bias:
            yield f"{self.name}.bias", (self.size,)


class BlockSpec(NamedTuple):
    """One layer. Norms that an architecture does not have are None; `up` is [gate, up] where the MLP is gated."""

    qkv: LinearSpec
    output: LinearSpec
    up: LinearSpec
    down: LinearSpec
    attention_norm: NormSpec | None = None
    query_norm: NormSpec | None = None
    key_norm: NormSpec | None = None
    attention_out_norm: NormSpec | None = None
    mlp_norm: NormSpec | None = None
    mlp_out_norm: NormSpec | None = None


class Layout(NamedTuple):
    """The names of an architecture's tensors.

    prefixes: what may stand before all names but the heads', the usual one first. heads: names of the output matrix.
    positions: learned embeddings of positions. harmless: tensors that a file may have and nobody needs.
    """

    prefixes: tuple[str, ...]
    embedding: str
    block: Callable[[int], BlockSpec]
    norm: NormSpec
    heads: tuple[str, ...] = ("lm_head.weight",)
    positions: str | None = None
    harmless: re.Pattern[str] = re.compile(r"\brotary_emb\.inv_freq$")  # older exports; it follows from the config


# What the ops take


class Block(NamedTuple):
    """The weights of one layer, as BlockSpec describes them."""

    qkv: Linear
    output: Linear
    up: Linear
    down: Linear
    attention_norm: Norm | None
    query_norm: Norm | None
    key_norm: Norm | None
    attention_out_norm: Norm | None
    mlp_norm: Norm | None
    mlp_out_norm: Norm | None


class Weights(NamedTuple):
    """All weights of a network. The embedding stays in its file, of which it needs a few rows at a time."""

    embedding: Tensor
    positions: Array | None
    blocks: tuple[Block, ...]
    norm: Norm
    head: Linear


def stored_tensors(config: ModelConfig, layout: Layout, prefix: str, head: str) -> Iterator[tuple[str, Shape]]:
    """Name and shape of every tensor that a checkpoint of this config has; lazily, as there may be very many."""
    vocab = (config.vocab_size, config.hidden_size)
    yield prefix + layout.embedding, vocab
    if not config.tie_word_embeddings:
        yield head, vocab
    if layout.positions is not None:
        yield prefix + layout.positions, (config.max_position_embeddings, config.hidden_size)
    for spec in _specs(config, layout):
        for name, shape in spec.tensors():
            yield prefix + name, shape


def _specs(config: ModelConfig, layout: Layout) -> Iterator[LinearSpec | NormSpec]:
    yield layout.norm
    for index in range(config.num_hidden_layers):
        yield from filter(None, layout.block(index))


def read_weights(checkpoint: Checkpoint, config: ModelConfig, layout: Layout) -> Weights:
    """Check that the checkpoint has what `layout` says, then read it; CheckpointError where it has not."""
    reader = _Reader(checkpoint, config, layout)
    reader.check()
    return reader.weights()


class _Reader:
    """A checkpoint, the names in it, and what they are to become."""

    def __init__(self, checkpoint: Checkpoint, config: ModelConfig, layout: Layout) -> None:
        self._checkpoint = checkpoint
        self._config = config
        self._layout = layout
        self._prefix = next((p for p in layout.prefixes if p + layout.embedding in checkpoint), layout.prefixes[0])
        self._embedding = self._prefix + layout.embedding
        self._head = next((name for name in layout.heads if name in checkpoint), layout.heads[0])
        self._vocab = (config.vocab_size, config.hidden_size)
        self._num_queries = config.num_attention_heads * config.head_dim

    def check(self) -> None:
        """CheckpointError unless every tensor is there, with the right shape, and no other."""
        optional = {self._head: self._vocab} if self._config.tie_word_embeddings else {}
        expected = stored_tensors(self._config, self._layout, self._prefix, self._head)
        self._checkpoint.check(expected, optional, self._layout.harmless)

    def weights(self) -> Weights:
        """Everything, after `check`."""
        positions = self._layout.positions
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # what an absurd multiplier makes of them shows in the logits
            return self._read(positions)

    def _read(self, positions: str | None) -> Weights:
        return Weights(
            embedding=self._checkpoint.tensor(self._embedding),
            positions=None if positions is None else self._checkpoint.read(self._prefix + positions),
            blocks=tuple(self._block(index) for index in range(self._config.num_hidden_layers)),
            norm=self._norm(self._layout.norm),
            head=self._read_head(),
        )

    def _block(self, index: int) -> Block:
        readers: dict[type, Callable[[Any], Any]] = {LinearSpec: self._linear, NormSpec: self._norm}
        spec = self._layout.block(index)
        read = {field: part and readers[type(part)](part) for field, part in spec._asdict().items()}
        block = Block(**read)
        self._scale_queries(block, np.float32(self._config.layers[index].scale))
        return block

    def _scale_queries(self, block: Block, scale: np.float32) -> None:
        """Multiply what makes a layer's queries with the scale of its scores."""
        queries = block.qkv.part(0, self._num_queries)
        factors = [queries.blocks, queries.bias] if block.query_norm is None else [block.query_norm.weight]
        for factor in factors:
            if factor is not None:
                factor *= scale

    def _norm(self, spec: NormSpec) -> Norm:
        order = slice(None) if spec.order is None else spec.order.indices()
        weight = self._checkpoint.read(f"{self._prefix}{spec.name}.weight")[order] + np.float32(spec.offset)
        if not spec.has_bias:
            return RMSNorm(weight, self._config.norm_eps)
        return LayerNorm(weight, self._checkpoint.read(f"{self._prefix}{spec.name}.bias")[order], self._config.norm_eps)

    def _linear(self, spec: LinearSpec) -> Linear:
        size = sum(part.out_features for part in spec.parts)
        width = block_width(spec.in_features, size, self._num_queries)
        name = f"{self._prefix}{spec.parts[0].name}.weight"
        blocks = self._checkpoint.allocate(name, size // width, spec.in_features, width)
        bias = np.empty(size, np.float32) if spec.has_bias else None
        first = 0
        for name, out_features, order in spec.parts:
            indices = None if order is None else order.indices()
            self._read_matrix(blocks, first, f"{self._prefix}{name}.weight", indices, spec)
            if bias is not None:
                stored = self._checkpoint.read(f"{self._prefix}{name}.bias") * np.float32(spec.scale)
                bias[first : first + out_features] = stored if indices is None else stored[indices]
            first += out_features
        return Linear(blocks, bias)

    def _read_matrix(self, blocks: Array, first: int, name: str, order: Order | None, spec: LinearSpec) -> None:
        """A stored matrix, as the outputs from `first` on; one that is stored transposed has them all."""
        for place, rows in self._checkpoint.rows(name, order):
            rows = rows * np.float32(spec.scale)
            if spec.transposed:
                blocks[:, place] = rows.reshape(len(rows), len(blocks), -1).swapaxes(0, 1)
            else:
                put_outputs(blocks, first + place.start, rows)

    def _read_head(self) -> Linear:
        tied = self._config.tie_word_embeddings
        if tied and self._head in self._checkpoint:
            self._check_tied()
        name = self._embedding if tied else self._head
        vocab_size, hidden_size = self._vocab
        size = padded(vocab_size)
        width = block_width(hidden_size, size)
        blocks = self._checkpoint.allocate(name, size // width, hidden_size, width)
        for place, rows in self._checkpoint.rows(name):
            put_outputs(blocks, place.start, rows * np.float32(self._config.logits_scale))
        put_outputs(blocks, vocab_size, np.zeros((size - vocab_size, hidden_size), np.float32))
        if not tied:
            for _ in self._checkpoint.rows(self._embedding):  # values that are not finite are found now, not later
                pass
        return Linear(blocks)

    def _check_tied(self) -> None:
        """A tied model may store its head all the same; so that nothing is ignored, only if it is the embedding."""
        embedding = self._checkpoint.tensor(self._embedding)
        for place, rows in self._checkpoint.rows(self._head):
            if not np.array_equal(rows, embedding[place]):
                rule = "differs from the embedding, though the config says tie_word_embeddings"
                raise self._checkpoint.error(self._head, rule)
