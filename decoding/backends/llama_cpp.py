"""llama.cpp's forward pass, through the low-level interface of llama-cpp-python (the extra `llama-cpp`).

    model = BackendModel(LlamaCppBackend("model.gguf", Limits(num_sequences=8)))
    llm = LLM.from_parts(model, llama_cpp.tokenizer("model.gguf", model.config.vocab_size), max_num_seqs=8)

Any GGUF file that llama.cpp reads, with causal attention or recurrent. Each sequence has cells of its own, so no
sequence's logits depend on the other sequences.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from decoding.backends.limits import DEFAULT_LIMITS, Limits
from decoding.backends.protocol import Chunk
from decoding.errors import CheckpointError, EngineError, ParameterError, UnsupportedModelError
from decoding.models.batch import Logits
from decoding.models.checkpoint import digest_files
from decoding.models.gguf_reader import read_metadata
from decoding.models.threads import default_num_threads
from decoding.text.gguf_tokenizer import read_tokenizer
from decoding.text.tokenizer import Tokenizer

MAX_CALL_TOKENS = 512
"""Tokens of one call of llama.cpp."""

_CELL_STEP = 256  # llama.cpp rounds the context of a sequence up to it
_ERROR = 4  # a log level
_MAX_SEQUENCES = llama_cpp.llama_max_parallel_sequences()
_messages: deque[str] = deque(maxlen=8)


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _: object) -> None:
    """Record error messages for the exception that follows. Print nothing."""
    if level == _ERROR:
        _messages.append(text.decode("utf-8", "replace").strip())


class LlamaCppBackend:
    """A GGUF model run by llama.cpp (`decoding.backends.protocol.Backend`)."""

    def __init__(self, path: str | os.PathLike[str], limits: Limits = DEFAULT_LIMITS) -> None:
        """Load a model; of a sharded one the first file. At most 256 sequences.

        Raises CheckpointError for a file that llama.cpp cannot load, UnsupportedModelError for an encoder.
        """
        if not 1 <= limits.num_sequences <= _MAX_SEQUENCES:
            rule = f"must be an integer from 1 to {_MAX_SEQUENCES} with the backend llama-cpp"
            raise ParameterError.single("max_num_seqs", limits.num_sequences, rule)
        self._path = Path(path)
        self.num_sequences = limits.num_sequences
        self._model = _load(self._path)
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.vocab_size = int(llama_cpp.llama_vocab_n_tokens(self._vocab))
        self.bos_token_id = _id_or_none(llama_cpp.llama_vocab_bos(self._vocab))
        ids = range(self.vocab_size)
        self.eos_token_ids = tuple(i for i in ids if llama_cpp.llama_vocab_is_eog(self._vocab, i))
        model = self._model
        self.can_truncate = not (llama_cpp.llama_model_is_recurrent(model) or llama_cpp.llama_model_is_hybrid(model))
        self.token_bytes = _token_bytes(model)
        self.max_tokens = limits.context(llama_cpp.llama_model_n_ctx_train(model), self.token_bytes, _CELL_STEP)
        self._context_handle = self._new_context(limits.num_threads)
        self._memory = llama_cpp.llama_get_memory(self._context_handle)
        self._batch = llama_cpp.llama_batch_init(MAX_CALL_TOKENS, 0, 1)
        weakref.finalize(self, _free, self._batch, self._context_handle, self._model)

    @cached_property
    def digest(self) -> str:
        """Hex digest of the file and the version of llama-cpp-python, read on first use."""
        return f"llama-cpp-python {llama_cpp.__version__} {digest_files([self._path])}"

    def forward(self, chunks: Sequence[Chunk]) -> Logits:
        """Append the chunks, in as many calls as MAX_CALL_TOKENS needs; return the wanted logits."""
        entries = [entry for chunk in chunks for entry in _entries(chunk)]
        rows = [np.empty((0, self.vocab_size), np.float32)]
        for first in range(0, len(entries), MAX_CALL_TOKENS):
            rows.append(self._decode(entries[first : first + MAX_CALL_TOKENS]))
        return np.concatenate(rows)

    def truncate(self, sequence: int, num_tokens: int) -> None:
        """Keep the first tokens of a sequence."""
        if not llama_cpp.llama_memory_seq_rm(self._memory, sequence, num_tokens, -1):
            raise EngineError(f"llama.cpp cannot cut sequence {sequence} to {num_tokens} tokens")

    def fork(self, source: int, target: int, num_tokens: int) -> None:
        """Replace the target by the beginning of the source; llama.cpp copies the whole sequence, then cuts it."""
        llama_cpp.llama_memory_seq_rm(self._memory, target, -1, -1)
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        if self.can_truncate:
            self.truncate(target, num_tokens)

    def _decode(self, entries: Sequence[tuple[int, int, int, bool]]) -> Logits:
        batch = self._batch
        batch.n_tokens = len(entries)
        wanted = []
        for index, (token_id, position, sequence, is_wanted) in enumerate(entries):
            batch.token[index], batch.pos[index] = token_id, position
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, sequence
            batch.logits[index] = is_wanted
            if is_wanted:
                wanted.append(index)
        _messages.clear()
        if status := llama_cpp.llama_decode(self._context_handle, batch):
            raise EngineError(f"llama_decode returned {status}: {' '.join(_messages) or 'no reason given'}")
        logits = np.empty((len(wanted), self.vocab_size), np.float32)
        for row, index in enumerate(wanted):
            pointer = llama_cpp.llama_get_logits_ith(self._context_handle, index)
            logits[row] = np.ctypeslib.as_array(pointer, (self.vocab_size,))
        return logits

    def _new_context(self, num_threads: int | None) -> Any:
        params = llama_cpp.llama_context_default_params()
        cells = -(-self.max_tokens // _CELL_STEP) * _CELL_STEP
        params.n_ctx, params.n_seq_max = cells * self.num_sequences, self.num_sequences
        params.n_batch = params.n_ubatch = MAX_CALL_TOKENS
        params.n_threads = params.n_threads_batch = default_num_threads() if num_threads is None else num_threads
        params.kv_unified, params.swa_full, params.no_perf = False, True, True
        context = llama_cpp.llama_init_from_model(self._model, params)
        if not context:
            raise EngineError(f"llama.cpp cannot create a context: {' '.join(_messages) or 'no reason given'}")
        return context


def tokenizer(path: str | os.PathLike[str], vocab_size: int) -> Tokenizer | None:
    """Return the tokenizer in a GGUF file's metadata, None if it has none; TokenizerError for an unknown kind."""
    return read_tokenizer(read_metadata(Path(path)), vocab_size)


