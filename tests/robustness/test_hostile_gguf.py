"""Hostile GGUF files: each gets an error of ours that names the field, within seconds, in little memory.

The kinds are those of published faults in other loaders: counts and sizes that overflow, offsets that overlap or leave
the file, lengths of 2^63, alignment 0, dimensions of 0, arrays of arrays, duplicate names. One child process opens all
files. It reports the error, the time and the peak memory.
"""

from __future__ import annotations

import json
import os
import random
import runpy
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

GGUF = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "gguf_container.py")))
TINY = GGUF.tiny_llama()
TEXT, SCALAR, ARRAY_OF = GGUF.text, GGUF.scalar, GGUF.array

CHILD = """
import json, sys, time
from decoding.errors import DecodingError
from decoding.models.gguf import open_model
from decoding.models.weights import find_weights
from decoding.text.gguf_tokenizer import read_tokenizer

for path in sys.argv[1:]:
    started, raised, text = time.process_time(), None, ""
    try:
        model = open_model(path)
        tokenizer = read_tokenizer(model.metadata, model.config.vocab_size)
        find_weights(model.tensors, model.config, model.layout)
        for name in model.tensors.shapes:
            model.tensors[name].read()
        if tokenizer is not None:
            tokenizer.decode(tokenizer.encode("a text"))
    except DecodingError as error:
        raised, text = type(error).__name__, str(error)
    seconds = time.process_time() - started
    status = open("/proc/self/status").read()
    peak = int(status.split("VmHWM:")[1].split()[0]) // 1024
    print(json.dumps([raised, text, seconds, peak]), flush=True)
"""


class Report(NamedTuple):
    """The child's report on a file."""

    error: str | None
    text: str
    seconds: float
    peak_mb: int


def _with(**metadata: Any) -> bytes:
    """Return the tiny network with other metadata. A double underscore in a name is a dot."""
    return (TINY | {key.replace("__", "."): value for key, value in metadata.items()}).bytes()


def _entry(target: str = "blk.0.attn_q.weight", **changes: Any) -> bytes:
    """Return the tiny network with one changed entry of the directory."""
    return TINY.changed(target, **changes).bytes()


def _keys(raw: bytes, count: int = 1) -> bytes:
    """Return the tiny network with arbitrary bytes after its key-value pairs."""
    return replace(TINY, more_keys=raw, num_more=count).bytes()


def _tokens(**changes: Any) -> bytes:
    return (TINY | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}).bytes()


def _byte_level(**changes: Any) -> bytes:
    """Return the tiny network with a byte-level vocabulary."""
    return _tokens(model="gpt2", **{"pre": "gpt-2", "merges": ["a b"], "scores": None, **changes})


def _huge_vocabulary() -> bytes:
    """Return a file with the maximum numbers of tokens and merges; the last merge gives no token."""
    count = 5 << 16
    tokens = [*map(chr, range(97, 123)), *(f"{a}{b}" for a in "abcdefghijklmnopqrstuvwxyz" for b in "abcdefghijklm")]
    tokens = [*tokens, *(f"{index:06x}" for index in range(count - len(tokens)))]
    merges = [f"{token[0]} {token[1]}" for token in tokens[26:364]] * 1300
    merges = [*merges, "z z"]
    big = GGUF.tiny_llama(vocab_size=16)
    rows = replace(big.entries[0], dims=(32, count), kind=8, data=bytes(count * 34))
    vocabulary = {"model": "gpt2", "tokens": tokens, "merges": merges, "scores": None, "token_type": None}
    named = {f"tokenizer.ggml.{key}": value for key, value in vocabulary.items()}
    return (replace(big, entries=(rows, *big.entries[1:])) | named).bytes()


def _wide_vocabulary(prefix: str, kind: int) -> bytes:
    """Return a file with many tokens of one kind."""
    count = 70_000
    rows = replace(TINY.entries[0], dims=(32, count), kind=8, data=bytes(count * 34))
    vocabulary = {
        "tokens": [f"{prefix}{index}" for index in range(count)],
        "scores": None,
        "token_type": np.full(count, kind, "<i4"),
    }
    named = {f"tokenizer.ggml.{key}": value for key, value in vocabulary.items()}
    return (replace(TINY, entries=(rows, *TINY.entries[1:])) | named).bytes()


