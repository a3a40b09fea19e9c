"""Transformer: the forward pass of every architecture, all sequences at once."""

from __future__ import annotations

from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from decoding.models import layers
from decoding.models.activations import ACTIVATIONS, Array
from decoding.models.batch import ForwardBatch, Indices, Span
from decoding.models.blas import BlasThreads, multiplies_in_place
from decoding.models.cache import KVCache
from decoding.models.checkpoint import Checkpoint, digest_files
from decoding.models.config import LayerConfig, ModelConfig
from decoding.models.crew import Crew
from decoding.models.layers import Norm
from decoding.models.rope import Rope, RotaryTable
from decoding.models.scratch import Scratch
from decoding.models.weights import Block, Layout, read_weights

Scalar = TypeVar("Scalar", bound=np.generic)

_CHUNK = 512  # tokens of a sequence that are computed again at once


class Transformer:
    """A decoder network in float32.

    Weights may be stored as float32, float16 or bfloat16; all but the embedding, which stays in its file, are
    converted when they are loaded. A tied model (tie_word_embeddings) uses its embedding as its head; a head that
    is stored all the same must equal the embedding, so that nothing is ignored.

    One instance serves one thread at a time. numpy's matrix products may round differently for other batch
    shapes: the same sequence alone and among others has logits that agree to about 1e-5, not to the bit.
    """

    def __init__(self, config: ModelConfig, checkpoint: Checkpoint, layout: Layout) -> None:
        """Load the weights; CheckpointError where the tensors are not those that config and layout describe."""
        self.config = config
        self.path = checkpoint.folder
        self._files = (checkpoint.folder / "config.json", *checkpoint.files)
        self._weights = read_weights(checkpoint, config, layout)
        self._scratch = Scratch()
        self._threads = BlasThreads()
        self._crew = Crew()
        self._widest = config.hidden_size * max(config.vocab_size, config.intermediate_size)
        ropes = {layer.rope for layer in config.layers if layer.rope is not None}
        self._tables = {rope: RotaryTable(rope, config.head_dim) for rope in ropes}
        self._recomputing: Rope | None = next((rope for rope in ropes if rope.recomputes_past), None)

    @cached_property
    def digest(self) -> str:
        """Hex digest of config.json and the weight files as they are on disk, read on first use."""
        return digest_files(self._files)

    def new_cache(self, num_slots: int) -> KVCache:
        """An empty cache for up to `num_slots` running sequences of this model."""
        return KVCache(self.config, num_slots, copies=self._recomputing is not None)

    def forward(self, batch: ForwardBatch, cache: KVCache) -> NDArray[np.float32]:
        """Run the new tokens through the network, and leave their keys and values in `cache`.

        Returns logits: float32 [rows, vocab] of each row's last new token, or [total, vocab] with
        batch.all_logits. Weights that make a number overflow give NaN or infinite logits, for the sampler to
        report. Raises ParameterError or ContextLengthError for a batch that does not fit the model or the
        cache.
        """
        config, weights = self.config, self._weights
        batch.check(config.vocab_size, cache.num_slots, config.max_position_embeddings)
        cache.prepare(batch)
        with (
            np.errstate(over="ignore", invalid="ignore"),
            self._threads.adjusted(self._widest * len(batch.token_ids)) as threads,
        ):
            self._crew.size = threads if multiplies_in_place() else 1
            if self._recomputing is not None:
                self._recompute_past(self._recomputing, batch, cache)
            hidden = self._hidden(batch, cache, batch.lengths)  # [wanted, hidden]
            padded = np.empty((weights.head.num_rows(len(hidden)), weights.head.num_outputs), np.float32)
            logits = weights.head(weights.norm(hidden, hidden), padded, self._crew)[:, : config.vocab_size]
            cap = config.final_logit_softcapping
            return logits if cap is None else layers.soft_cap(logits, cap)

    def _recompute_past(self, rope: Rope, batch: ForwardBatch, cache: KVCache) -> None:
        """Run sequences again from their first token, if their keys were turned in another way than they now are."""
        lengths = batch.ends.astype(np.intp)
        regimes = rope.regimes(lengths)
        for row in np.flatnonzero((batch.start > 0) & (cache.regimes[batch.slots] != regimes)):
            slot, start = batch.slots[row : row + 1], int(batch.start[row])
            for first in range(0, start, _CHUNK):
                token_ids = cache.token_ids[int(slot[0]), first : min(first + _CHUNK, start)]
                past = ForwardBatch(token_ids, slot, np.array([len(token_ids)]), np.array([first]))
                self._hidden(past, cache, np.full(len(token_ids), lengths[row]))
        cache.regimes[batch.slots] = regimes
        cache.token_ids[batch.token_slots, batch.positions] = batch.token_ids

    def _hidden(self, batch: ForwardBatch, cache: KVCache, lengths: Indices) -> Array:
        """The last layer's output for the tokens whose logits are wanted, [wanted, hidden].

        lengths [total] choose the frequencies of rotary embeddings.
        """
        rotations = {rope: table.at(batch.positions, lengths) for rope, table in self._tables.items()}
        one_pass = _Pass(self.config, batch, cache, rotations, self._scratch, self._crew)
        hidden = self._weights.embedding[batch.token_ids]
        if self.config.embedding_scale != 1.0:
            hidden *= np.float32(self.config.embedding_scale)
        if self._weights.positions is not None:
            hidden += self._weights.positions[batch.positions]
        *blocks, last = enumerate(self._weights.blocks)
        for index, block in blocks:
            hidden = one_pass.block(index, block, hidden, one_pass.all_tokens)
        return one_pass.block(*last, hidden, one_pass.all_tokens if batch.all_logits else one_pass.last_tokens)


