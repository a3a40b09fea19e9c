"""GGUF networks of every tensor type: both backends, mixed types, and bits that do not depend on the computation."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from decoding.models import load_model
from decoding.models.gguf_types import TENSOR_TYPES
from decoding.models.packing import pack_weights
from decoding.models.registry import open_model
from decoding.sampling.kernel import available_isas, forced_isa

gguf = pytest.importorskip("gguf", reason="needs the gguf package (pip install 'decoding-engine[gguf]')")

CONVERTER = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("make_gguf.py"))))
TOLERANCE = 1e-4  # relative to the largest logit
KINDS = {kind.name: kind for kind in TENSOR_TYPES.values()}
QUANTISED = [kind for kind in KINDS.values() if kind.block_size > 1]
TYPICAL = {"Q8_0": 74, "Q4_0": 5, "Q4_1": 9, "Q5_0": 9, "Q5_1": 18, "Q4_K": 320, "Q5_K": 650, "Q6_K": 1370}
"""The root mean square of a weight made of random bits, as a multiple of d."""

Choose = Callable[[str], str]


def random_blocks(kind: Any, rows: int, row_size: int, seed: int) -> np.ndarray:
    """Return random blocks whose weights keep the scale of activations, uint8 [rows, bytes]."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (rows * row_size // kind.block_size, kind.block_bytes), np.uint8)
    for start in kind.floats:
        scales = rng.uniform(-1, 1, (len(blocks), 1)) / (TYPICAL[kind.name] * np.sqrt(row_size))
        blocks[:, start : start + 2] = scales.astype("<f2").view(np.uint8)
    return blocks.reshape(rows, -1)


class Written(SimpleNamespace):
    """A written network.

    path: its file.
    plain: a file with the same numbers in float32.
    ids: token ids.
    """


@pytest.fixture
def write(maker: Any, runs: Any, tmp_path: Path) -> Any:
    """Return a function that writes a recipe with rows of whole blocks; `choose` maps a tensor's name to its type."""

    def write_types(name: str, choose: Choose, **changes: Any) -> Written:
        sizes = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
        if name == "gpt2":
            sizes = {"n_embd": 256, "n_inner": 1024, "n_layer": 1}
        [recipe] = [recipe for recipe in maker.recipes() if recipe.name == name]
        recipe = maker.Recipe(name, recipe.config | sizes | {"sliding_window": None} | changes)
        maker.write_checkpoint(tmp_path, recipe, {})
        tensors = dict(CONVERTER.converted(recipe.config, maker.weights(recipe, runs.tensors(tmp_path).items())))
        numbers: dict[str, np.ndarray] = {}

        def encode(tensor: str, values: np.ndarray) -> tuple[np.ndarray, Any]:
            kind = KINDS[choose(tensor)]
            code = gguf.GGMLQuantizationType(kind.number)
            if kind.block_size == 1:
                data = gguf.quants.quantize(values, code)
            else:
                data = random_blocks(kind, *values.shape, seed=len(numbers))
            numbers[tensor] = gguf.quants.dequantize(data, code).astype(np.float32)
            return data, code

        path, plain = tmp_path / "model.gguf", tmp_path / "plain.gguf"
        CONVERTER.write_converted(path, recipe.config, tensors, encode)
        CONVERTER.write_converted(plain, recipe.config, tensors | numbers)
        return Written(path=path, plain=plain, ids=recipe.token_ids)

    return write_types


def assert_close(path: Path, ids: list[int], runs: Any) -> None:
    """Assert that native logits of eight short prompts equal the reference with the same arithmetic.

    An input within float32's error of the border between two integers may be rounded to the other integer, which can
    move later inputs over borders as well. This happens in about one of thirty prompts. So six of eight prompts must be
    close, the others within the error of quantised inputs.
    """
    model, reference = load_model(path), runs.quantised_reference(path)
    errors = []
    for first in range(0, 24, 3):
        expected = reference(ids[first : first + 3])
        errors.append(np.abs(runs.logits(model, ids[first : first + 3]) - expected).max() / np.abs(expected).max())
    assert np.abs(expected).max() > 0.01
    assert sorted(errors)[5] <= TOLERANCE, errors
    assert max(errors) <= 0.1, errors


def types_of(path: Path) -> list[list[str]]:
    """Return the packed types of the first layer's matrices and the head, with those of their chained parts."""
    packed = pack_weights(open_model(path).weights(), 1)
    chains = []
    for matrix in (*packed.blocks[0][:4], packed.head):
        chain, link = [], matrix
        while link is not None:
            chain.append(link.weight_type)
            link = link.rest
        chains.append(chain)
    return chains


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["llama", "phi3", "gpt2", "gemma"])
def test_each_type(name: str, kind: str, write: Any, runs: Any) -> None:
    """Matrices of each type, permuted, fused, tied or with biases, keep their type and give the reference's logits."""
    head_dim = {"head_dim": 64} if name == "gemma" else {}
    written = write(name, lambda _: kind, **head_dim)
    packed = {"F32": "float32", "F16": "float16", "BF16": "bfloat16_coded"}.get(kind, kind.lower())
    assert types_of(written.path) == [[packed]] * 5
    assert_close(written.path, written.ids, runs)


