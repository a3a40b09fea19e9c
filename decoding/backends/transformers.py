"""The forward pass of transformers on torch (the extra `transformers`).

    llm = LLM("checkpoint", backend="transformers")

Any decoder that AutoModelForCausalLM loads from a local folder, in float32 on the CPU. torch's thread pool is that of
the process: num_threads sets it for everything else, too.
"""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from decoding.backends.limits import DEFAULT_LIMITS, Limits
from decoding.backends.protocol import Chunk
from decoding.errors import CheckpointError, UnsupportedModelError
from decoding.models.batch import Logits
from decoding.models.checkpoint import digest_files

_BYTES = 4  # of a float32


class TransformersBackend:
    """A checkpoint run by transformers (`decoding.backends.protocol.Backend`)."""

    can_truncate = True

    def __init__(self, path: str | os.PathLike[str], limits: Limits = DEFAULT_LIMITS) -> None:
        """Load a folder. The number of threads, if it is given, is that of torch in the whole process.

        Raises CheckpointError for a folder that transformers cannot load, UnsupportedModelError for a network without
        keys and values.
        """
        self._path = Path(path)
        self.num_sequences = limits.num_sequences
        if limits.num_threads is not None:
            torch.set_num_threads(limits.num_threads)
        try:
            loaded = transformers.AutoModelForCausalLM.from_pretrained(
                self._path, local_files_only=True, dtype=torch.float32
            )
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(path, None, f"cannot be loaded by transformers ({error})") from error
        if getattr(loaded, "_is_stateful", False):
            raise UnsupportedModelError(f"{path}: {type(loaded).__name__}: must keep keys and values of every token")
        self._model: Any = loaded.eval()
        arguments = inspect.signature(loaded.forward).parameters
        self._cache_argument = "cache" if "cache" in arguments else "past_key_values"  # renamed by transformers 5
        text = loaded.config.get_text_config(decoder=True)
        self.vocab_size = int(text.vocab_size)
        self.bos_token_id: int | None = text.bos_token_id
        self.eos_token_ids = _ids(loaded.generation_config.eos_token_id)
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self.token_bytes = int(text.num_hidden_layers * heads * width * 2 * _BYTES)
        self.max_tokens = limits.context(int(text.max_position_embeddings), self.token_bytes)
        self._caches = [self._empty() for _ in range(limits.num_sequences)]

    @cached_property
    def digest(self) -> str:
        """Hex digest of config and weights, and the versions of the libraries, read on first use."""
        files = sorted(file for file in self._path.iterdir() if file.suffix in (".json", ".safetensors", ".bin"))
        return f"transformers {transformers.__version__} torch {torch.__version__} {digest_files(files)}"

    def forward(self, chunks: Sequence[Chunk]) -> Logits:
        """Append the chunks, one call each; return the wanted logits."""
        rows = [np.empty((0, self.vocab_size), np.float32)]
        with torch.inference_mode():
            rows += [self._run(chunk) for chunk in chunks]
        return np.concatenate(rows)

    def truncate(self, sequence: int, num_tokens: int) -> None:
        """Keep the first tokens of a sequence."""
        if not num_tokens:
            self._caches[sequence] = self._empty()
            return
        excess = self._caches[sequence].get_seq_length() - num_tokens
        if excess > 0:
            self._caches[sequence].crop(-excess)  # positive lengths are refused from version 5 on

    def fork(self, source: int, target: int, num_tokens: int) -> None:
        """Replace the target by a copy of the beginning of the source."""
        self._caches[target] = copy.deepcopy(self._caches[source])
        self.truncate(target, num_tokens)

    def _run(self, chunk: Chunk) -> Logits:
        cache = {self._cache_argument: self._caches[chunk.sequence]}
        kept = max(1, chunk.num_logits)
        outputs = self._model(input_ids=torch.tensor([chunk.token_ids]), use_cache=True, logits_to_keep=kept, **cache)
        logits: Logits = outputs.logits[0, kept - chunk.num_logits :].float().numpy()
        return logits

    def _empty(self) -> Any:
        return transformers.DynamicCache()  # without the config, layers with windows keep all tokens, and can be cut


def _ids(eos: int | Sequence[int] | None) -> tuple[int, ...]:
    if eos is None:
        return ()
    return (eos,) if isinstance(eos, int) else tuple(eos)
