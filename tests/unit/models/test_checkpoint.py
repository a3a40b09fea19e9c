"""Broken and hostile checkpoints: each raises an error with the file, the tensor and the rule."""

from __future__ import annotations

import json
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decoding.errors import CheckpointError, ModelNotFoundError, ParameterError, UnsupportedModelError
from decoding.models import load_model

EMBEDDING = "model.embed_tokens.weight"


def _raw(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _entry(begin: int, end: int, shape: Any = (1,), dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


_ONE = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 99_000_000) + b"{}",
        _raw(b"[]"),
        _raw(b"[" * 100_000),
        _raw(b"\xff{}"),
        _raw(b'{"__metadata__":{"a":1}}'),
        _raw({"a": _entry(0, 4)}, b"\0" * 3),
        _raw({"a": _entry(0, 4)}, b"\0" * 5),
        _raw({"a": _entry(0, 4), "b": _entry(0, 4)}, b"\0" * 4),
        _raw({"a": _entry(0, 4), "b": _entry(8, 12)}, b"\0" * 12),
        _raw({"a": _entry(-4, 0)}, b"\0" * 4),
        _raw({"a": _entry(0, 4, (2,))}, b"\0" * 4),
        _raw({"a": _entry(0, 4, (2**40, 2**40))}, b"\0" * 4),
        _raw({"a": _entry(0, 2**64 - 1)}, b"\0" * 4),
        _raw({"a": _entry(0, 4, (2**62 + 1,))}, b"\0" * 4),
        _raw({"a": _entry(0, 4, dtype="Q4")}, b"\0" * 4),
        _raw(_ONE + b"," + _ONE[1:] + b"}", b"\0" * 4),
        _raw(b'{"a":["F32",[1],[0,4]]}', b"\0" * 4),
        _raw(b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"\0" * 4),
    ],
)
def test_a_file_that_is_no_safetensors_file(workshop: Any, content: bytes) -> None:
    """Truncated files, huge lengths, overlapping, overflowing and repeated tensors raise a CheckpointError."""
    folder = workshop.config()
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="is not a valid safetensors file") as caught:
        load_model(folder)
    assert caught.value.path == str(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"1234567", "has 7 bytes: must begin with 8 that give the length of the header"),
        (struct.pack("<Q", 100) + b"{}", "header cut off: has 100 bytes, the file 10"),
        (_raw(b'{"a":1,"a":2}'), "has the name 'a' twice in one object"),
        (_raw(b"[" * 100_000), "is nested too deeply"),
    ],
)
def test_the_error_contains_the_broken_rule(workshop: Any, content: bytes, rule: str) -> None:
    """The error of an invalid safetensors file contains the broken rule."""
    folder = workshop.config()
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    assert caught.value.rule == f"is not a valid safetensors file ({rule})"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.onnx", "consolidated.00.pth"])
def test_other_formats_are_named_and_not_read(workshop: Any, name: str) -> None:
    """A folder with weights in another format raises an error that names the file, which is not opened."""
    folder = workshop.config()
    (folder / name).mkdir()  # to read it would be another error
    with pytest.raises(ModelNotFoundError, match=rf"neither .* \({name} is not read: convert it to safetensors\)"):
        load_model(folder)


def test_a_header_bomb_is_not_read(workshop: Any) -> None:
    """A header beyond 16 MB is refused by its length, without being read."""
    folder = workshop.config()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 90_000_000))
        file.truncate(100_000_000)  # sparse
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="header too large"):
        load_model(folder)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def _without(name: str) -> Any:
    return lambda tensors: tensors.pop(name)


@pytest.mark.parametrize(
    ("change", "tensor", "rule"),
    [
        (_without(EMBEDDING), EMBEDDING, "is missing"),
        (_without("lm_head.weight"), "lm_head.weight", "is missing"),
        (
            _without("model.layers.1.mlp.up_proj.weight"),
            "model.layers.1.mlp.up_proj.weight",
            "is missing",
        ),
        (lambda tensors: tensors.update(extra=np.zeros(3)), "extra", "is not a tensor of this architecture"),
        (lambda tensors: tensors.update({"a\nb": np.zeros(3)}), r"'a\nb'", "is not a tensor of this architecture"),
        (
            lambda tensors: tensors.update({"model.layers.0.self_attn.q_proj.bias": np.zeros(16)}),
            "model.layers.0.self_attn.q_proj.bias",
            "is not a tensor of this architecture and config",
        ),
        (
            lambda tensors: tensors.update({"model.layers.2.mlp.up_proj.weight": np.zeros((24, 16))}),
            "model.layers.2.mlp.up_proj.weight",
            "is not a tensor of this architecture",
        ),
        (
            lambda tensors: tensors.update({EMBEDDING: np.zeros((20, 16))}),
            EMBEDDING,
            r"has shape \[20, 16\]; the config asks for \[19, 16\]",
        ),
        (
            lambda tensors: tensors.update({"model.norm.weight": np.zeros((16, 1))}),
            "model.norm.weight",
            r"has shape \[16, 1\]",
        ),
    ],
)
def test_tensors_must_be_those_of_the_config(workshop: Any, change: Any, tensor: str, rule: str) -> None:
    """Missing, extra and misshapen tensors raise an error with the tensor and the rule."""
    tensors = workshop.tensors(workshop.config())
    change(tensors)
    with pytest.raises(CheckpointError, match=rule) as caught:
        load_model(workshop.checkpoint(tensors=tensors))
    assert caught.value.tensor == tensor


