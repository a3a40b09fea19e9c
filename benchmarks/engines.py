"""Forward passes of a Llama network by us and by others, each in a process of its own: `python -m benchmarks.engines`.

The process is told an engine, a folder with a checkpoint, a context and a number of sequences, and then measures what
it reads from its standard input, a JSON object to a line:

    {"phase": "prefill", "tokens": 128, "seconds": 1}   one sequence, logits of its last token; again and again
    {"phase": "decode", "batch": 8, "seconds": 1}       so many sequences, PROMPT tokens each, then a token at a time

It answers with tokens per second after about that many seconds. Tokens are drawn at random: nothing is sampled.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

PROMPT = 16
MOST = 1000
THREADS = 2


class Engine(Protocol):
    """A network and a cache."""

    name: ClassVar[str]
    distribution: ClassVar[str]

    def start(self, token_ids: np.ndarray[Any, Any]) -> None:
        """Feed prompts, [sequences, tokens], and make the logits of each one's last token; forgets the past."""
        ...

    def step(self, token_ids: np.ndarray[Any, Any]) -> None:
        """Feed one token of each sequence and make its logits, [sequences]."""
        ...


class Ours:
    """The package in this checkout."""

    name = "decoding"
    distribution = "decoding-engine"

    def __init__(self, folder: Path, context: int, sequences: int) -> None:
        from decoding.models import BLOCK_SIZE, load_model

        blocks = -(-context // BLOCK_SIZE)  # of each sequence
        self._model = load_model(folder)
        self._cache = self._model.new_cache(sequences * blocks)
        self._tables = np.arange(sequences * blocks, dtype=np.int32).reshape(sequences, blocks)

    def start(self, token_ids: np.ndarray[Any, Any]) -> None:
        """As the protocol says."""
        self._length = 0
        self._feed(token_ids)

    def step(self, token_ids: np.ndarray[Any, Any]) -> None:
        """As the protocol says."""
        self._feed(token_ids[:, None])

    def _feed(self, token_ids: np.ndarray[Any, Any]) -> None:
        from decoding.models import ForwardBatch

        rows, new = token_ids.shape
        same = np.ones(rows, np.int32)
        batch = ForwardBatch(
            token_ids=token_ids.ravel().astype(np.int32),
            num_new=new * same,
            start=self._length * same,
            block_tables=self._tables[:rows],
            rope_lengths=0 * same,
            logits_tokens=new * np.arange(1, rows + 1, dtype=np.int32) - 1,
        )
        self._model.forward(batch, self._cache)
        self._length += new


class Transformers:
    """Hugging Face's, with its own key-value cache."""

    name = "transformers"
    distribution = "transformers"

    def __init__(self, folder: Path, context: int, sequences: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._torch = torch
        torch.set_num_threads(THREADS)
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def start(self, token_ids: np.ndarray[Any, Any]) -> None:
        """As the protocol says."""
        self._past = None
        self._feed(token_ids)

    def step(self, token_ids: np.ndarray[Any, Any]) -> None:
        """As the protocol says."""
        self._feed(token_ids[:, None])

    def _feed(self, token_ids: np.ndarray[Any, Any]) -> None:
        with self._torch.inference_mode():
            ids = self._torch.from_numpy(token_ids.astype(np.int64))
            found = self._model(ids, past_key_values=self._past, use_cache=True, logits_to_keep=1)
            self._past = found.past_key_values
            found.logits.numpy()


class LlamaCpp:
    """llama.cpp, through llama-cpp-python's bindings of its C interface; needs `gguf` to convert the checkpoint."""

    name = "llama.cpp"
    distribution = "llama-cpp-python"

    def __init__(self, folder: Path, context: int, sequences: int) -> None:
        import llama_cpp

        from benchmarks.shapes import write_gguf

        self._api = llama_cpp
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(
            str(write_gguf(folder)).encode(), llama_cpp.llama_model_default_params()
        )
        options = llama_cpp.llama_context_default_params()
        options.n_ctx, options.n_seq_max = context * sequences, sequences
        options.n_threads = options.n_threads_batch = THREADS
        options.type_k = options.type_v = llama_cpp.GGML_TYPE_F32
        self._context = llama_cpp.llama_init_from_model(self._model, options)

    def start(self, token_ids: np.ndarray[Any, Any]) -> None:
        """As the protocol says."""
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), True)
        self._length = 0
        self._feed(token_ids)

    def step(self, token_ids: np.ndarray[Any, Any]) -> None:
        """As the protocol says."""
        self._feed(token_ids[:, None])

    def _feed(self, token_ids: np.ndarray[Any, Any]) -> None:
        rows, new = token_ids.shape
        batch = self._api.llama_batch_init(rows * new, 0, 1)
        batch.n_tokens = rows * new
        for index in range(rows * new):
            row, place = divmod(index, new)
            batch.token[index], batch.pos[index] = int(token_ids[row, place]), self._length + place
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, row
            batch.logits[index] = place == new - 1
        if self._api.llama_decode(self._context, batch):
            raise RuntimeError("llama_decode failed")
        self._api.llama_get_logits_ith(self._context, rows * new - 1)  # waits for the result
        self._api.llama_batch_free(batch)
        self._length += new


ENGINES: dict[str, type[Any]] = {engine.name: engine for engine in (Ours, LlamaCpp, Transformers)}


def measure(engine: Engine, vocab_size: int, context: int, job: dict[str, Any]) -> float:
    """Tokens per second of one job."""
    rng = np.random.default_rng(0)
    if job["phase"] == "prefill":
        prompt = rng.integers(3, vocab_size, (1, job["tokens"]), np.int32)
        return job["tokens"] * _per_second(lambda: engine.start(prompt), job["seconds"], MOST)
    engine.start(rng.integers(3, vocab_size, (job["batch"], PROMPT), np.int32))
    token_ids = rng.integers(3, vocab_size, job["batch"], np.int32)
    return job["batch"] * _per_second(lambda: engine.step(token_ids), job["seconds"], context - PROMPT)


def _per_second(call: Callable[[], None], seconds: float, most: int) -> float:
    """How often a call can be made in a second; at least two calls and at most `most` are timed."""
    begin, count = time.perf_counter(), 0
    while count < min(2, most) or (count < most and time.perf_counter() - begin < seconds):
        call()
        count += 1
    return count / (time.perf_counter() - begin)


def main(arguments: Sequence[str]) -> None:
    """Measure for a parent; arguments: name, folder, context, sequences."""
    name, folder, context, sequences = arguments
    engine = ENGINES[name](Path(folder), int(context), int(sequences))
    vocab_size = json.loads((Path(folder) / "config.json").read_text())["vocab_size"]
    print(json.dumps({"version": version(ENGINES[name].distribution)}), flush=True)
    for line in sys.stdin:
        rate = measure(engine, vocab_size, int(context), json.loads(line))
        print(json.dumps({"rate": rate}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
