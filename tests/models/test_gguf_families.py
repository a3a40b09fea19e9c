"""Every family as a GGUF file: the same logits as the same network in Hugging Face's layout."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from decoding.models import Transformer, load_model
from decoding.models.gguf import open_model
from decoding.models.gguf_types import TENSOR_TYPES

gguf = pytest.importorskip("gguf", reason="needs the gguf package (pip install 'decoding-engine[gguf]')")

CONVERTER = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("make_gguf.py"))))
TOLERANCE = 2e-5

CASES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama old": {},
    "llama biases tied": {},
    "llama one key head": {"hidden_act": "silu"},
    "llama linear": {},
    "llama llama3": {},
    "llama yarn": {},
    "mistral": {"sliding_window": None},
    "mistral old": {},
    "qwen2": {},
    "qwen3": {},
    "olmo2": {},
    "smollm3": {},
    "granite": {},
    "granite old": {},
    "phi3": {"sliding_window": None},
    "phi3 partial": {},
    "phi3 longrope": {},
    "gemma": {},
    "gemma old": {"attention_bias": False},
    "gemma2": {"query_pre_attn_scalar": 8},
    "gemma2 caps": {"query_pre_attn_scalar": 8},
    "gemma3_text": {"query_pre_attn_scalar": 8},
    "gemma3_text old": {"query_pre_attn_scalar": 8, "sliding_window_pattern": 6, "num_hidden_layers": 7},
    "gpt2": {},
    "gpt_neox": {},
    "gpt_neox old": {"rotary_emb_base": 10000},
}
"""Recipes of make_golden.py that a GGUF file can express, with what has to change for that."""

ONLY_OURS: dict[str, dict[str, Any]] = {
    "phi3": {"sliding_window": 7},
    "phi3 longrope short": {},
    "gpt_neox sequential": {},
    "olmo2 old": {},
}
"""Recipes that llama.cpp computes in another way (Phi-3's windows and factors) or not at all (missing biases)."""


@pytest.fixture
def write(maker: Any, runs: Any, tmp_path: Path) -> Any:
    """Write a recipe in both layouts; return the paths of the folder and of the .gguf file, and the token ids."""

    def write_both(name: str, changes: dict[str, Any], more: Any = None) -> tuple[Path, Path, list[int]]:
        [recipe] = [recipe for recipe in maker.recipes() if recipe.name == name]
        recipe = maker.Recipe(name, recipe.config | changes)
        maker.write_checkpoint(tmp_path, recipe, {})
        tensors = maker.weights(recipe, runs.tensors(tmp_path).items())
        CONVERTER.write(tmp_path / "model.gguf", recipe.config, tensors, more=more)
        maker.write_checkpoint(tmp_path, recipe, tensors)
        return tmp_path, tmp_path / "model.gguf", recipe.token_ids

    return write_both


def loaded(path: Path) -> Transformer:
    """Load a .gguf file into the forward pass, through its dequantisers."""
    model = open_model(path)
    return Transformer(model.config, model.checkpoint, model.layout)


@pytest.mark.parametrize(("name", "changes"), [*CASES.items(), *ONLY_OURS.items()])
def test_logits_are_those_of_the_same_network_in_safetensors(
    name: str, changes: dict[str, Any], write: Any, runs: Any
) -> None:
    """Names, orders of rows, offsets, factors, scales and windows all mean the same network."""
    folder, path, ids = write(name, changes)
    expected = runs.logits(load_model(folder), ids)
    np.testing.assert_allclose(runs.logits(loaded(path), ids), expected, atol=TOLERANCE, rtol=0)


def test_every_architecture_has_a_case() -> None:
    """Each architecture that can be read is among the cases."""
    from decoding.models.gguf_config import _READERS

    kinds = {name.split()[0] for name in CASES}
    assert {CONVERTER.ARCHITECTURES.get(kind, kind) for kind in kinds} == set(_READERS)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2", "gpt_neox"])
def test_config_says_the_same(name: str, write: Any) -> None:
    """Sizes, windows, scales and rotary embeddings are those of config.json, to float32."""
    folder, path, _ = write(name, CASES[name])
    ours, theirs = open_model(path).config, load_model(folder).config
    for field in ("vocab_size", "hidden_size", "intermediate_size", "num_key_value_heads", "head_dim", "hidden_act"):
        assert getattr(ours, field) == getattr(theirs, field), field
    assert ours.norm_eps == pytest.approx(theirs.norm_eps, rel=1e-7)
    assert [layer.window for layer in ours.layers] == [layer.window for layer in theirs.layers]
    assert [layer.scale for layer in ours.layers] == pytest.approx([layer.scale for layer in theirs.layers])
    assert (ours.bos_token_id, ours.eos_token_ids) == (1, (2,))


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gemma"])
def test_fused_queries_keys_and_values(name: str, write: Any, maker: Any, runs: Any, tmp_path: Path) -> None:
    """Queries, keys and values in one matrix are those of three."""
    folder, path, ids = write(name, CASES[name])
    [recipe] = [recipe for recipe in maker.recipes() if recipe.name == name]
    tensors = dict(CONVERTER.converted(recipe.config, maker.weights(recipe, runs.tensors(folder).items())))
    for tensor in [tensor for tensor in tensors if ".attn_q." in tensor]:
        parts = [tensors.pop(tensor.replace(".attn_q.", f".attn_{part}.")) for part in "qkv"]
        tensors[tensor.replace(".attn_q.", ".attn_qkv.")] = np.concatenate(parts)
    CONVERTER.write_converted(tmp_path / "fused.gguf", recipe.config, tensors)
    expected = runs.logits(loaded(path), ids)
    np.testing.assert_array_equal(runs.logits(loaded(tmp_path / "fused.gguf"), ids), expected)


# Types of tensors


def _random_blocks(kind: Any, rows: int, row_size: int, seed: int) -> np.ndarray:
    """Blocks of random bytes with scales small enough for a network: uint8 [rows, bytes per row]."""
    blocks = np.random.default_rng(seed).integers(
        0, 256, (rows * row_size // kind.block_size, kind.block_bytes), np.uint8
    )
    half = np.array([1e-3], "<f2").view(np.uint8)
    starts = {"Q6_K": (208,), "Q8_0": (0,), "Q4_0": (0,), "Q5_0": (0,)}.get(kind.name, (0, 2))
    for start in starts:
        blocks[:, start : start + 2] = half
    return blocks.reshape(rows, -1)


@pytest.mark.parametrize("kind", TENSOR_TYPES.values(), ids=lambda kind: kind.name)
@pytest.mark.parametrize("name", ["llama", "phi3", "gpt2"])
def test_logits_of_each_type(name: str, kind: Any, maker: Any, runs: Any, tmp_path: Path) -> None:
    """Matrices of each type, permuted, fused or transposed, are the network of the numbers that the package reads."""
    sizes = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
    if name == "gpt2":
        sizes = {"n_embd": 256, "n_inner": 1024, "n_layer": 1}
    [recipe] = [recipe for recipe in maker.recipes() if recipe.name == name]
    recipe = maker.Recipe(name, recipe.config | sizes | {"sliding_window": None})
    maker.write_checkpoint(tmp_path, recipe, {})
    tensors = maker.weights(recipe, runs.tensors(tmp_path).items())
    stored: dict[str, np.ndarray] = {}

    def encode(tensor: str, values: np.ndarray) -> tuple[np.ndarray, Any]:
        code = gguf.GGMLQuantizationType(kind.number)
        if kind.block_size == 1:
            data = gguf.quants.quantize(values, code)
        else:
            data = _random_blocks(kind, *values.shape, seed=len(stored))
        stored[tensor] = gguf.quants.dequantize(data, code).astype(np.float32)
        return data, code

    CONVERTER.write(tmp_path / "model.gguf", recipe.config, tensors, encode)
    plain = dict(CONVERTER.converted(recipe.config, tensors)) | stored
    CONVERTER.write_converted(tmp_path / "plain.gguf", recipe.config, plain)
    expected = runs.logits(loaded(tmp_path / "plain.gguf"), recipe.token_ids)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_array_equal(runs.logits(loaded(tmp_path / "model.gguf"), recipe.token_ids), expected)


# llama.cpp


def _olmo3(writer: Any) -> None:
    """Add what makes an OLMo 3 of an OLMo 2: windows in three layers of four."""
    writer.add_sliding_window(5)
    writer.add_sliding_window_pattern([True, False, True])


def _no_positions(writer: Any) -> None:
    """Add llama.cpp's sign for a Granite without rotary embeddings."""
    writer.add_rope_scaling_finetuned(False)


def _patterns(writer: Any) -> None:
    """Add a pattern that no config.json of Gemma 3 has."""
    writer.add_sliding_window_pattern([False, True, True])


@pytest.mark.parametrize(
    ("name", "changes", "more"),
    [
        *((name, changes, None) for name, changes in CASES.items()),
        ("olmo2", {}, _olmo3),
        ("granite", {}, _no_positions),
        ("gemma3_text", {"num_hidden_layers": 3}, _patterns),
    ],
)
def test_logits_are_those_of_llama_cpp(name: str, changes: dict[str, Any], more: Any, write: Any, runs: Any) -> None:
    """llama.cpp, where it is installed, computes the same logits from the same file, to the precision of its tables."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
    _, path, ids = write(name, changes, more)
    theirs = llama_cpp.Llama(
        str(path), n_ctx=64, n_threads=1, logits_all=True, type_k=0, type_v=0, flash_attn=False, verbose=False
    )
    theirs.eval(ids)
    logits = runs.logits(loaded(path), ids)
    has_gelu = name.startswith(("gemma", "gpt"))  # theirs is a table of half precision
    tolerance = np.abs(logits).max() * (3e-3 if has_gelu else 2e-5)
    np.testing.assert_allclose(theirs.scores[: len(ids)], logits, atol=tolerance, rtol=0)
