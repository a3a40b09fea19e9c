"""Functions that run networks on token ids in batches, chunks and block tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from decoding.models import BLOCK_SIZE, ForwardBatch, load_config, load_network
from decoding.models.numpy_backend import compute_table, network, rotary_rows
from decoding.models.registry import ARCHITECTURES, open_model
from decoding.models.rotary import RotaryTables
from decoding.models.weights import stored_tensors
from decoding.reference.forward import forward
from decoding.reference.quantised import matmul


class Row(NamedTuple):
    """New tokens of a sequence.

    blocks: block table of the sequence.
    rope_length: length of its prompt, for rotary embeddings that depend on it.
    """

    token_ids: Sequence[int]
    start: int = 0
    blocks: Sequence[int] = (0,)
    rope_length: int = 0


def blocks(num_tokens: int, first: int = 0) -> list[int]:
    """Return a block table for `num_tokens` tokens: consecutive blocks from `first` on."""
    return list(range(first, first - (-num_tokens // BLOCK_SIZE)))


def make_batch(*rows: Row, all_logits: bool = False) -> ForwardBatch:
    """Return a batch of the rows, with logits of the last token per row or of all tokens."""
    counts = [len(row.token_ids) for row in rows]
    total = sum(counts)
    return ForwardBatch(
        token_ids=np.concatenate([np.array(row.token_ids, np.int32) for row in rows]),
        num_new=np.array(counts, np.int32),
        start=np.array([row.start for row in rows], np.int32),
        block_tables=[np.array(row.blocks, np.int32) for row in rows],
        rope_lengths=np.array([row.rope_length for row in rows], np.int32),
        logits_tokens=np.arange(total, dtype=np.int32) if all_logits else np.cumsum(counts, dtype=np.int32) - 1,
    )


def logits(
    model: Any, token_ids: Sequence[int], chunks: Sequence[int] = (), rope_length: int | None = None
) -> NDArray[np.float32]:
    """Return the logits of every token, [tokens, vocab], computed in chunks of the given sizes or at once."""
    table = blocks(len(token_ids))
    length = len(token_ids) if rope_length is None else rope_length
    cache, rows, start = model.new_cache(len(table)), [], 0
    for size in chunks or [len(token_ids)]:
        row = Row(token_ids[start : start + size], start, table, length)
        rows.append(model.forward(make_batch(row, all_logits=True), cache))
        start += size
    return np.concatenate(rows)


def truth(folder: Path, token_ids: Sequence[int]) -> NDArray[np.float64]:
    """Return the float64 reference's logits of every token, [tokens, vocab]."""
    batch = make_batch(Row(token_ids, 0, blocks(len(token_ids)), len(token_ids)))
    rotary = rotary_rows(RotaryTables(load_config(folder), compute_table), batch)
    return forward(load_network(folder), np.array(token_ids), rotary).logits


def quantised_reference(path: Path) -> Callable[[Sequence[int]], NDArray[np.float64]]:
    """Return a function from token ids to logits [tokens, vocab] that follows the kernel's quantised arithmetic.

    Weights are dequantised and inputs of matmuls quantised; all sums are in float64. If not all parts of a matrix are
    quantised, its inputs are not quantised either.
    """
    opened = open_model(path)
    weights, whole = opened.weights(), network(opened.config, opened.weights(), np.float64)
    layers = [
        layer._replace(
            qkv=_quantised(block.qkv, layer.qkv, may_mix=True),
            output=_quantised(block.output, layer.output),
            up=_quantised(block.up, layer.up, may_mix=True),
            down=_quantised(block.down, layer.down),
        )
        for block, layer in zip(weights.blocks, whole.layers, strict=True)
    ]
    whole = whole._replace(layers=tuple(layers), head=_quantised(weights.head, whole.head))
    tables = RotaryTables(opened.config, compute_table)

    def run(token_ids: Sequence[int]) -> NDArray[np.float64]:
        batch = make_batch(Row(token_ids, 0, blocks(len(token_ids)), len(token_ids)))
        return forward(whole, np.array(token_ids), rotary_rows(tables, batch)).logits

    return run


def _quantised(matrix: Any, linear: Any, may_mix: bool = False) -> Any:
    """Return a function that multiplies quantised inputs if the kernel does so for the matrix."""
    kinds = [part.tensor.dtype for part in matrix.parts]
    ends = np.cumsum([part.num_outputs for part in matrix.parts])
    borders = [end for end, kind, after in zip(ends, kinds, kinds[1:], strict=False) if kind != after]
    may_be_chained = may_mix and not any(end % 16 for end in borders)
    if not {"F32", "F16", "BF16"}.isdisjoint(kinds) or (borders and not may_be_chained):
        return linear
    return lambda inputs: matmul(inputs.astype(np.float32), linear.weight, linear.bias)


def greedy(model: Any, token_ids: Sequence[int], num_tokens: int) -> list[int]:
    """Return `num_tokens` greedily decoded tokens."""
    table = blocks(len(token_ids) + num_tokens)
    cache, output, new, start = model.new_cache(len(table)), list[int](), list(token_ids), 0
    while len(output) < num_tokens:
        row = model.forward(make_batch(Row(new, start, table, len(token_ids))), cache)
        start += len(new)
        new = [int(row[0].argmax())]
        output += new
    return output


def tensors(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the tensors that the config in `folder` requires."""
    config = load_config(folder)
    layout = ARCHITECTURES[config.model_type].layout(config)
    return dict(stored_tensors(config, layout, layout.prefixes[0], layout.heads[0]))


def write_recipe(folder: Path, maker: Any, recipe: Any, dtype: str | None = None) -> None:
    """Write the checkpoint of a recipe of make_golden.py, in its storage type or in another one."""
    maker.write_checkpoint(folder, recipe, {})
    maker.write_checkpoint(folder, recipe, maker.weights(recipe, tensors(folder).items()), dtype)
