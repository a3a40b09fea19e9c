"""Build GGUF files byte by byte, valid ones and ones that break any rule of the format."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q", I64: "q", F64: "d"}
DTYPES = {np.dtype("<u4"): U32, np.dtype("<i4"): I32, np.dtype("<f4"): F32, np.dtype("?"): BOOL}


def text(value: str | bytes, claimed: int | None = None) -> bytes:
    """Return a string with its length, or with a false length."""
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw) if claimed is None else claimed) + raw


def scalar(kind: int, value: Any) -> bytes:
    """Return a value with its type."""
    return struct.pack("<I", kind) + (text(value) if kind == STRING else struct.pack("<" + FORMATS[kind], value))


def array(kind: int, values: Iterable[Any], claimed: int | None = None) -> bytes:
    """Return an array with its type and its length, or with a false length."""
    packed = [text(value) if kind == STRING else struct.pack("<" + FORMATS[kind], value) for value in values]
    return struct.pack("<IIQ", ARRAY, kind, len(packed) if claimed is None else claimed) + b"".join(packed)


def encoded(value: Any) -> bytes:
    """Return a value with the type that a converter would use. Bytes are returned unchanged."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, bool):
        return scalar(BOOL, value)
    if isinstance(value, (int, float, str)):
        return scalar({int: U32, float: F32, str: STRING}[type(value)], value)
    if isinstance(value, np.ndarray):
        return struct.pack("<IIQ", ARRAY, DTYPES[value.dtype], len(value)) + value.tobytes()
    return array(STRING, value)


@dataclass(frozen=True)
class Entry:
    """A tensor in the directory. The dims are in the order of the file, the length of a row first."""

    name: str | bytes
    dims: tuple[int, ...]
    kind: int = 0
    offset: int | None = None
    data: bytes = b""
    num_dims: int | None = None


@dataclass(frozen=True)
class Container:
    """A GGUF file. A field that is None has its correct value."""

    metadata: Mapping[str, Any] = field(default_factory=dict)
    entries: tuple[Entry, ...] = ()
    magic: bytes = b"GGUF"
    version: int = 3
    num_tensors: int | None = None
    num_keys: int | None = None
    more_keys: bytes = b""
    num_more: int = 0
    alignment: int = 32

    def __or__(self, metadata: Mapping[str, Any]) -> Container:
        """Return the file with other values. None removes a key."""
        merged = {**self.metadata, **metadata}
        return replace(self, metadata={key: value for key, value in merged.items() if value is not None})

    def changed(self, target: str, **changes: Any) -> Container:
        """Return the file with one changed entry."""
        return replace(
            self, entries=tuple(replace(entry, **changes) if entry.name == target else entry for entry in self.entries)
        )

    def bytes(self) -> bytes:
        """Return the bytes of the file."""
        keys = b"".join(text(key) + encoded(value) for key, value in self.metadata.items()) + self.more_keys
        counts = (
            len(self.entries) if self.num_tensors is None else self.num_tensors,
            len(self.metadata) + self.num_more if self.num_keys is None else self.num_keys,
        )
        head = self.magic + struct.pack("<IQQ", self.version, *counts) + keys
        directory, data = b"", b""
        for entry in self.entries:
            offset = len(data) if entry.offset is None else entry.offset
            count = len(entry.dims) if entry.num_dims is None else entry.num_dims
            dims = struct.pack(f"<{len(entry.dims)}Q", *entry.dims)
            directory += text(entry.name) + struct.pack("<I", count) + dims + struct.pack("<IQ", entry.kind, offset)
            data += entry.data + bytes(-len(entry.data) % self.alignment)
        head += directory
        return head + bytes(-len(head) % self.alignment) + data


def tensor(name: str, values: NDArray[Any]) -> Entry:
    """Return a float32 tensor."""
    return Entry(name, values.shape[::-1], 0, data=values.astype("<f4").tobytes())


def tiny_llama(vocab_size: int = 12, hidden: int = 32, inner: int = 32) -> Container:
    """Return a network of one layer with a SentencePiece vocabulary."""
    rng = np.random.default_rng(0)
    shapes = {
        "token_embd.weight": (vocab_size, hidden),
        "output_norm.weight": (hidden,),
        "blk.0.attn_norm.weight": (hidden,),
        "blk.0.attn_q.weight": (hidden, hidden),
        "blk.0.attn_k.weight": (hidden // 2, hidden),
        "blk.0.attn_v.weight": (hidden // 2, hidden),
        "blk.0.attn_output.weight": (hidden, hidden),
        "blk.0.ffn_norm.weight": (hidden,),
        "blk.0.ffn_gate.weight": (inner, hidden),
        "blk.0.ffn_up.weight": (inner, hidden),
        "blk.0.ffn_down.weight": (hidden, inner),
    }
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": 1,
        "llama.context_length": 64,
        "llama.embedding_length": hidden,
        "llama.feed_forward_length": inner,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": hidden // 4,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *map(chr, range(97, 94 + vocab_size))],
        "tokenizer.ggml.scores": -np.arange(vocab_size, dtype="<f4"),
        "tokenizer.ggml.token_type": np.array([2, 3, 3, *[1] * (vocab_size - 3)], "<i4"),
    }
    return Container(metadata, tuple(tensor(name, rng.normal(0, 0.3, shape)) for name, shape in shapes.items()))
