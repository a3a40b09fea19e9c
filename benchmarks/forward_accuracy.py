"""Measure errors of logits against float64: ours, transformers' on a checkpoint folder, llama.cpp's on a GGUF file.

    python -m benchmarks.accuracy --model PATH [--quantization TYPE] [--tokens N] [--ids FILE]

The truth is decoding.reference.forward with all weights (dequantised) and activations in float64. Errors are over
every logit of every token, relative to the root mean square of the logits. KL is the divergence KL(truth || engine)
of the next token's distribution in nats, the mean over the tokens.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from decoding.models import BLOCK_SIZE, ForwardBatch, load_config, load_model, load_network
from decoding.models.model_files import ModelFiles
from decoding.models.numpy_backend import compute_table, rotary_rows
from decoding.models.registry import open_model
from decoding.models.rotary import RotaryTables
from decoding.reference.forward import forward

Logits: TypeAlias = Callable[[Path, NDArray[np.int32]], NDArray[np.float32]]
"""(model, token ids) -> logits [tokens, vocab]."""

ROOT = Path(__file__).resolve().parents[1]


class Errors(NamedTuple):
    """Mean and maximum of |logit - truth| relative to the logits' size, and the mean KL divergence from the truth."""

    mean: float
    maximum: float
    divergence: float


def token_ids(opened: ModelFiles, num_tokens: int, file: Path | None) -> NDArray[np.int32]:
    """Return ids from a JSON file; without one, of README.md if the model has a tokenizer, otherwise random ids."""
    if file is not None:
        ids = json.loads(file.read_text())
    elif (tokenizer := opened.tokenizer()) is not None:
        ids = tokenizer.encode((ROOT / "README.md").read_text())
    else:
        ids = np.random.Generator(np.random.Philox(key=1)).integers(0, opened.config.vocab_size, num_tokens)
    return np.array(ids[:num_tokens], np.int32)


def _batch(ids: NDArray[np.int32]) -> ForwardBatch:
    """Return a batch of one whole sequence, with logits of every token."""
    count = np.array([len(ids)], np.int32)
    table = np.arange(-(-len(ids) // BLOCK_SIZE), dtype=np.int32)
    return ForwardBatch(ids, count, 0 * count, [table], count, np.arange(len(ids), dtype=np.int32))


def truth(path: Path, ids: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return logits in float64, [tokens, vocab]."""
    rotary = rotary_rows(RotaryTables(load_config(path), compute_table), _batch(ids))
    return forward(load_network(path), ids, rotary).logits


def ours(backend: str, quantization: str | None = None) -> Logits:
    """Return a function that computes logits by one of our backends."""

    def logits(path: Path, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        model, batch = load_model(path, backend=backend, quantization=quantization), _batch(ids)
        return model.forward(batch, model.new_cache(len(batch.block_tables[0])))

    return logits


def llama_cpp(path: Path, ids: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return logits by llama.cpp, with its keys and values in float32, as ours are."""
    import llama_cpp

    model: Any = llama_cpp.Llama(
        str(path), n_ctx=len(ids), logits_all=True, type_k=0, type_v=0, flash_attn=False, verbose=False
    )
    model.eval(ids.tolist())
    return np.array(model.scores[: len(ids)], np.float32)


def transformers(folder: Path, ids: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return logits by transformers in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor(ids[None].astype(np.int64)), use_cache=False).logits[0].numpy()


def divergence(exact: NDArray[np.float64], logits: NDArray[np.float32]) -> float:
    """Return the mean KL divergence of the distributions of logits [tokens, vocab] from the exact ones, in nats."""
    total = 0.0
    for row, other in zip(exact, logits, strict=True):
        true, found = _logprobs(row), _logprobs(other.astype(np.float64))
        total += float(np.sum(np.exp(true) * (true - found)))
    return total / len(exact)


def _logprobs(row: NDArray[np.float64]) -> NDArray[np.float64]:
    relative: NDArray[np.float64] = row - row.max()
    return relative - np.log(np.exp(relative).sum())


def engines(opened: ModelFiles, quantization: str | None) -> dict[str, Logits]:
    """Return the functions that compute a model's logits, by the engine's name."""
    if opened.metadata is not None:
        found = {"native": ours("native"), "numpy, dequantised": ours("numpy")}
        return found | ({"llama.cpp": llama_cpp} if importlib.util.find_spec("llama_cpp") else {})
    found = {"native": ours("native"), "numpy": ours("numpy")}
    if quantization is not None:
        found[f"native {quantization}"] = ours("native", quantization)
    has_transformers = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    return found | ({"transformers float32": transformers} if has_transformers else {})


def report(path: Path, num_tokens: int, file: Path | None, quantization: str | None = None) -> None:
    """Print a table."""
    opened = open_model(path)
    ids = token_ids(opened, min(num_tokens, opened.config.max_position_embeddings), file)
    exact = truth(path, ids)
    print(f"{opened.name}: {len(ids)} tokens; errors relative to the logits' root mean square, {size_of(exact):.3g}")
    print(f"  {'':22} {'mean':>9} {'maximum':>9} {'mean KL':>9}")
    for engine, errors in measure(path, ids, exact, engines(opened, quantization)):
        print(f"  {engine:22} {errors.mean:9.2e} {errors.maximum:9.2e} {errors.divergence:9.2e}", flush=True)


def size_of(logits: NDArray[np.float64]) -> float:
    """Return the root mean square of logits."""
    return float(np.sqrt(np.mean(np.square(logits))))


def measure(
    path: Path, ids: NDArray[np.int32], exact: NDArray[np.float64], computing: Mapping[str, Logits]
) -> Iterator[tuple[str, Errors]]:
    """Yield each engine's name and errors."""
    size = size_of(exact)
    for name, logits in computing.items():
        found = logits(path, ids)
        error = np.abs(found - exact) / size
        yield name, Errors(float(error.mean()), float(error.max()), divergence(exact, found))