def test_a_wrong_dtype(workshop: Any) -> None:
    """Integer weights are refused, and the error lists the supported dtypes."""
    with pytest.raises(CheckpointError, match="has dtype I64; must be one of F32, F16, BF16"):
        load_model(workshop.checkpoint(dtype="I64"))


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "name", [EMBEDDING, "lm_head.weight", "model.layers.1.self_attn.k_proj.weight", "model.norm.weight"]
)
def test_weights_must_be_finite(workshop: Any, backend: str, name: str, dtype: str, value: float) -> None:
    """A single NaN or infinity in the weights is found at load time."""
    tensors = workshop.tensors(workshop.config())
    tensors[name][-1, ...] = value
    with pytest.raises(CheckpointError, match=f"{name}: has values that are NaN or infinite"):
        load_model(workshop.checkpoint(dtype=dtype, tensors=tensors), backend=backend)


def test_stored_rotary_constants_are_harmless(workshop: Any, runs: Any) -> None:
    """A rotary_emb.inv_freq in old checkpoints is ignored."""
    tensors = workshop.tensors(workshop.config())
    found = []
    for inv_freq in ({}, {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2)}):
        model = load_model(workshop.checkpoint(tensors={**tensors, **inv_freq}))
        found.append(runs.logits(model, [3, 1, 4]))
    assert (found[0] == found[1]).all()


def test_heads_of_tied_models(workshop: Any, runs: Any, caplog: Any, backend: str) -> None:
    """A tied model may store embedding, head or both; a head that differs is used, with a warning."""

    def logits(tied: bool, **heads: Any) -> Any:
        folder = workshop.checkpoint(tensors={**others, **heads}, tie_word_embeddings=tied)
        return runs.logits(load_model(folder, backend=backend), [3, 1, 4])

    others = workshop.tensors(workshop.config(tie_word_embeddings=True))
    embedding = others.pop(EMBEDDING)
    other = embedding[::-1].copy()
    plain = logits(True, **{EMBEDDING: embedding})
    assert (logits(True, **{"lm_head.weight": embedding}) == plain).all()
    assert (logits(True, **{"lm_head.weight": embedding, EMBEDDING: embedding}) == plain).all()
    assert not caplog.records
    untied = logits(True, **{"lm_head.weight": other, EMBEDDING: embedding})
    assert (untied == logits(False, **{"lm_head.weight": other, EMBEDDING: embedding})).all()
    assert (untied != plain).any()
    (record,) = caplog.records
    assert "lm_head.weight: differs from the embedding" in record.message


def test_wrong_heads_of_tied_models(workshop: Any) -> None:
    """A head of a wrong shape is refused, and so is a tied model without embedding and head."""
    tensors = workshop.tensors(workshop.config(tie_word_embeddings=True))
    embedding = tensors[EMBEDDING]
    tensors["lm_head.weight"] = embedding[1:]
    with pytest.raises(CheckpointError, match=r"lm_head\.weight: has shape \[18, 16\]"):
        load_model(workshop.checkpoint(tensors=tensors, tie_word_embeddings=True))
    del tensors[EMBEDDING]
    with pytest.raises(CheckpointError, match=r"lm_head\.weight: has shape \[18, 16\]"):
        load_model(workshop.checkpoint(tensors=tensors, tie_word_embeddings=True))
    del tensors["lm_head.weight"]
    with pytest.raises(CheckpointError, match=r"model\.embed_tokens\.weight: is missing"):
        load_model(workshop.checkpoint(tensors=tensors, tie_word_embeddings=True))
    with pytest.raises(CheckpointError, match=r"model\.embed_tokens\.weight: is missing"):
        load_model(workshop.checkpoint(tensors={**tensors, "lm_head.weight": embedding}, tie_word_embeddings=False))


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 2**31 - 1},
        {"vocab_size": 2**31 - 1},
        {"intermediate_size": 2**31 - 1},
        {"hidden_size": 2**30, "num_attention_heads": 2**28, "num_key_value_heads": 2**28},
    ],
)
def test_a_huge_config_is_refused_before_anything_is_allocated(workshop: Any, changes: dict[str, Any]) -> None:
    """Huge sizes in a config are refused against the file's header, before any allocation."""
    folder = workshop.checkpoint()
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | changes))
    started = time.process_time()
    tracemalloc.start()
    with pytest.raises(CheckpointError):
        load_model(folder)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    assert time.process_time() - started < 1.0


