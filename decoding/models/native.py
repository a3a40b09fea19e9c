"""backend="native": the forward pass of the C library (csrc/forward) behind a model's interface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from decoding.errors import KernelError, ParameterError
from decoding.models.batch import ForwardBatch, KVCache, check_num_blocks
from decoding.models.config import ModelConfig
from decoding.models.model_base import ModelBase
from decoding.models.native_matrix import PackedMatrix
from decoding.models.native_plan import (
    Forward,
    KVPool,
    Plan,
    PlanLayer,
    PlanNorm,
    Step,
    enable_amx,
    rotary_table,
)
from decoding.models.packing import TYPES, Progress, pack_weights
from decoding.models.rotary import RotaryTables, Rows
from decoding.models.threads import default_num_threads
from decoding.models.weights import NormWeights, StoredMatrix, Weights
from decoding.sampling.kernel.decode_steps import DrawnSteps, StepsAhead
from decoding.sampling.kernel.threads import ThreadPool

if TYPE_CHECKING:
    from decoding.sampling.sampler import Sampler
    from decoding.sampling.state import SamplingState

_MAX_THREADS = 1024
_MAX_STEPS = 8
_STEP_BYTES = 2**29
"""Bytes of weights that steps in a row may read, so that they take some tens of milliseconds."""


class NativeModel(ModelBase):
    """A model computed by the C library; one thread uses it at a time.

    The bits of logits depend on the weights, the tokens and their positions alone: not on the rest of the batch, on
    chunks, threads or the instruction set. Weights stay in their storage type.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights[StoredMatrix],
        files: Sequence[Path] = (),
        *,
        num_threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Pack the weights. The arguments are those of `load_model`."""
        super().__init__(config, rotary_table, files)
        self.num_threads = _checked_num_threads(num_threads)
        enable_amx()
        self._plan = build_plan(config, pack_weights(weights, self.num_threads, progress), self._rotary)
        self.threads = ThreadPool(self.num_threads)
        """The threads of the forward pass, idle between two passes."""
        self._forward = Forward(self._plan, self.threads)

    @property
    def num_weight_bytes(self) -> int:
        """The bytes of packed weights, all of which a step of a single token reads."""
        return self._plan.num_weight_bytes

    def new_cache(self, num_blocks: int) -> KVPool:
        """Return an empty cache; ParameterError if the system refuses the address space."""
        check_num_blocks(num_blocks)
        try:
            return KVPool(self._plan, num_blocks)
        except (MemoryError, ValueError):
            rule = f"needs {num_blocks * self._plan.kv_block_bytes:,} bytes, which the system refuses"
            raise ParameterError.single("num_blocks", num_blocks, rule) from None

    def forward(self, batch: ForwardBatch, cache: KVCache) -> NDArray[np.float32]:
        """Compute the new tokens and leave their keys and values in the cache.

        Returns logits [num_logits, vocab]. Weights that make a number overflow give NaN or infinite logits. Raises
        ParameterError or ContextLengthError for a batch that does not fit the model or the cache.
        """
        pool = self._own(cache)
        batch.check_shapes(self.config)
        step, rows = self._step(batch)
        try:
            return self._forward(step, pool)
        except KernelError:
            batch.check(self.config, cache.num_blocks)  # says which value is wrong
            raise
        finally:
            del rows  # the step has their addresses

    def max_steps(self, num_sequences: int) -> int:
        """Return how many decoding steps of so many sequences may run in a row: few where a step takes long."""
        if self._rotary.depends_on_length:
            return 1
        num_bytes = self.num_weight_bytes * (1 + num_sequences / 32)
        return max(1, min(_MAX_STEPS, int(_STEP_BYTES // num_bytes)))

    def decode(
        self, batch: ForwardBatch, cache: KVCache, sampler: Sampler, states: list[SamplingState], ahead: StepsAhead
    ) -> DrawnSteps:
        """Run decoding steps in a row, as StepsModel describes. Raises as `forward` does."""
        pool = self._own(cache)
        last = replace(batch, start=batch.start + np.int32(ahead.num_steps - 1))
        last.check_shapes(self.config)
        list(self._rotary.rows(last))  # so that the tables have the last step's rows
        step, rows = self._step(batch)
        drawn = sampler.decode(self._forward.steps(step, pool, ahead), states)
        del rows
        return drawn

    def _own(self, cache: KVCache) -> KVPool:
        if not isinstance(cache, KVPool) or cache.block_bytes != self._plan.kv_block_bytes:
            raise ParameterError.single("cache", cache, "must be a cache of this model")
        return cache

    def _step(self, batch: ForwardBatch) -> tuple[Step, object]:
        """Return a batch in the form of the C library, and the rows that it has the addresses of."""
        rows = list(self._rotary.rows(batch))
        token_ids, num_new, start, logits_tokens = map(
            _int32s, (batch.token_ids, batch.num_new, batch.start, batch.logits_tokens)
        )
        addresses = _addresses(rows, len(token_ids)) if rows else None
        return Step(token_ids, num_new, start, batch.block_tables, logits_tokens, addresses), rows


def _checked_num_threads(num_threads: int | None) -> int:
    """Return the number of threads, by default that of the CPUs; ParameterError for a bad one."""
    if num_threads is None:
        return default_num_threads()
    if type(num_threads) is not int or not 1 <= num_threads <= _MAX_THREADS:
        raise ParameterError.single("num_threads", num_threads, f"must be an integer from 1 to {_MAX_THREADS}")
    return num_threads


def build_plan(config: ModelConfig, weights: Weights[PackedMatrix], ropes: RotaryTables) -> Plan:
    """Return the network in the form of the C library.

    The embedding stays in its file; one in a type that the kernel does not know is converted to float32.
    """
    embedding = weights.embedding
    return Plan(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        activation=config.hidden_act,
        gated=config.gated_mlp,
        embedding=embedding.stored(slice(0, config.vocab_size)) if embedding.dtype in TYPES else embedding.read(),
        embedding_type=TYPES.get(embedding.dtype, "float32"),
        layers=_layers(config, weights, ropes),
        norm=_norm(config, weights.norm),
        head=weights.head,
        parallel_residual=config.parallel_residual,
        rope_pairs=[rope.num_pairs for rope in ropes.ropes],
        attention_cap=config.attn_logit_softcapping or 0.0,
        logits_cap=config.final_logit_softcapping or 0.0,
        embedding_scale=config.embedding_scale,
        residual_scale=config.residual_scale,
        logits_scale=config.logits_scale,
        positions=weights.positions,
    )


def _layers(config: ModelConfig, weights: Weights[PackedMatrix], ropes: RotaryTables) -> list[PlanLayer]:
    layers = []
    for block, settings in zip(weights.blocks, config.layers, strict=True):
        rope = ropes.index(settings.rope)
        layer = PlanLayer(
            block.qkv,
            block.output,
            block.up,
            block.down,
            scale=settings.scale,
            rope=-1 if rope is None else rope,
            window=settings.window or 0,
            attention_norm=_norm(config, block.norms.attention),
            query_norm=_norm(config, block.norms.query),
            key_norm=_norm(config, block.norms.key),
            attention_out_norm=_norm(config, block.norms.attention_out),
            mlp_norm=_norm(config, block.norms.mlp),
            mlp_out_norm=_norm(config, block.norms.mlp_out),
        )
        layers.append(layer)
    return layers


def _norm(config: ModelConfig, norm: NormWeights | None) -> PlanNorm | None:
    if norm is None:
        return None
    return PlanNorm("rms" if norm.bias is None else "layer", norm.weight, config.norm_eps, norm.bias)


def _addresses(tables: Sequence[Sequence[Rows]], num_tokens: int) -> NDArray[np.uintp]:
    """Return the address of each token's row in each rotary table, [ropes, total]."""
    addresses = np.empty((len(tables), num_tokens), np.uintp)
    for index, pieces in enumerate(tables):
        for tokens, table, offsets in pieces:
            addresses[index, tokens] = table.ctypes.data + table.strides[0] * offsets
    return addresses


def _int32s(array: NDArray[np.integer]) -> NDArray[np.int32]:
    return np.ascontiguousarray(array, np.int32)
