"""Names and layouts of a network's tensors, and the search for them in a source of tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from decoding.models.config import ModelConfig
from decoding.models.log import warn_once
from decoding.models.tensors import Shape, Tensor, TensorSource

Matrix = TypeVar("Matrix")
Floats: TypeAlias = NDArray[np.float32]
RowOrder: TypeAlias = Callable[[], NDArray[np.intp]]
"""Returns the stored row of each output, int [outputs]; called after the sizes have been checked."""

# What a checkpoint has


class Part(NamedTuple):
    """One stored matrix, `name`.weight and perhaps `name`.bias, with the number of its outputs.

    order: of its rows (and elements of its bias), if the network needs another one than the stored one.
    """

    name: str
    out_features: int
    order: RowOrder | None = None


class LinearSpec(NamedTuple):
    """Stored matrices with a common input, which become one. transposed: stored as [in, out] (GPT-2's Conv1D)."""

    parts: tuple[Part, ...]
    in_features: int
    has_bias: bool = False
    transposed: bool = False

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """Yield names and shapes in the file."""
        for part in self.parts:
            shape = (part.out_features, self.in_features)
            yield f"{part.name}.weight", shape[::-1] if self.transposed else shape
            if self.has_bias:
                yield f"{part.name}.bias", shape[:1]


class NormSpec(NamedTuple):
    """A normalisation: LayerNorm if it has a bias, otherwise RMSNorm. offset: is added to its weights (Gemma)."""

    name: str
    size: int
    has_bias: bool = False
    offset: float = 0.0

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """Yield names and shapes in the file."""
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

    prefixes: possible prefixes of all names but the heads', the usual one first. heads: names of the output matrix.
    positions: learned embeddings of positions. harmless: tensors that a file may have and that are not needed.
    """

    prefixes: tuple[str, ...]
    embedding: str
    block: Callable[[int], BlockSpec]
    norm: NormSpec
    heads: tuple[str, ...] = ("lm_head.weight",)
    positions: str | None = None
    harmless: re.Pattern[str] = re.compile(r"\brotary_emb\.inv_freq$")  # older exports; it follows from the config


def split_heads(num_heads: int, head_dim: int) -> NDArray[np.intp]:
    """Return the order of rows for a file that keeps query, key and value of each head together.

    Stored as q0 k0 v0 q1 k1 v1 ...; the order is that of all queries, then keys, then values.
    """
    rows = np.arange(3 * num_heads * head_dim).reshape(num_heads, 3, head_dim)
    return rows.swapaxes(0, 1).ravel()


# What a network gets


class StoredPart(NamedTuple):
    """Rows of a stored matrix that become outputs, in `order` or as they are."""

    tensor: Tensor
    num_outputs: int
    order: RowOrder | None


class StoredMatrix(NamedTuple):
    """A matrix of the network: its parts, not read yet, and its bias, float32 [outputs]."""

    parts: tuple[StoredPart, ...]
    num_inputs: int
    transposed: bool = False
    bias: Floats | None = None

    @property
    def num_outputs(self) -> int:
        """Outputs of all parts together."""
        return sum(part.num_outputs for part in self.parts)

    @property
    def storage(self) -> str:
        """The storage type of the parts; "F32" if they have different ones."""
        kinds = {part.tensor.dtype for part in self.parts}
        return kinds.pop() if len(kinds) == 1 else "F32"


class NormWeights(NamedTuple):
    """A normalisation: LayerNorm if it has a bias, otherwise RMSNorm; any offset is in the weights."""

    weight: Floats
    bias: Floats | None


class Norms(NamedTuple):
    """The normalisations of one layer; None where an architecture has none."""

    attention: NormWeights | None
    query: NormWeights | None
    key: NormWeights | None
    attention_out: NormWeights | None
    mlp: NormWeights | None
    mlp_out: NormWeights | None


class Block(NamedTuple, Generic[Matrix]):
    """The weights of one layer, as BlockSpec describes them."""

    qkv: Matrix
    output: Matrix
    up: Matrix
    down: Matrix
    norms: Norms


class Weights(NamedTuple, Generic[Matrix]):
    """All weights of a network: the embedding in its file, vectors in memory, matrices in the form of a backend."""

    embedding: Tensor
    positions: Floats | None
    blocks: tuple[Block[Matrix], ...]
    norm: NormWeights
    head: Matrix


def stored_tensors(config: ModelConfig, layout: Layout, prefix: str, head: str) -> Iterator[tuple[str, Shape]]:
    """Yield name and shape of every tensor in a checkpoint of this config; lazily, because they may be very many."""
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


def find_weights(source: TensorSource, config: ModelConfig, layout: Layout) -> Weights[StoredMatrix]:
    """Check that the source has the tensors of `layout`, and read the vectors; CheckpointError if one is missing."""
    finder = _Finder(source, config, layout)
    finder.check()
    return finder.weights()


class _Finder:
    """Finds the tensors of a layout under the names that they have in one source."""

    def __init__(self, source: TensorSource, config: ModelConfig, layout: Layout) -> None:
        self._source = source
        self._config = config
        self._layout = layout
        self._head = next((name for name in layout.heads if name in source), layout.heads[0])
        self._has_head_alone = (
            config.tie_word_embeddings
            and self._head in source
            and not any(prefix + layout.embedding in source for prefix in layout.prefixes)
        )
        known = f"{layout.norm.name}.weight" if self._has_head_alone else layout.embedding
        self._prefix = next((p for p in layout.prefixes if p + known in source), layout.prefixes[0])
        self._vocab = (config.vocab_size, config.hidden_size)

    def check(self) -> None:
        """Raise CheckpointError unless every tensor is there, with the right shape, and no other.

        A tied model may store its embedding, its head, or both.
        """
        optional = {self._head: self._vocab} if self._config.tie_word_embeddings else {}
        expected = stored_tensors(self._config, self._layout, self._prefix, self._head)
        if self._has_head_alone:
            expected = chain([(self._head, self._vocab)], islice(expected, 1, None))
        self._source.check(expected, optional, self._layout.harmless)

    def weights(self) -> Weights[StoredMatrix]:
        """Return all weights; only after `check`."""
        positions = self._layout.positions
        return Weights(
            embedding=self._embedding(),
            positions=None if positions is None else self._tensor(positions).read(),
            blocks=tuple(self._block(index) for index in range(self._config.num_hidden_layers)),
            norm=self._norm(self._layout.norm),
            head=self._head_matrix(),
        )

    def _embedding(self) -> Tensor:
        """Return the embedding; the head if a tied model stores nothing else."""
        return self._source[self._head] if self._has_head_alone else self._tensor(self._layout.embedding)

    def _tensor(self, name: str) -> Tensor:
        return self._source[self._prefix + name]

    def _block(self, index: int) -> Block[StoredMatrix]:
        spec = self._layout.block(index)
        norms = Norms(
            attention=self._optional_norm(spec.attention_norm),
            query=self._optional_norm(spec.query_norm),
            key=self._optional_norm(spec.key_norm),
            attention_out=self._optional_norm(spec.attention_out_norm),
            mlp=self._optional_norm(spec.mlp_norm),
            mlp_out=self._optional_norm(spec.mlp_out_norm),
        )
        qkv, output, up, down = (self._matrix(matrix) for matrix in (spec.qkv, spec.output, spec.up, spec.down))
        return Block(qkv, output, up, down, norms)

    def _matrix(self, spec: LinearSpec) -> StoredMatrix:
        parts = tuple(StoredPart(self._tensor(f"{name}.weight"), size, order) for name, size, order in spec.parts)
        bias = np.concatenate([self._bias(part) for part in spec.parts]) if spec.has_bias else None
        return StoredMatrix(parts, spec.in_features, spec.transposed, bias)

    def _bias(self, part: Part) -> Floats:
        stored = self._tensor(f"{part.name}.bias").read()
        return stored if part.order is None else stored[part.order()]

    def _optional_norm(self, spec: NormSpec | None) -> NormWeights | None:
        return None if spec is None else self._norm(spec)

    def _norm(self, spec: NormSpec) -> NormWeights:
        weight = self._tensor(f"{spec.name}.weight").read() + np.float32(spec.offset)
        return NormWeights(weight, self._tensor(f"{spec.name}.bias").read() if spec.has_bias else None)

    def _head_matrix(self) -> StoredMatrix:
        embedding = self._embedding()
        head = embedding if self._is_tied(embedding) else self._source[self._head]
        if head is not embedding:
            embedding.require_finite(slice(0, self._config.vocab_size))  # a head is checked when it is packed
        vocab_size, hidden_size = self._vocab
        return StoredMatrix((StoredPart(head, vocab_size, None),), hidden_size)

    def _is_tied(self, embedding: Tensor) -> bool:
        """Return True if the head is the embedding.

        A tied model that stores another head counts as untied, with a warning, as in transformers 5.
        """
        if not self._config.tie_word_embeddings or self._head not in self._source:
            return self._config.tie_word_embeddings
        head = self._source[self._head]
        if not _are_equal(head, embedding):
            problem = head.error(
                "differs from the embedding, although the config says tie_word_embeddings; the stored one is used"
            )
            warn_once(str(problem))
            return False
        return True


_ROWS = 1024  # of a head and an embedding that are compared at a time


def _are_equal(head: Tensor, embedding: Tensor) -> bool:
    """Return True if all numbers of two matrices of one shape are equal."""
    blocks = (slice(first, min(first + _ROWS, head.shape[0])) for first in range(0, head.shape[0], _ROWS))
    return head is embedding or all(np.array_equal(head[rows], embedding[rows]) for rows in blocks)