def _sparse(path: Path) -> None:
    """Write a sparse file of a terabyte with a tensor of a terabyte."""
    path.write_bytes(_entry("token_embd.weight", dims=(32, 1 << 33), offset=0))
    os.truncate(path, 1 << 41)


ENTRY = TINY.entries[0]
FILES: dict[str, tuple[bytes | Callable[[], bytes] | Callable[[Path], None], str, str]] = {
    # the header
    "empty": (b"", "CheckpointError", "is empty"),
    "short magic": (b"GGU", "CheckpointError", "magic: needs 4 bytes"),
    "another format": (b"PK\3\4" + bytes(64), "CheckpointError", "must be b'GGUF'"),
    "version 1": (replace(TINY, version=1).bytes(), "CheckpointError", "version=1"),
    "version 4": (replace(TINY, version=4).bytes(), "CheckpointError", "version=4"),
    "big-endian": (replace(TINY, version=3 << 24).bytes(), "CheckpointError", "big-endian"),
    "2^63 tensors": (replace(TINY, num_tensors=1 << 63).bytes(), "CheckpointError", "tensor_count"),
    "2^64-1 keys": (replace(TINY, num_keys=(1 << 64) - 1).bytes(), "CheckpointError", "metadata_kv_count"),
    "more keys than there are": (replace(TINY, num_keys=200).bytes(), "CheckpointError", "key number"),
    "more tensors than there are": (replace(TINY, num_tensors=60000).bytes(), "CheckpointError", "tensor number"),
    "cut in the metadata": (TINY.bytes()[:200], "CheckpointError", "the file has"),
    "cut in the directory": (TINY.bytes()[:900], "CheckpointError", "the file has"),
    "cut in the tensors": (TINY.bytes()[:-64], "CheckpointError", "the file ends at"),
    # keys and values
    "key of 2^63 bytes": (_keys(TEXT("k", 1 << 63)), "CheckpointError", "must have at most 65,535"),
    "key of 2^64-1 bytes": (_keys(TEXT("k", (1 << 64) - 1)), "CheckpointError", "must have at most 65,535"),
    "empty key": (_keys(TEXT("") + SCALAR(GGUF.U32, 1)), "CheckpointError", "must be printable"),
    "key of control characters": (_keys(TEXT("\x1b[2J") + SCALAR(GGUF.U32, 1)), "CheckpointError", "must be printable"),
    "key that is no UTF-8": (_keys(TEXT(b"\xff\xfe") + SCALAR(GGUF.U32, 1)), "CheckpointError", "must be UTF-8"),
    "key twice": (_keys(TEXT("llama.block_count") + SCALAR(GGUF.U32, 1)), "CheckpointError", "occurs twice"),
    "string of 2^63 bytes": (
        _keys(TEXT("k") + struct.pack("<IQ", 8, 1 << 63)),
        "CheckpointError",
        "k: has 9,223,372,036,854,775,808 bytes",
    ),
    "string beyond the file": (_keys(TEXT("k") + struct.pack("<IQ", 8, 1 << 25)), "CheckpointError", "the file has"),
    "string that is no UTF-8": (_keys(TEXT("k") + SCALAR(GGUF.STRING, b"\xc3(")), "CheckpointError", "must be UTF-8"),
    "type 13": (_keys(TEXT("k") + struct.pack("<IQ", 13, 0)), "CheckpointError", "type 13"),
    "type 2^32-1": (_keys(TEXT("k") + struct.pack("<IQ", (1 << 32) - 1, 0)), "CheckpointError", "type 4294967295"),
    "array of type 13": (_keys(TEXT("k") + struct.pack("<IIQ", 9, 13, 1)), "CheckpointError", "array of type 13"),
    "array of arrays": (_keys(TEXT("k") + struct.pack("<IIQ", 9, 9, 1)), "CheckpointError", "array of arrays"),
    "array of 2^63 numbers": (_keys(TEXT("k") + ARRAY_OF(GGUF.U64, [], 1 << 63)), "CheckpointError", "needs"),
    "array of 2^61 numbers": (_keys(TEXT("k") + ARRAY_OF(GGUF.U64, [], 1 << 61)), "CheckpointError", "needs"),
    "array of 2^63 strings": (_keys(TEXT("k") + ARRAY_OF(GGUF.STRING, [], 1 << 63)), "CheckpointError", "must fit"),
    "array of 2^20 strings": (_keys(TEXT("k") + ARRAY_OF(GGUF.STRING, [], 1 << 20)), "CheckpointError", "must fit"),
    "strings that leave the file": (
        _keys(TEXT("k") + struct.pack("<IIQQ", 9, 8, 1, 1 << 62)),
        "CheckpointError",
        "needs",
    ),
    "boolean 2": (_keys(TEXT("k") + struct.pack("<IB", 7, 2)), "CheckpointError", "boolean"),
    "booleans of 255": (_keys(TEXT("k") + ARRAY_OF(GGUF.BOOL, [0, 255])), "CheckpointError", "boolean"),
    "a million keys": (replace(TINY, num_keys=1 << 20).bytes(), "CheckpointError", "metadata_kv_count"),
    "100 MB of metadata": (
        lambda: _keys(TEXT("k") + SCALAR(GGUF.STRING, b"x" * 100_000_000)),
        "CheckpointError",
        "must have at most 67,108,864",
    ),
    "4 million empty strings": (
        lambda: _keys(TEXT("k") + struct.pack("<IIQ", 9, 8, 1 << 22) + bytes(8 << 22)),
        "CheckpointError",
        "must have at most",
    ),
    "alignment 0": (_with(general__alignment=0), "CheckpointError", "power of two"),
    "alignment 24": (_with(general__alignment=24), "CheckpointError", "power of two"),
    "alignment 2^31": (_with(general__alignment=1 << 31), "CheckpointError", "power of two"),
    "alignment of another type": (_with(general__alignment="32"), "CheckpointError", "power of two"),
    "negative alignment": (_with(general__alignment=SCALAR(GGUF.I32, -32)), "CheckpointError", "power of two"),
    # the directory
    "name of 2^63 bytes": (replace(TINY, entries=(replace(ENTRY, name=b""),)).bytes(), "CheckpointError", "name"),
    "name of 65 bytes": (_entry(name="x" * 65), "CheckpointError", "must have at most 64"),
    "name of control characters": (_entry(name="a\nb"), "CheckpointError", "printable name"),
    "name twice": (_entry(name="blk.0.attn_output.weight"), "CheckpointError", "occurs twice"),
    "5 dimensions": (_entry(dims=(32, 32, 1, 1, 1)), "CheckpointError", "has 5 dimensions"),
    "2^32-1 dimensions": (_entry(num_dims=(1 << 32) - 1), "CheckpointError", "dimensions; must have 1 to 4"),
    "no dimensions": (_entry(dims=()), "CheckpointError", "has 0 dimensions"),
    "dimension 0": (_entry(dims=(32, 0)), "CheckpointError", "must be at least 1"),
    "dimension 0 in a row": (_entry(dims=(0, 32)), "CheckpointError", "must be at least 1"),
    "dimensions whose product is 2^64": (_entry(dims=(1 << 32, 1 << 32)), "CheckpointError", "the file ends at"),
    "dimensions of 2^63": (_entry(dims=(1 << 63, 2, 1, 1)), "CheckpointError", "the file ends at"),
    "bytes that wrap to 4": (_entry(dims=((1 << 62) + 1, 1)), "CheckpointError", "the file ends at"),
    "type 4": (_entry(kind=4), "CheckpointError", "has type 4; must be one of F32"),
    "type Q2_K": (_entry(kind=10), "CheckpointError", "has type Q2_K; must be one of F32"),
    "type of 2^32-1 in a tensor": (_entry(kind=(1 << 32) - 1), "CheckpointError", "must be one of F32"),
    "row that is no multiple of a block": (_entry(dims=(31, 32), kind=8), "CheckpointError", "multiple of 32"),
    "row shorter than a block of 256": (_entry(dims=(32, 32), kind=12), "CheckpointError", "multiple of 256"),
    "offset of 2^63": (_entry(offset=1 << 63), "CheckpointError", "the file ends at"),
    "offset that wraps": (_entry(offset=(1 << 64) - 32), "CheckpointError", "the file ends at"),
    "offset that is not aligned": (_entry(offset=4), "CheckpointError", "multiple of the alignment"),
    "offset of another tensor": (_entry(offset=0), "CheckpointError", "overlaps"),
    "offset inside another tensor": (_entry(offset=32), "CheckpointError", "overlaps"),
    "last byte beyond the file": (_entry("blk.0.ffn_down.weight", dims=(32, 33)), "CheckpointError", "the file ends"),
    # the network
    "no architecture": (_with(general__architecture=None), "CheckpointError", "general.architecture: is missing"),
    "architecture 3": (_with(general__architecture=3), "CheckpointError", "must be a string"),
    "architecture unknown": (_with(general__architecture="mamba"), "UnsupportedModelError", "must be one of 'gemma'"),
    "a layer too many": (_with(llama__block_count=2), "CheckpointError", "blk.1."),
    "4 billion layers": (_with(llama__block_count=(1 << 32) - 1), "CheckpointError", "llama.block_count"),
    "layers as text": (_with(llama__block_count="1"), "CheckpointError", "llama.block_count"),
    "layers as a list": (_with(llama__block_count=np.ones(3, "<u4")), "CheckpointError", "llama.block_count"),
    "no heads": (_with(llama__attention__head_count=0), "CheckpointError", "head_count"),
    "heads for each layer": (
        _with(llama__attention__head_count=np.ones(2, "<u4")),
        "CheckpointError",
        "one for each of block_count",
    ),
    "a million values per layer": (
        _with(llama__attention__head_count=np.ones(1 << 20, "<u4")),
        "CheckpointError",
        "at most 4,096",
    ),
    "hidden size of 2^32-1": (_with(llama__embedding_length=(1 << 32) - 1), "CheckpointError", "embedding_length"),
    "norm that is NaN": (
        _with(llama__attention__layer_norm_rms_epsilon=float("nan")),
        "CheckpointError",
        "layer_norm_rms_epsilon",
    ),
    "base that is infinite": (_with(llama__rope__freq_base=float("inf")), "CheckpointError", "rope.freq_base"),
    "experts": (_with(llama__expert_count=8), "UnsupportedModelError", "llama.expert_count=8"),
    "key unknown": (_with(llama__wavelets=True), "UnsupportedModelError", "llama.wavelets=True"),
    "not causal": (_with(llama__attention__causal=False), "UnsupportedModelError", "attention.causal"),
    "no embedding": (replace(TINY, entries=TINY.entries[1:]).bytes(), "CheckpointError", "token_embd.weight"),
    "a matrix missing": (replace(TINY, entries=TINY.entries[:-1]).bytes(), "CheckpointError", "ffn_down"),
    "a tensor too many": (
        replace(TINY, entries=(*TINY.entries, GGUF.tensor("cls.weight", np.ones((2, 32))))).bytes(),
        "CheckpointError",
        "cls.weight",
    ),
    "another shape": (_entry(dims=(16, 64)), "CheckpointError", "the metadata ask for"),
    "weights that are NaN": (_entry(data=np.full(1024, np.nan, "<f4").tobytes()), "CheckpointError", "NaN or infinite"),
    "a terabyte of nothing": (_sparse, "CheckpointError", ""),
    # the vocabulary
    "tokenizer of another kind": (_tokens(model="bert"), "TokenizerError", "must be one of 'gpt2', 'llama'"),
    "tokenizer kind as a list": (_tokens(model=["llama"]), "TokenizerError", "tokenizer.ggml.model"),
    "fewer tokens than rows": (_tokens(tokens=["<unk>"]), "TokenizerError", "must be as many as"),
    "no tokens": (_tokens(tokens=None), "TokenizerError", "tokenizer.ggml.tokens"),
    "empty tokens": (_tokens(tokens=[]), "TokenizerError", "tokenizer.ggml.tokens"),
    "tokens that are numbers": (_tokens(tokens=np.zeros(12, "<i4")), "TokenizerError", "array of strings"),
    "a token twice": (_tokens(tokens=["a"] * 12), "TokenizerError", "must be unique"),
    "a token that is no UTF-8": (
        _tokens(tokens=ARRAY_OF(GGUF.STRING, [b"\xff"] * 12)),
        "CheckpointError",
        "must be UTF-8",
    ),
    "a token of a megabyte": (
        _tokens(tokens=["x" * (1 << 20), *map(str, range(11))]),
        "TokenizerError",
        "must have at most 4,096",
    ),
    "a vocabulary of special tokens": (
        lambda: _wide_vocabulary("0", 3),
        "TokenizerError",
        "special and user-defined tokens",
    ),
    "a vocabulary of long tokens": (lambda: _wide_vocabulary("0" * 500, 1), "TokenizerError", "characters"),
    "fewer types than tokens": (_tokens(token_type=np.ones(3, "<i4")), "TokenizerError", "must be as many as"),
    "types as text": (_tokens(token_type=["1"] * 12), "TokenizerError", "array of numbers"),
    "more scores than tokens": (_tokens(scores=np.ones(13, "<f4")), "TokenizerError", "must be as many as"),
    "a score that is NaN": (_tokens(scores=np.full(12, np.nan, "<f4")), "TokenizerError", "must be a number"),
    "start token beyond the vocabulary": (_tokens(bos_token_id=12), "TokenizerError", "bos_token_id=12"),
    "end token of -1": (_tokens(eos_token_id=SCALAR(GGUF.I32, -1)), "TokenizerError", "eos_token_id=-1"),
    "end token as text": (_tokens(eos_token_id="</s>"), "TokenizerError", "eos_token_id"),
    "flag as a number": (_tokens(add_bos_token=1), "TokenizerError", "must be a boolean"),
    "template as a number": (_with(tokenizer__chat_template=1), "TokenizerError", "must be a string"),
    "as many tokens and merges as may be": (_huge_vocabulary, "TokenizerError", "'z z'"),
    "pre-tokenizer unknown": (_byte_level(pre="none-such"), "TokenizerError", "must be one of a.x-4.0, bailingmoe"),
    "pre-tokenizer as a number": (_byte_level(pre=1), "TokenizerError", "tokenizer.ggml.pre"),
    "no merges": (_byte_level(merges=None), "TokenizerError", "tokenizer.ggml.merges"),
    "merge of one token": (_byte_level(merges=["ab"]), "TokenizerError", "with a space between them"),
    "merge of unknown tokens": (_byte_level(merges=["a z"]), "TokenizerError", "that make a third one"),
}
"""File, the error's type, and a part of its text."""


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    """Return the child's reports by file."""
    folder = tmp_path_factory.mktemp("hostile")
    paths = []
    for index, (content, _, _) in enumerate(FILES.values()):
        paths.append(path := folder / f"{index}.gguf")
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is _sparse:
            content(path)
        else:
            path.write_bytes(content())
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, paths)], capture_output=True, text=True, timeout=300, check=False
    )
    lines = done.stdout.splitlines()
    assert len(lines) == len(FILES), done.stderr[-2000:]
    return {name: Report(*json.loads(line)) for name, line in zip(FILES, lines, strict=True)}


