"""The GGUF reader: values of all types, tensors, shards, folders, and their errors."""

from __future__ import annotations

import resource
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from decoding.errors import CheckpointError, ModelNotFoundError, ParameterError
from decoding.models.gguf import GGUFTensors, open_model
from decoding.models.gguf_reader import GGUFFile
from decoding.models.gguf_types import TENSOR_TYPES

GGUF = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "gguf_container.py")))
TINY = GGUF.tiny_llama()


def written(folder: Path, container: Any, name: str = "model.gguf") -> Path:
    """Write a file and return its path."""
    (folder / name).write_bytes(container.bytes())
    return folder / name


VALUES = {
    "u8": (GGUF.U8, 255),
    "i8": (GGUF.I8, -128),
    "u16": (GGUF.U16, 65535),
    "i16": (GGUF.I16, -32768),
    "u32": (GGUF.U32, 2**32 - 1),
    "i32": (GGUF.I32, -(2**31)),
    "f32": (GGUF.F32, 0.5),
    "false": (GGUF.BOOL, False),
    "text": (GGUF.STRING, "ein Wort ☺"),
    "empty": (GGUF.STRING, ""),
    "u64": (GGUF.U64, 2**64 - 1),
    "i64": (GGUF.I64, -(2**63)),
    "f64": (GGUF.F64, 1e300),
}


def test_values_of_all_types(tmp_path: Path) -> None:
    """Each type of number, boolean and string is read as a Python value with its sign and range."""
    container = GGUF.Container({key: GGUF.scalar(kind, value) for key, (kind, value) in VALUES.items()})
    metadata = GGUFFile(written(tmp_path, container)).metadata
    assert {key: (type(metadata[key]), metadata[key]) for key in metadata} == {
        key: (type(value), value) for key, (_, value) in VALUES.items()
    }


def test_arrays_of_all_types(tmp_path: Path) -> None:
    """Arrays of numbers are read as numpy arrays of their type, arrays of strings as lists; both may be empty."""
    numbers = {key: pair for key, pair in VALUES.items() if pair[0] != GGUF.STRING}
    arrays = {key: GGUF.array(kind, [value, value]) for key, (kind, value) in numbers.items()}
    strings = {"strings": GGUF.array(GGUF.STRING, ["a", "", "ü"]), "none": GGUF.array(GGUF.STRING, [])}
    metadata = GGUFFile(written(tmp_path, GGUF.Container({**arrays, **strings}))).metadata
    for key, (_, value) in numbers.items():
        assert metadata[key].tolist() == [value, value]
    assert metadata["u16"].dtype == np.uint16
    assert (metadata["strings"], metadata["none"]) == (["a", "", "ü"], [])


def test_against_the_reader_of_the_gguf_package(tmp_path: Path) -> None:
    """The reader finds the keys, values, shapes and bytes that the `gguf` package finds."""
    gguf = pytest.importorskip("gguf", reason="needs the gguf package (pip install 'decoding-engine[gguf]')")
    path = written(tmp_path, TINY)
    ours, theirs = GGUFFile(path), gguf.GGUFReader(path)
    for key, value in ours.metadata.items():
        assert theirs.fields[key].contents() == (value.tolist() if isinstance(value, np.ndarray) else value)
    assert [tensor.name for tensor in theirs.tensors] == list(ours.tensors)
    for tensor in theirs.tensors:
        info = ours.tensors[tensor.name]
        assert (tuple(tensor.shape.tolist()[::-1]), tensor.data_offset) == (info.shape, info.offset)
        assert ours.raw(tensor.name).tobytes() == tensor.data.tobytes()


@pytest.mark.parametrize("alignment", [1, 8, 32, 64, 4096])
@pytest.mark.parametrize("version", [2, 3])
def test_alignments_and_versions(alignment: int, version: int, tmp_path: Path) -> None:
    """Tensors are found with any alignment in both versions of the format."""
    container = replace(TINY, alignment=alignment, version=version) | {"general.alignment": alignment}
    model = open_model(written(tmp_path, container))
    assert model.tensors["output_norm.weight"].read().tobytes() == TINY.entries[1].data


