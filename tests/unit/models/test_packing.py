"""Packing of weights for the native forward pass: types, progress, and unaligned tensors."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest

from decoding.models import load_model, packing
from decoding.models.checkpoint import Checkpoint
from decoding.models.packing import TYPES, pack_weights
from decoding.models.registry import ARCHITECTURES, load_config
from decoding.models.weights import find_weights

PROMPT = [1, 7, 3, 18, 0, 5]


def _mixed(workshop: Any, dtypes: dict[str, str], **changes: Any) -> Any:
    """Return a checkpoint in which `dtypes` gives the storage type by the ending of a tensor's name, by default F32."""
    folder = workshop.config(**changes)
    header, body = {}, b""
    for name, values in workshop.tensors(folder).items():
        dtype = next((kind for ending, kind in dtypes.items() if name.endswith(ending)), "F32")
        part = workshop.safetensors({"x": values}, dtype)
        data = part[8 + struct.unpack("<Q", part[:8])[0] :]
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body)
    return folder


def _stored(folder: Any) -> Any:
    config = load_config(folder)
    return find_weights(Checkpoint(folder), config, ARCHITECTURES[config.model_type].layout(config))


WHOLE_PANELS = {"num_key_value_heads": 4, "intermediate_size": 32}
"""Changes with which every part of a matrix fills whole panels."""


def _matrices(packed: Any) -> list[Any]:
    return [packed.head, *(m for block in packed.blocks for m in (block.qkv, block.output, block.up, block.down))]


@pytest.mark.parametrize("dtype", ["F32", "F16"])
def test_weights_stay_in_their_storage_type(workshop: Any, dtype: str) -> None:
    """Packed matrices keep their storage type, so float16 weights take half the memory of float32 ones."""
    packed = pack_weights(_stored(workshop.checkpoint(dtype=dtype)), 2)
    assert {matrix.weight_type for matrix in _matrices(packed)} == {TYPES[dtype]}
    size = 4 if dtype == "F32" else 2
    assert packed.head.panels.nbytes == 32 * 16 * size  # 19 outputs in panels of 16, 16 inputs


def test_bfloat16_takes_12_bits(workshop: Any) -> None:
    """Weights in bfloat16 take 24 bytes per panel and input, after a header of 64 bytes."""
    packed = pack_weights(_stored(workshop.checkpoint(dtype="BF16", **WHOLE_PANELS)), 2)
    assert {matrix.weight_type for matrix in _matrices(packed)} == {"bfloat16_coded"}
    assert packed.head.num_bytes == 2 * (64 + 16 * 24)


@pytest.mark.parametrize("chunk_bytes", [1, 1 << 20])
@pytest.mark.parametrize("num_threads", [1, 3])
def test_bfloat16_that_does_not_fit_12_bits(
    workshop: Any, runs: Any, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int, num_threads: int
) -> None:
    """A matrix whose last panel has weights of very different magnitudes stays plain bfloat16; others do not."""
    monkeypatch.setattr(packing, "_CHUNK_BYTES", chunk_bytes)
    tensors = workshop.tensors(workshop.config(**WHOLE_PANELS))
    rows = tensors["model.layers.0.mlp.up_proj.weight"][-16:]
    rows *= 2.0 ** -(np.arange(rows.size).reshape(rows.shape) % 90)
    folder = workshop.checkpoint(dtype="BF16", tensors=tensors, **WHOLE_PANELS)
    packed = pack_weights(_stored(folder), num_threads)
    plain = [matrix for matrix in _matrices(packed) if matrix.weight_type == "bfloat16"]
    assert plain == [packed.blocks[0].up]
    expected = runs.logits(load_model(folder, backend="numpy"), PROMPT)
    np.testing.assert_allclose(runs.logits(load_model(folder), PROMPT), expected, atol=5e-5, rtol=0)


def test_bfloat16_with_parts_that_share_a_panel(workshop: Any, runs: Any) -> None:
    """Queries, keys and values that share a panel stay plain bfloat16."""
    folder = workshop.checkpoint(dtype="BF16")  # keys and values of 8 outputs
    packed = pack_weights(_stored(folder), 2)
    assert packed.blocks[0].qkv.weight_type == "bfloat16"
    expected = runs.logits(load_model(folder, backend="numpy"), PROMPT)
    np.testing.assert_allclose(runs.logits(load_model(folder), PROMPT), expected, atol=5e-5, rtol=0)


def test_parts_of_different_types_become_float32(workshop: Any, runs: Any) -> None:
    """Parts of different types are packed as one float32 matrix, with the logits of the numpy backend."""
    folder = _mixed(workshop, {"q_proj.weight": "BF16", "k_proj.weight": "F16", "up_proj.weight": "F16"})
    packed = pack_weights(_stored(folder), 2)
    block = packed.blocks[0]
    assert [m.weight_type for m in (block.qkv, block.up, block.down)] == ["float32"] * 3
    expected = runs.logits(load_model(folder, backend="numpy"), PROMPT)
    np.testing.assert_allclose(runs.logits(load_model(folder), PROMPT), expected, atol=5e-5, rtol=0)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama"])
def test_tensors_at_odd_addresses(workshop: Any, runs: Any, kind: str, dtype: str) -> None:
    """Tensors at any byte offset in the file give the same logits."""
    sizes = {
        "gpt2": {"n_embd": 16, "n_head": 4, "n_layer": 2, "num_key_value_heads": None, "rope_theta": None},
        "gpt_neox": {"num_key_value_heads": None, "rotary_pct": 0.5},
        "llama": {},
    }
    folder = workshop.checkpoint(model_type=kind, dtype=dtype, **sizes[kind])
    raw = (folder / "model.safetensors").read_bytes()
    (length,), found = struct.unpack("<Q", raw[:8]), []
    for padding in range(4):
        text = raw[8 : 8 + length] + b" " * padding
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])
        found.append(runs.logits(load_model(folder), PROMPT))
    for logits in found[1:]:
        np.testing.assert_array_equal(logits, found[0])
    expected = runs.logits(load_model(folder, backend="numpy"), PROMPT)
    np.testing.assert_allclose(found[0], expected, atol=5e-5, rtol=0)


def test_progress_counts_to_the_end(workshop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices are packed in chunks of whole panels, and each chunk is reported once, in order."""
    monkeypatch.setattr(packing, "_CHUNK_BYTES", 16 * 16 * 4)  # one panel
    reports: list[tuple[int, int]] = []
    load_model(workshop.checkpoint(), num_threads=3, progress=lambda done, total: reports.append((done, total)))
    # per layer: queries 1 panel, keys 1, values 1; output 1, gate 2, up 2, down 1; the head 2
    assert reports == [(done, 20) for done in range(1, 21)]


def test_chunks_do_not_change_the_panels(workshop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packed bytes do not depend on the chunk size and the number of threads."""
    stored = _stored(workshop.checkpoint(model_type="gpt_neox", num_key_value_heads=None, vocab_size=333))
    whole = pack_weights(stored, 1)
    monkeypatch.setattr(packing, "_CHUNK_BYTES", 1)
    pieces = pack_weights(stored, 4)
    for first, second in zip((whole.head, *whole.blocks[0][:4]), (pieces.head, *pieces.blocks[0][:4]), strict=True):
        np.testing.assert_array_equal(first.panels, second.panels)