@pytest.mark.parametrize("name", FILES)
def test_refused_by_name(name: str, reports: dict[str, Report]) -> None:
    """A hostile file raises the expected error, which names file and field, within 5 seconds and 300 MB."""
    _, error, part = FILES[name]
    report = reports[name]
    assert report.error == error, report
    assert part in report.text, report.text
    assert "\n" not in report.text
    assert report.seconds < 5
    assert report.peak_mb < 300


def test_the_unchanged_file_is_valid(tmp_path: Path) -> None:
    """The unchanged file opens, and its tokenizer works."""
    from decoding.models.gguf import open_model
    from decoding.text.gguf_tokenizer import read_tokenizer

    for content in (TINY.bytes(), _byte_level(token_type=None, tokens=[*"abcdefghij", "ab", "</s>"])):
        path = tmp_path / "sound.gguf"
        path.write_bytes(content)
        model = open_model(path)
        tokenizer = read_tokenizer(model.metadata, model.config.vocab_size)
        assert tokenizer is not None
        assert tokenizer.decode(tokenizer.encode("ab")) == "ab"


def test_any_byte_changed_or_cut(tmp_path: Path) -> None:
    """A file with changed bytes in its head or cut at any position opens or raises an error of ours."""
    from decoding.errors import DecodingError
    from decoding.models.registry import load_files, open_model

    whole, rng = TINY.bytes(), random.Random(5)
    path = tmp_path / "fuzz.gguf"
    messages = []
    for turn in range(600):
        raw = bytearray(whole)
        for _ in range(rng.choice([1, 1, 2, 8])):
            raw[rng.randrange(1700)] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        path.write_bytes(raw[: rng.randrange(len(raw))] if turn % 5 == 0 else raw)
        try:
            opened = open_model(path)
            opened.tokenizer()
            load_files(opened, num_threads=1)
        except DecodingError as error:
            messages.append(str(error))
    assert len(messages) > 300
    assert all(message.isprintable() for message in messages)
