"""Measure forward passes of one network by us and by other engines, each in its own process.

`python -m benchmarks.engines ENGINE MODEL CONTEXT SEQUENCES` reads jobs from standard input, one JSON object per line:

    {"phase": "prefill", "tokens": 512, "seconds": 1}   one sequence, logits of its last token; repeated
    {"phase": "decode", "batch": 8, "seconds": 1}       8 sequences, PROMPT tokens each, then one token per step

The answer to each is tokens per second, after about that many seconds. "decoding", llama.cpp and transformers get
random tokens: nothing is sampled. "LLM" is `LLM.complete` with sampling, stop conditions and text. "read pass" reads
as many bytes as the weights have, once per step: no step of one token can be faster.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

PROMPT = 16
MOST = 1000
THREADS = 2
Ids = np.ndarray[Any, Any]


class Stepping:
    """An engine that gets its tokens from the benchmark. Subclasses define `start` and `step`; `rate` is shared."""

    name: ClassVar[str]
    distribution: ClassVar[str]
    vocab_size: int
    context: int

    def start(self, token_ids: Ids) -> None:
        """Discard all sequences, prefill prompts [sequences, tokens], and compute the logits of each last token."""
        raise NotImplementedError

    def step(self, token_ids: Ids) -> None:
        """Compute one token of each sequence and its logits; token_ids: [sequences]."""
        raise NotImplementedError

    def rate(self, job: dict[str, Any]) -> float:
        """Return the tokens per second of a job."""
        rng = np.random.default_rng(0)
        if job["phase"] == "prefill":
            prompt = rng.integers(3, self.vocab_size, (1, job["tokens"]), np.int32)
            return float(job["tokens"] * per_second(lambda: self.start(prompt), job["seconds"], MOST))
        self.start(rng.integers(3, self.vocab_size, (job["batch"], PROMPT), np.int32))
        token_ids = rng.integers(3, self.vocab_size, job["batch"], np.int32)
        return float(job["batch"] * per_second(lambda: self.step(token_ids), job["seconds"], self.context - PROMPT))


class Ours(Stepping):
    """The forward pass of this checkout, without the engine around it."""

    name = "decoding"
    distribution = "decoding-engine"

    def __init__(self, path: Path, context: int, sequences: int) -> None:
        from decoding.models import BLOCK_SIZE, load_model

        blocks = -(-context // BLOCK_SIZE)  # of each sequence
        self._model = load_model(path, num_threads=THREADS)
        self.vocab_size, self.context = self._model.config.vocab_size, context
        self._cache = self._model.new_cache(sequences * blocks)
        self._tables = np.arange(sequences * blocks, dtype=np.int32).reshape(sequences, blocks)

    def start(self, token_ids: Ids) -> None:
        """Implement Stepping.start."""
        self._length = 0
        self._feed(token_ids)

    def step(self, token_ids: Ids) -> None:
        """Implement Stepping.step."""
        self._feed(token_ids[:, None])

    def _feed(self, token_ids: Ids) -> None:
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


class Complete:
    """`LLM.complete` of this checkout."""

    name = "LLM"
    distribution = "decoding-engine"

    def __init__(self, path: Path, context: int, sequences: int) -> None:
        from decoding import LLM

        self._llm = LLM(path, num_threads=THREADS, max_num_seqs=sequences, prefix_cache=False)
        self._context, self._seconds = context, dict[int, float]()

    def rate(self, job: dict[str, Any]) -> float:
        """Return the tokens per second of a job; a decode job is timed from the first token of each sequence on."""
        from decoding import SamplingParams

        rng = np.random.default_rng(0)
        if job["phase"] == "prefill":
            prompt = rng.integers(3, self._llm.vocab_size, job["tokens"]).tolist()
            one = SamplingParams(max_tokens=1, ignore_eos=True, seed=1)
            return float(job["tokens"] * per_second(lambda: self._llm.complete(prompt, one), job["seconds"], MOST))
        batch = job["batch"]
        prompts = rng.integers(3, self._llm.vocab_size, (batch, PROMPT)).tolist()
        steps = int(job["seconds"] / self._seconds.get(batch, 1.0))
        params = SamplingParams(max_tokens=min(max(steps, 8), self._context - PROMPT), ignore_eos=True, seed=1)
        results = self._llm.complete(prompts, params)
        self._seconds[batch] = float(np.mean([result.metrics.per_token_seconds for result in results]))
        return float(batch / self._seconds[batch])


class ReadPass:
    """A pass over as many bytes as the weights have, by as many threads. A "token" is one pass; there is no prefill."""

    name = "read pass"
    distribution = "decoding-engine"

    def __init__(self, path: Path, context: int, sequences: int) -> None:
        from benchmarks.floor import reader
        from decoding.models import load_model

        num_bytes = load_model(path, num_threads=THREADS).num_weight_bytes
        self._pass = reader(num_bytes, THREADS)

    def rate(self, job: dict[str, Any]) -> float:
        """Return the passes per second; 0 for a job that is not decoding of one sequence."""
        return per_second(self._pass, job["seconds"], MOST) if job.get("batch") == 1 else 0.0


class Transformers(Stepping):
    """Hugging Face transformers, with its own key-value cache."""

    name = "transformers"
    distribution = "transformers"

    def __init__(self, path: Path, context: int, sequences: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._torch = torch
        torch.set_num_threads(THREADS)
        self._model = AutoModelForCausalLM.from_pretrained(path, dtype="auto").eval()
        self.vocab_size, self.context = self._model.config.vocab_size, context

    def start(self, token_ids: Ids) -> None:
        """Implement Stepping.start."""
        self._past = None
        self._feed(token_ids)

    def step(self, token_ids: Ids) -> None:
        """Implement Stepping.step."""
        self._feed(token_ids[:, None])

    def _feed(self, token_ids: Ids) -> None:
        with self._torch.inference_mode():
            ids = self._torch.from_numpy(token_ids.astype(np.int64))
            found = self._model(ids, past_key_values=self._past, use_cache=True, logits_to_keep=1)
            self._past = found.past_key_values
            found.logits.float().numpy()


class LlamaCpp(Stepping):
    """llama.cpp, through llama-cpp-python's bindings of its C interface, with its default cache type.

    If the weights are float32, the cache is float32 too, as ours is.
    """

    name = "llama.cpp"
    distribution = "llama-cpp-python"

    def __init__(self, path: Path, context: int, sequences: int) -> None:
        import llama_cpp

        self._api = llama_cpp
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        options = llama_cpp.llama_context_default_params()
        options.n_ctx, options.n_seq_max = context * sequences, sequences
        options.n_threads = options.n_threads_batch = THREADS
        if path.name == "float32.gguf":
            options.type_k = options.type_v = llama_cpp.GGML_TYPE_F32
        self._context = llama_cpp.llama_init_from_model(self._model, options)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self.context = context

    def start(self, token_ids: Ids) -> None:
        """Implement Stepping.start."""
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), True)
        self._length = 0
        self._feed(token_ids)

    def step(self, token_ids: Ids) -> None:
        """Implement Stepping.step."""
        self._feed(token_ids[:, None])

    def _feed(self, token_ids: Ids) -> None:
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


ENGINES: dict[str, type[Any]] = {engine.name: engine for engine in (Ours, Complete, ReadPass, LlamaCpp, Transformers)}


def per_second(call: Callable[[], object], seconds: float, most: int) -> float:
    """Return how often a call can be made per second. Times at least two calls and at most `most`."""
    begin, count = time.perf_counter(), 0
    while count < min(2, most) or (count < most and time.perf_counter() - begin < seconds):
        call()
        count += 1
    return count / (time.perf_counter() - begin)


def main(arguments: Sequence[str]) -> None:
    """Run the jobs of a parent process. Arguments: name, model, context, sequences."""
    name, path, context, sequences = arguments
    engine = ENGINES[name](Path(path), int(context), int(sequences))
    print(json.dumps({"version": version(ENGINES[name].distribution)}), flush=True)
    for line in sys.stdin:
        print(json.dumps({"rate": engine.rate(json.loads(line))}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
