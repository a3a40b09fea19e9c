"""onnxruntime's forward pass (the extra `onnxruntime`).

    llm = LLM("folder-with-model.onnx", backend="onnxruntime")

A folder as onnxruntime-genai's model builder and Optimum export decoders: an ONNX model with the inputs input_ids,
attention_mask, perhaps position_ids, and past_key_values.<layer>.key and .value; with the outputs logits and
present.<layer>.key and .value; beside it genai_config.json or config.json, and tokenizer.json.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from decoding.backends.limits import DEFAULT_LIMITS, Limits
from decoding.backends.protocol import Chunk
from decoding.errors import CheckpointError, ModelNotFoundError, UnsupportedModelError
from decoding.json_file import read_json_object
from decoding.models.batch import Logits
from decoding.models.checkpoint import digest_files

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_OTHER_INPUTS = {"input_ids", "attention_mask", "position_ids"}
_PAST, _PRESENT = "past_key_values.", "present."


class OnnxBackend:
    """An exported decoder run by onnxruntime on the CPU (`decoding.backends.protocol.Backend`).

    Keys and values of a sequence are arrays that nothing writes to, so forks share them.
    """

    can_truncate = True

    def __init__(self, path: str | os.PathLike[str], limits: Limits = DEFAULT_LIMITS) -> None:
        """Load a folder.

        Raises ModelNotFoundError or CheckpointError for a folder that cannot be used, UnsupportedModelError for a model
        with other inputs.
        """
        self._folder = Path(path)
        self.num_sequences = limits.num_sequences
        settings = _settings(self._folder)
        self._file = self._folder / settings["file"]
        options = onnxruntime.SessionOptions()
        if limits.num_threads is not None:
            options.intra_op_num_threads = limits.num_threads
        try:
            self._session = onnxruntime.InferenceSession(self._file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its classes have no common base but this one
            raise CheckpointError(self._file, None, f"cannot be loaded by onnxruntime ({error})") from error
        inputs = {node.name: node for node in self._session.get_inputs()}
        self._past = [name for name in inputs if name.startswith(_PAST)]
        others = set(inputs) - set(self._past)
        if not self._past or not others <= _OTHER_INPUTS:
            rule = f"must be past_key_values.* and some of {', '.join(sorted(_OTHER_INPUTS))}"
            raise UnsupportedModelError(f"{self._file}: inputs {sorted(others)}: {rule}")
        self._others = others
        self._outputs = ["logits", *(name.replace(_PAST, _PRESENT) for name in self._past)]
        sizes = settings["num_kv_heads"], settings["head_dim"]
        self._empty = {name: _no_tokens(inputs[name], self._file, sizes) for name in self._past}
        self._states = [self._empty] * limits.num_sequences
        self.vocab_size = settings["vocab_size"]
        self.bos_token_id, self.eos_token_ids = settings["bos_token_id"], settings["eos_token_ids"]
        self.token_bytes = sum(array.itemsize * array.shape[1] * array.shape[3] for array in self._empty.values())
        self.max_tokens = limits.context(settings["max_tokens"], self.token_bytes)

    @cached_property
    def digest(self) -> str:
        """Hex digest of the folder's ONNX files, and the version of onnxruntime, read on first use."""
        files = sorted(file for file in self._folder.iterdir() if file.name.startswith(self._file.name))
        return f"onnxruntime {onnxruntime.__version__} {digest_files(files)}"

    def forward(self, chunks: Sequence[Chunk]) -> Logits:
        """Append the chunks, one call each; return the wanted logits."""
        rows = [np.empty((0, self.vocab_size), np.float32)]
        for chunk in chunks:
            logits = self._run(chunk)
            rows.append(logits[len(chunk.token_ids) - chunk.num_logits :].astype(np.float32, copy=False))
        return np.concatenate(rows)

    def truncate(self, sequence: int, num_tokens: int) -> None:
        """Keep the first tokens of a sequence."""
        self.fork(sequence, sequence, num_tokens)

    def fork(self, source: int, target: int, num_tokens: int) -> None:
        """Replace the target by the beginning of the source."""
        state = self._states[source]
        cut = {name: array[:, :, :num_tokens] for name, array in state.items()}
        self._states[target] = cut if num_tokens else self._empty

    def _run(self, chunk: Chunk) -> NDArray[Any]:
        """Append a chunk; return the logits of all its tokens [tokens, vocab]."""
        end = chunk.start + len(chunk.token_ids)
        inputs = {
            "input_ids": np.array([chunk.token_ids], np.int64),
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(chunk.start, end, dtype=np.int64)[None],
        }
        given = {name: array for name, array in inputs.items() if name in self._others}
        logits, *present = self._session.run(self._outputs, given | self._states[chunk.sequence])
        self._states[chunk.sequence] = dict(zip(self._past, present, strict=True))
        rows: NDArray[Any] = logits[0]
        return rows


def _no_tokens(node: Any, file: Path, sizes: tuple[int, int]) -> NDArray[Any]:
    """Return empty keys or values, [1, heads, 0, width]. sizes: heads and width from the config."""
    if node.type not in _DTYPES or len(node.shape) != 4:
        rule = "must be float32 or float16 [batch, heads, tokens, width]"
        raise UnsupportedModelError(f"{file}: input {node.name}: {node.type} {node.shape}: {rule}")
    pairs = zip((node.shape[1], node.shape[3]), sizes, strict=True)
    heads, width = (own if isinstance(own, int) else given for own, given in pairs)
    return np.empty((1, heads, 0, width), _DTYPES[node.type])


def _settings(folder: Path) -> dict[str, Any]:
    """Return the model's file, sizes and end tokens, from genai_config.json or config.json."""
    path = folder / "genai_config.json"
    if path.exists():
        model = _read(path).get("model", {})
        decoder = model.get("decoder", {})
        sizes = {
            "vocab_size": model.get("vocab_size"),
            "max_tokens": model.get("context_length"),
            "num_kv_heads": decoder.get("num_key_value_heads"),
            "head_dim": decoder.get("head_size"),
        }
        file = decoder.get("filename", "model.onnx")
    else:
        path, file = folder / "config.json", "model.onnx"
        model = _read(path)
        sizes = _sizes(model)
    for name, size in sizes.items():
        if type(size) is not int or size < 1:
            raise CheckpointError(path, None, f"{name}={size!r}: must be an integer >= 1")
    eos = model.get("eos_token_id")
    eos_token_ids = () if eos is None else (eos,) if isinstance(eos, int) else tuple(eos)
    return sizes | {"file": file, "bos_token_id": model.get("bos_token_id"), "eos_token_ids": eos_token_ids}


def _sizes(config: dict[str, Any]) -> dict[str, Any]:
    """Return the sizes that a config.json of transformers has, None for one that is missing."""
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    head_dim = config.get("head_dim")
    if head_dim is None and isinstance(heads, int) and isinstance(hidden, int) and heads > 0:
        head_dim = hidden // heads
    return {
        "vocab_size": config.get("vocab_size"),
        "max_tokens": config.get("max_position_embeddings"),
        "num_kv_heads": config.get("num_key_value_heads", heads),
        "head_dim": head_dim,
    }


def _read(file: Path) -> dict[str, Any]:
    if not file.exists():
        raise ModelNotFoundError(f"{file.parent}: must have genai_config.json, or config.json, beside the ONNX model")
    try:
        return read_json_object(file)
    except ValueError as error:
        raise CheckpointError(file, None, str(error)) from None