class _Queries:
    """Tokens that ask: which rows of the hidden states they are (None: all), and what they see under each window."""

    def __init__(self, config: ModelConfig, batch: ForwardBatch, cache: KVCache, rows: Indices | None) -> None:
        self.rows = rows
        spans = list(batch.spans(config.num_attention_heads, cache.kinds(batch.slots)))
        windows = {layer.window for layer in config.layers}
        self.views = {window: [(span, *span.visible(window)) for span in spans] for window in windows}

    def of(self, array: NDArray[Scalar]) -> NDArray[Scalar]:
        """The rows of an array that has one for every token."""
        return array if self.rows is None else array[self.rows]


class _Pass:
    """What all layers of one forward pass share: where each token stands, and who attends to what."""

    def __init__(
        self,
        config: ModelConfig,
        batch: ForwardBatch,
        cache: KVCache,
        rotations: dict[Rope, layers.Rotation],
        scratch: Scratch,
        crew: Crew,
    ) -> None:
        self._config = config
        self._cache = cache
        self._slots: Indices = batch.token_slots
        self._positions: Indices = batch.positions
        self._rotations = rotations
        self._scratch = scratch
        self._crew = crew
        self.all_tokens = _Queries(config, batch, cache, None)
        self._batch = batch

    @cached_property
    def last_tokens(self) -> _Queries:
        """Each row's last token: all that the last layer needs to know, if logits are wanted for no other."""
        if len(self._batch.token_ids) == len(self._batch.slots):
            return self.all_tokens
        return _Queries(self._config, self._batch.last_tokens(), self._cache, self._batch.last)

    def block(self, index: int, block: Block, hidden: Array, queries: _Queries) -> Array:
        """One layer: [total, hidden] -> [queries, hidden]; may use `hidden` up."""
        attended = self._attend(index, block, self._normed(block.attention_norm, hidden), queries)
        attended = self._normed(block.attention_out_norm, attended)
        hidden = queries.of(hidden)
        if not self._config.parallel_residual:
            hidden += attended
        added = self._mlp(block, hidden)
        if self._config.parallel_residual:
            hidden += attended
        hidden += added
        return hidden

    def _normed(self, norm: Norm | None, x: Array) -> Array:
        return x if norm is None else norm(x, self._scratch("normed", *x.shape))

    def _linear(self, linear: layers.Linear, x: Array, name: str) -> Array:
        return linear(x, self._scratch(name, linear.num_rows(len(x)), linear.num_outputs), self._crew)

    def _mlp(self, block: Block, hidden: Array) -> Array:
        config = self._config
        up = self._linear(block.up, self._normed(block.mlp_norm, hidden), "up")
        inner = self._scratch("inner", len(hidden), config.intermediate_size)
        if config.gated_mlp:
            layers.gated(config.hidden_act, up, inner)
        else:
            ACTIVATIONS[config.hidden_act](up, inner)
        return self._normed(block.mlp_out_norm, self._linear(block.down, inner, "down"))

    def _attend(self, index: int, block: Block, x: Array, queries: _Queries) -> Array:
        """The attention half of layer number `index`: [total, hidden] -> [queries, hidden]."""
        config, layer = self._config, self._config.layers[index]
        split = config.num_attention_heads * config.head_dim
        if queries.rows is None:
            qkv = self._linear(block.qkv, x, "qkv")
            q, kv = qkv[:, :split], qkv[:, split:]
        else:
            q = self._linear(block.qkv.part(0, split), queries.of(x), "qkv")
            kv = self._linear(block.qkv.part(split, block.qkv.num_outputs), x, "kv")
        q = q.reshape(len(q), -1, config.head_dim)
        kv = kv.reshape(len(kv), 2, -1, config.head_dim)
        for norm, part in ((block.query_norm, q), (block.key_norm, kv[:, 0])):
            if norm is not None:
                grouped = part.reshape(len(part), -1, norm.weight.size)
                norm(grouped, grouped)
        if layer.rope is not None:
            rotation = self._rotations[layer.rope]
            if queries.rows is None:  # queries and keys are neighbours
                layers.rotate(qkv[:, : split + kv[0, 0].size].reshape(len(q), -1, config.head_dim), rotation)
            else:
                layers.rotate(q, queries.of(rotation))
                layers.rotate(kv[:, 0], rotation)
        self._cache.write(index, self._slots, self._positions, kv)
        attended = self._attended(index, layer, q, queries)
        return self._linear(block.output, attended.reshape(len(q), -1), "output")

    def _attended(self, index: int, layer: LayerConfig, q: Array, queries: _Queries) -> Array:
        """[queries, heads, head_dim] -> the same."""
        cap, scratch = self._config.attn_logit_softcapping, self._scratch
        views = queries.views[layer.window]
        out = q if len(views) == 1 else scratch("attended", *q.shape)
        for span, tokens, mask in views:
            *shared, (keys, values) = self._cache.read(index, span.slots, tokens)
            asked = _in_places(span, q[span.tokens].reshape(-1, span.num_visible.shape[1], *q.shape[1:]))
            found = layers.attention(asked, keys, values, scratch, self._crew, mask=mask, cap=cap, before=shared)
            found = (found if span.places is None else found[span.places]).reshape(-1, *q.shape[1:])
            if len(views) == 1 and len(found) == len(q) and isinstance(span.tokens, slice):
                return found
            out[span.tokens] = found
        return out


def _in_places(span: Span, queries: Array) -> Array:
    """Queries of the rows [rows, new, heads, head_dim] among those of all slots that the span covers."""
    if span.places is None:
        return queries
    everywhere = np.zeros((len(span.num_visible), *queries.shape[1:]), np.float32)
    everywhere[span.places] = queries
    return everywhere