def _load(path: Path) -> Any:
    llama_cpp.llama_log_set(_on_log, ctypes.c_void_p())
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = 0
    _messages.clear()
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise CheckpointError(path, None, f"cannot be loaded by llama.cpp ({' '.join(_messages) or 'no reason given'})")
    if llama_cpp.llama_model_has_encoder(model) or not llama_cpp.llama_model_has_decoder(model):
        llama_cpp.llama_model_free(model)
        raise UnsupportedModelError(f"{path}: must be a decoder without an encoder")
    return model


def _free(batch: Any, context: Any, model: Any) -> None:
    llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)


def _entries(chunk: Chunk) -> Iterator[tuple[int, int, int, bool]]:
    """Yield token id, position, sequence, and if logits are wanted, for each token of a chunk."""
    first_wanted = len(chunk.token_ids) - chunk.num_logits
    for offset, token_id in enumerate(chunk.token_ids):
        yield token_id, chunk.start + offset, chunk.sequence, offset >= first_wanted


def _token_bytes(model: Any) -> int:
    """Return the bytes of keys and values of one token, two per number."""
    heads, kv_heads = llama_cpp.llama_model_n_head(model), llama_cpp.llama_model_n_head_kv(model)
    width = llama_cpp.llama_model_n_embd(model) * max(1, kv_heads) // max(1, heads)
    return max(1, int(llama_cpp.llama_model_n_layer(model) * width * 2 * 2))


def _id_or_none(token_id: int) -> int | None:
    return None if token_id < 0 else int(token_id)