def test_tensors_are_read_on_demand(tmp_path: Path) -> None:
    """Rows are read on demand: reading from a sparse tensor of a gigabyte takes little memory."""
    rows = 1 << 22
    entry = GGUF.Entry("token_embd.weight", (256, rows), 14, data=b"")
    path = written(tmp_path, GGUF.Container({}, (entry,)))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + rows * 210)
    found = GGUFFile(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tensor = GGUFTensors(path, {path: found})["token_embd.weight"]
    assert (tensor[np.array([5, rows - 1])] == 0).all()
    assert tensor[3:5].shape == (2, 256)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.parametrize("kind", TENSOR_TYPES.values(), ids=lambda kind: kind.name)
@pytest.mark.parametrize("dims", [(256,), (256, 5), (256, 3, 2), (512, 2, 2, 3)])
def test_rows_of_tensors(kind: Any, dims: tuple[int, ...], tmp_path: Path) -> None:
    """Any rows of a tensor of 1 to 4 dimensions and any type equal those of the whole dequantised tensor."""
    count = int(np.prod(dims)) // kind.block_size
    blocks = np.random.default_rng(3).integers(0, 64, (count, kind.block_bytes), np.uint8)
    entry = GGUF.Entry("t", dims, kind.number, data=blocks.tobytes())
    path = written(tmp_path, GGUF.Container({}, (entry,)))
    tensors = GGUFTensors(path, {path: GGUFFile(path)})
    whole = kind.dequantize(blocks).reshape(dims[::-1])
    tensor = tensors["t"]
    assert (tensor.dtype, tensor.shape, tensors.shapes) == (kind.name, dims[::-1], {"t": dims[::-1]})
    for index in (slice(None), slice(1, 3), np.array([1, 0, 1])):
        np.testing.assert_array_equal(tensor[index], whole[index])
    np.testing.assert_array_equal(tensor.read(), whole)


# Shards and folders


def shards(folder: Path, *parts: int, stem: str = "model", **changes: Any) -> list[Path]:
    """Write the tiny network in shards with the given numbers of tensors. Return their paths."""
    paths, first = [], 0
    for number, count in enumerate(parts):
        split = {
            "split.no": GGUF.scalar(GGUF.U16, number),
            "split.count": GGUF.scalar(GGUF.U16, len(parts)),
            "split.tensors.count": GGUF.scalar(GGUF.I32, sum(parts)),
            **changes,
        }
        entries = TINY.entries[first : first + count]
        container = replace(TINY, metadata=TINY.metadata if number == 0 else {}, entries=entries) | split
        paths.append(written(folder, container, f"{stem}-{number + 1:05}-of-{len(parts):05}.gguf"))
        first += count
    return paths


@pytest.mark.parametrize("parts", [(11,), (0, 11), (5, 6), (1, 1, 9), (3, 8, 0)])
def test_shards_are_one_model(parts: tuple[int, ...], tmp_path: Path) -> None:
    """Any shard, and the folder, opens the whole model."""
    paths = shards(tmp_path, *parts)
    for path in (*paths, tmp_path):
        model = open_model(path)
        assert model.files == tuple(paths)
        assert model.path == path
        assert list(model.tensors.shapes) == [entry.name for entry in TINY.entries]


def test_a_shard_missing(tmp_path: Path) -> None:
    """A missing shard is an error with its name."""
    paths = shards(tmp_path, 3, 4, 4)
    paths[1].unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.gguf: is missing"):
        open_model(paths[0])


def test_shards_in_the_wrong_place(tmp_path: Path) -> None:
    """The number and count of a shard must be those in its name."""
    paths = shards(tmp_path, 5, 6)
    paths[1].write_bytes(paths[0].read_bytes())
    with pytest.raises(CheckpointError, match=r"split.no=0: must be 1, as the file's name says"):
        open_model(tmp_path)
    paths[0].rename(paths[0].with_name("model-00001-of-00001.gguf"))
    with pytest.raises(CheckpointError, match=r"split.count=2: must be 1"):
        open_model(tmp_path / "model-00001-of-00001.gguf")


def test_a_shard_under_another_name(tmp_path: Path) -> None:
    """A renamed shard is an error."""
    shards(tmp_path, 5, 6)[0].rename(tmp_path / "renamed.gguf")
    with pytest.raises(CheckpointError, match=r"split.count: is one of several shards"):
        open_model(tmp_path / "renamed.gguf")


def test_a_file_that_is_no_shard_of_a_set(tmp_path: Path) -> None:
    """A file with the name of a shard needs the keys of a shard."""
    path = written(tmp_path, TINY, "model-00001-of-00001.gguf")
    with pytest.raises(CheckpointError, match=r"split.no=missing: must be 0"):
        open_model(path)


@pytest.mark.parametrize(("value", "part"), [(12, "in all shards, 11"), ("11", "must be an integer")])
def test_shards_that_miscount_their_tensors(value: Any, part: str, tmp_path: Path) -> None:
    """A wrong total of tensors in the shards is an error."""
    paths = shards(tmp_path, 5, 6, **{"split.tensors.count": value})
    with pytest.raises(CheckpointError, match=part):
        open_model(paths[0])


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    """A tensor in two shards is an error."""
    paths = shards(tmp_path, 5, 6, **{"split.tensors.count": 12})
    metadata = GGUFFile(paths[1]).metadata
    twice = replace(TINY, metadata={}, entries=(TINY.entries[4], *TINY.entries[5:]))
    split = {key: GGUF.scalar(GGUF.U16, metadata[key]) for key in ("split.no", "split.count")}
    written(tmp_path, twice | split, paths[1].name)
    with pytest.raises(CheckpointError, match=r"blk.0.attn_k.weight: is in model-00001-of-00002.gguf already"):
        open_model(tmp_path)


def test_shards_beyond_the_count(tmp_path: Path) -> None:
    """A name with a count of 00000 shards is an error."""
    path = written(tmp_path, TINY, "model-00001-of-00000.gguf")
    with pytest.raises(CheckpointError, match="with a count of at least 1"):
        open_model(path)


def test_folders(tmp_path: Path) -> None:
    """A folder with exactly one model opens that model."""
    with pytest.raises(ModelNotFoundError, match=r"no \.gguf file in this folder"):
        open_model(tmp_path)
    written(tmp_path, TINY, "one.gguf")
    (tmp_path / "README.md").write_text("")
    assert open_model(tmp_path).files == (tmp_path / "one.gguf",)
    shards(tmp_path, 5, 6, stem="two")
    with pytest.raises(CheckpointError, match=r"not 2 \(one.gguf, two-00001-of-00002.gguf\); name the file"):
        open_model(tmp_path)


@pytest.mark.parametrize("path", ["/nowhere/model.gguf", "x" * 5000, "a\0b"])
def test_paths_without_a_file(path: str) -> None:
    """A path at which nothing exists, or can exist, raises ModelNotFoundError."""
    with pytest.raises(ModelNotFoundError):
        open_model(path)


def test_path_of_another_type() -> None:
    """A path that is neither a string nor a Path raises ParameterError."""
    with pytest.raises(ParameterError, match="path=3"):
        open_model(3)  # type: ignore[arg-type]


def test_a_dangling_link(tmp_path: Path) -> None:
    """A dangling link is a broken model, not a model that is not found."""
    (tmp_path / "model.gguf").symlink_to("nothing")
    with pytest.raises(CheckpointError, match="is missing"):
        open_model(tmp_path / "model.gguf")