@pytest.mark.parametrize("kind", KINDS)
def test_numpy_backend_has_the_numbers_of_the_file(kind: str, write: Any, runs: Any) -> None:
    """The numpy backend computes with the numbers that the `gguf` package reads, to the bit."""
    written = write("llama", lambda _: kind)
    models = [load_model(path, backend="numpy") for path in (written.path, written.plain)]
    found, expected = (runs.logits(model, written.ids) for model in models)
    np.testing.assert_array_equal(found, expected)


MIXES: dict[str, tuple[dict[str, str], dict[str, Any], list[list[str]]]] = {
    "Q4_K_M": (
        {"attn_v": "Q6_K", "ffn_down": "Q6_K", "token_embd": "Q6_K", "attn_": "Q4_K", "output": "Q6_K", "": "Q4_K"},
        {},
        [["q4_k", "q6_k"], ["q4_k"], ["q4_k"], ["q6_k"], ["q6_k"]],
    ),
    "Q4_K_M of odd sizes": (
        {"attn_v": "Q8_0", "ffn_down": "Q8_0", "token_embd": "Q8_0", "": "Q5_0"},
        {"tie_word_embeddings": True},
        [["q5_0", "q8_0"], ["q5_0"], ["q5_0"], ["q8_0"], ["q8_0"]],
    ),
    "three types in a chain": (
        {"attn_q": "Q4_0", "attn_k": "Q5_1", "attn_v": "Q8_0", "token_embd": "F16", "": "Q4_1"},
        {"attention_bias": True},
        [["q4_0", "q5_1", "q8_0"], ["q4_1"], ["q4_1"], ["q4_1"], ["q4_1"]],
    ),
    "floats in a chain": (
        {"attn_q": "F16", "attn_k": "BF16", "attn_v": "BF16", "": "F32"},
        {},
        [["float16", "bfloat16_coded"], ["float32"], ["float32"], ["float32"], ["float32"]],
    ),
    "floats and blocks": (
        {"attn_q": "F16", "ffn_gate": "BF16", "": "Q8_0"},
        {},
        [["float32"], ["q8_0"], ["float32"], ["q8_0"], ["q8_0"]],
    ),
    "gate and up": ({"ffn_gate": "Q5_K", "": "Q4_K"}, {}, [["q4_k"], ["q4_k"], ["q5_k", "q4_k"], ["q4_k"], ["q4_k"]]),
    "no whole panels": (
        {"attn_v": "Q8_0", "": "Q4_0"},
        {"num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 40, "hidden_size": 320},
        [["float32"], ["q4_0"], ["q4_0"], ["q4_0"], ["q4_0"]],
    ),
}
"""Types by a part of the tensor names ("" matches the others), changes of the config, and the packed types."""


@pytest.mark.parametrize("mix", MIXES)
def test_mixed_types(mix: str, write: Any, runs: Any) -> None:
    """Parts of a matrix keep their types if possible and otherwise become float32; logits are the reference's."""
    types, changes, packed = MIXES[mix]
    written = write("llama", lambda name: next(kind for part, kind in types.items() if part in name), **changes)
    assert types_of(written.path) == packed
    assert_close(written.path, written.ids, runs)


@pytest.mark.parametrize("kind", QUANTISED, ids=lambda kind: kind.name)
def test_bits_do_not_depend_on_the_computation(kind: Any, write: Any, runs: Any) -> None:
    """Threads, instruction sets, chunks and other sequences of a batch do not change a bit of the logits."""
    written = write("llama", lambda name: "Q8_0" if "attn_v" in name else kind.name)
    ids, whole = written.ids, None
    for num_threads, chunks in ((1, [24]), (2, [1] * 24), (3, [7, 1, 9, 3, 4]), (8, [23, 1])):
        model = load_model(written.path, num_threads=num_threads)
        for isa in available_isas():
            with forced_isa(isa):
                found = runs.logits(model, ids, chunks)
            whole = found if whole is None else whole
            np.testing.assert_array_equal(found, whole, err_msg=f"{num_threads} threads, {chunks}, {isa}")
    model, count = load_model(written.path, num_threads=2), 13
    rows = [runs.Row(ids[: 3 + index], 0, [2 * index, 2 * index + 1], 24) for index in range(count)]
    together = model.forward(runs.make_batch(*rows), model.new_cache(2 * count))
    np.testing.assert_array_equal(together, whole[2 : 2 + count])


@pytest.mark.parametrize("num_bytes", [1, 1 << 20])
def test_chunks_of_packing_do_not_change_a_bit(
    num_bytes: int, write: Any, runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packing a matrix in chunks of panels gives the same logits as packing it at once."""
    written = write("llama", lambda name: "Q6_K" if "attn_v" in name else "Q4_K")
    expected = runs.logits(load_model(written.path), written.ids)
    monkeypatch.setattr("decoding.models.packing._CHUNK_BYTES", num_bytes)
    np.testing.assert_array_equal(runs.logits(load_model(written.path, num_threads=3), written.ids), expected)


def test_nan_scales_are_errors(write: Any) -> None:
    """A NaN in the scale of a block is an error with the tensor's name when the matrix is packed."""
    written = write("llama", lambda _: "Q4_1")
    opened = open_model(written.path)
    tensor = opened.tensors["blk.0.ffn_down.weight"]
    raw = bytearray(written.path.read_bytes())
    begin = tensor.begin
    raw[begin + 20 * 9 + 2 : begin + 20 * 9 + 4] = b"\x00\x7e"  # the minimum of block 9
    written.path.write_bytes(raw)
    with pytest.raises(Exception, match=r"blk\.0\.ffn_down\.weight: has values that are NaN or infinite"):
        load_model(written.path)
