"""Errors of logits against float64, ours and those of transformers, for the model in a folder.

    python -m benchmarks.accuracy --model FOLDER [--tokens N] [--ids FILE]

The truth is decoding.reference.forward with all weights and activations in float64. Errors are absolute, of every
logit of every token, beside the size of the logits.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from decoding.models import BLOCK_SIZE, ForwardBatch, ModelConfig, load_config, load_model, load_network
from decoding.models.numpy_backend import compute_table, rotary_rows
from decoding.models.rotary import RotaryTables
from decoding.reference.forward import forward

ROOT = Path(__file__).resolve().parents[1]


class Errors(NamedTuple):
    """Errors of one engine: mean and maximum of |logit - truth|."""

    engine: str
    mean: float
    maximum: float


def token_ids(folder: Path, config: ModelConfig, num_tokens: int, file: Path | None) -> NDArray[np.int32]:
    """Return ids from a JSON file, otherwise of our README if the model has a tokenizer, otherwise random ones."""
    if file is not None:
        ids = json.loads(file.read_text())
    elif (folder / "tokenizer.json").exists():
        from decoding.text.tokenizer import Tokenizer

        ids = Tokenizer.from_folder(folder, config.vocab_size).encode((ROOT / "README.md").read_text())
    else:
        ids = np.random.Generator(np.random.Philox(key=1)).integers(0, config.vocab_size, num_tokens)
    return np.array(ids[:num_tokens], np.int32)


def _batch(ids: NDArray[np.int32]) -> ForwardBatch:
    """Return a whole sequence, with logits of every token."""
    count = np.array([len(ids)], np.int32)
    table = np.arange(-(-len(ids) // BLOCK_SIZE), dtype=np.int32)
    return ForwardBatch(ids, count, 0 * count, [table], count, np.arange(len(ids), dtype=np.int32))


def truth(folder: Path, ids: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return logits in float64, [tokens, vocab]."""
    rotary = rotary_rows(RotaryTables(load_config(folder), compute_table), _batch(ids))
    return forward(load_network(folder), ids, rotary).logits


def ours(backend: str) -> Callable[[Path, NDArray[np.int32]], NDArray[np.float32]]:
    """Return what computes logits by one of our backends."""

    def logits(folder: Path, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        model, batch = load_model(folder, backend=backend), _batch(ids)
        return model.forward(batch, model.new_cache(len(batch.block_tables[0])))

    return logits


def transformers(folder: Path, ids: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return logits by transformers in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor(ids[None].astype(np.int64)), use_cache=False).logits[0].numpy()


def measure(folder: Path, ids: NDArray[np.int32]) -> Iterator[Errors | float]:
    """Yield the root mean square of the true logits, then the errors of each engine."""
    exact = truth(folder, ids)
    yield float(np.sqrt(np.mean(np.square(exact))))
    engines = {"native": ours("native"), "numpy": ours("numpy")}
    if all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
        engines["transformers float32"] = transformers
    for name, logits in engines.items():
        error = np.abs(logits(folder, ids) - exact)
        yield Errors(name, float(error.mean()), float(error.max()))


def report(folder: Path, num_tokens: int, file: Path | None) -> None:
    """Print a table."""
    config = load_config(folder)
    ids = token_ids(folder, config, min(num_tokens, config.max_position_embeddings), file)
    size, *errors = measure(folder, ids)
    print(f"{folder.name}: {len(ids)} tokens, logits of root mean square {size:.3g}; absolute errors")
    print(f"  {'':22} {'mean':>9} {'maximum':>9}")
    for engine, mean, maximum in errors:
        print(f"  {engine:22} {mean:9.2e} {maximum:9.2e}")
