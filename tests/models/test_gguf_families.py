"""Every family as a GGUF file has the logits of the same network in Hugging Face's layout."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from decoding.models import load_config, load_model

pytest.importorskip("gguf", reason="needs the gguf package (pip install 'decoding-engine[gguf]')")

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
    "starcoder2": {},
}
"""Recipes of make_golden.py that a GGUF file can express, with the necessary changes of the config."""

ONLY_OURS: dict[str, dict[str, Any]] = {
    "phi3": {"sliding_window": 7},
    "phi3 longrope short": {},
    "gpt_neox sequential": {},
    "olmo2 old": {},
}
"""Recipes that llama.cpp computes differently (Phi-3: windows and factors) or cannot compute (missing biases)."""


@pytest.fixture
def write(maker: Any, runs: Any, tmp_path: Path) -> Any:
    """Return a function that writes a recipe in both layouts and returns folder, .gguf file and token ids."""

    def write_both(name: str, changes: dict[str, Any], more: Any = None) -> tuple[Path, Path, list[int]]:
        [recipe] = [recipe for recipe in maker.recipes() if recipe.name == name]
        recipe = maker.Recipe(name, recipe.config | changes)
        maker.write_checkpoint(tmp_path, recipe, {})
        tensors = maker.weights(recipe, runs.tensors(tmp_path).items())
        CONVERTER.write(tmp_path / "model.gguf", recipe.config, tensors, more=more)
        maker.write_checkpoint(tmp_path, recipe, tensors)
        return tmp_path, tmp_path / "model.gguf", recipe.token_ids

    return write_both


@pytest.mark.parametrize(("name", "changes"), [*CASES.items(), *ONLY_OURS.items()])
def test_logits_equal_those_from_safetensors(
    name: str, changes: dict[str, Any], backend: str, write: Any, runs: Any
) -> None:
    """A network has the same logits from a GGUF file and from safetensors, on both backends."""
    folder, path, ids = write(name, changes)
    expected = runs.logits(load_model(folder, backend=backend), ids)
    np.testing.assert_allclose(runs.logits(load_model(path, backend=backend), ids), expected, atol=TOLERANCE, rtol=0)


def test_every_architecture_has_a_case() -> None:
    """Each supported architecture is among the cases."""
    from decoding.models.gguf_config import _READERS

    kinds = {name.split()[0] for name in CASES}
    assert {CONVERTER.ARCHITECTURES.get(kind, kind) for kind in kinds} == set(_READERS)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2", "gpt_neox"])
def test_configs_are_equal(name: str, write: Any) -> None:
    """The config of a GGUF file has the sizes, windows and scales of config.json, to float32."""
    folder, path, _ = write(name, CASES[name])
    ours, theirs = load_config(path), load_config(folder)
    for field in ("vocab_size", "hidden_size", "intermediate_size", "num_key_value_heads", "head_dim", "hidden_act"):
        assert getattr(ours, field) == getattr(theirs, field), field
    assert ours.norm_eps == pytest.approx(theirs.norm_eps, rel=1e-7)
    assert [layer.window for layer in ours.layers] == [layer.window for layer in theirs.layers]
    assert [layer.scale for layer in ours.layers] == pytest.approx([layer.scale for layer in theirs.layers])
    assert (ours.bos_token_id, ours.eos_token_ids) == (1, (2,))


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gemma"])
def test_fused_queries_keys_and_values(name: str, write: Any, maker: Any, runs: Any, tmp_path: Path) -> None:
    """A fused matrix of queries, keys and values gives the same bits as three matrices."""
    folder, path, ids = write(name, CASES[name])
    [recipe] = [recipe for recipe in maker.recipes() if recipe.name == name]
    tensors = dict(CONVERTER.converted(recipe.config, maker.weights(recipe, runs.tensors(folder).items())))
    for tensor in [tensor for tensor in tensors if ".attn_q." in tensor]:
        parts = [tensors.pop(tensor.replace(".attn_q.", f".attn_{part}.")) for part in "qkv"]
        tensors[tensor.replace(".attn_q.", ".attn_qkv.")] = np.concatenate(parts)
    CONVERTER.write_converted(tmp_path / "fused.gguf", recipe.config, tensors)
    expected = runs.logits(load_model(path), ids)
    np.testing.assert_array_equal(runs.logits(load_model(tmp_path / "fused.gguf"), ids), expected)


# llama.cpp


def _olmo3(writer: Any) -> None:
    """Add the keys that turn OLMo 2 into OLMo 3: windows in three of four layers."""
    writer.add_sliding_window(5)
    writer.add_sliding_window_pattern([True, False, True])


def _no_positions(writer: Any) -> None:
    """Add llama.cpp's mark of a Granite without rotary embeddings."""
    writer.add_rope_scaling_finetuned(False)


def _patterns(writer: Any) -> None:
    """Add a pattern of windows that no config.json of Gemma 3 has."""
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
def test_logits_equal_llama_cpp(name: str, changes: dict[str, Any], more: Any, write: Any, runs: Any) -> None:
    """Installed llama.cpp computes the same logits from the same file, to the precision of its tables."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
    _, path, ids = write(name, changes, more)
    theirs = llama_cpp.Llama(
        str(path), n_ctx=64, n_threads=1, logits_all=True, type_k=0, type_v=0, flash_attn=False, verbose=False
    )
    theirs.eval(ids)
    logits = runs.logits(load_model(path), ids)
    has_gelu = name.startswith(("gemma", "gpt", "starcoder"))  # a table of half precision in llama.cpp
    tolerance = np.abs(logits).max() * (3e-3 if has_gelu else 2e-5)
    np.testing.assert_allclose(theirs.scores[: len(ids)], logits, atol=tolerance, rtol=0)