def test_a_huge_context_allocates_nothing(workshop: Any) -> None:
    """A huge max_position_embeddings allocates no memory at load time."""
    tracemalloc.start()
    model = load_model(workshop.checkpoint(max_position_embeddings=2**31 - 1))
    model.new_cache(4)
    assert tracemalloc.get_traced_memory()[1] < 4_000_000
    tracemalloc.stop()


# Sharded checkpoints


def _sharded(workshop: Any, weight_map: Any = None) -> Path:
    folder: Path = workshop.config()
    tensors = workshop.tensors(folder)
    names = {"model-00001-of-00002.safetensors": {}, "model-00002-of-00002.safetensors": {}}
    for index, name in enumerate(tensors):
        list(names.values())[index % 2][name] = tensors[name]
    for shard, content in names.items():
        (folder / shard).write_bytes(workshop.safetensors(content))
    if weight_map is None:
        weight_map = {name: shard for shard, content in names.items() for name in content}
    _write_index(folder, {"metadata": {"total_size": 1}, "weight_map": weight_map})
    return folder


def _write_index(folder: Path, index: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_a_sharded_checkpoint_gives_the_same_logits(workshop: Any, runs: Any) -> None:
    """A sharded checkpoint gives the same logits as a single file."""
    sharded, single = load_model(_sharded(workshop)), load_model(workshop.checkpoint())
    logits = [runs.logits(model, list(range(9))) for model in (sharded, single)]
    np.testing.assert_array_equal(*logits)


@pytest.mark.parametrize(
    "shard",
    ["../other/model.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "x.bin", 3, "a\0.safetensors"],
)
def test_the_index_cannot_point_out_of_the_folder(workshop: Any, shard: Any) -> None:
    """A shard must be a file name beside the index, not a path."""
    with pytest.raises(CheckpointError, match=r"must be the name of a \.safetensors file beside the index"):
        load_model(_sharded(workshop, {EMBEDDING: shard}))


@pytest.mark.parametrize("weight_map", [[], "x", {}, 3])
def test_a_malformed_index(workshop: Any, weight_map: Any) -> None:
    """weight_map must be an object with at least one tensor."""
    with pytest.raises(CheckpointError, match="weight_map"):
        load_model(_sharded(workshop, weight_map))


def test_a_missing_shard(workshop: Any) -> None:
    """A missing shard raises an error that names it."""
    folder = _sharded(workshop)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors: is missing"):
        load_model(folder)


def test_index_and_shards_must_agree(workshop: Any) -> None:
    """A tensor that only the index or only the shard lists raises a CheckpointError."""
    folder = _sharded(workshop)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    moved = index["weight_map"].pop("model.norm.weight")
    _write_index(folder, index)
    with pytest.raises(CheckpointError, match=rf"{moved}: model\.norm\.weight: must be in this shard"):
        load_model(folder)
    _write_index(folder, {"weight_map": index["weight_map"] | {"model.norm.weight": moved, "ghost": moved}})
    with pytest.raises(CheckpointError, match="ghost: must be in this shard"):
        load_model(folder)


# Folders


def test_missing_folders_and_weights(workshop: Any, tmp_path: Path) -> None:
    """A missing folder, a file in its place and a folder without weights raise a ModelNotFoundError."""
    with pytest.raises(ModelNotFoundError, match="no such folder"):
        load_model(tmp_path / "absent")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelNotFoundError, match="must be a folder of a checkpoint"):
        load_model(str(tmp_path / "file"))
    with pytest.raises(ModelNotFoundError, match=r"neither model\.safetensors nor"):
        load_model(workshop.config())
    with pytest.raises(ModelNotFoundError, match="no such folder"):
        load_model("a\0b")


@pytest.mark.parametrize("path", [None, 3, b"bytes", ["x"]])
def test_a_path_is_a_string_or_a_path(path: Any) -> None:
    """A path that is neither a string nor a Path raises a ParameterError."""
    with pytest.raises(ParameterError, match="path"):
        load_model(path)


def test_a_folder_in_the_place_of_a_file(workshop: Any) -> None:
    """A folder named config.json or model.safetensors raises a CheckpointError."""
    folder = workshop.config()
    (folder / "model.safetensors").mkdir()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: must be a regular file"):
        load_model(folder)
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    with pytest.raises(CheckpointError, match=r"config\.json: must be a regular file"):
        load_model(folder)


def test_an_unknown_architecture_lists_the_known_ones(workshop: Any) -> None:
    """An unknown model_type raises an UnsupportedModelError that lists the known ones."""
    with pytest.raises(
        UnsupportedModelError, match=r"model_type='mamba': must be one of 'gemma', .*'llama', .*'smollm3'"
    ):
        load_model(workshop.config(model_type="mamba"))
