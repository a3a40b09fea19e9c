"""Networks against installed transformers: `pip install torch==2.13.0 && pip install 'transformers>=5'`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decoding.models import load_model
from decoding.reference.activations import ACTIVATIONS

torch = pytest.importorskip("torch", reason="needs torch and transformers")
transformers = pytest.importorskip("transformers", reason="needs transformers")
safetensors_numpy = pytest.importorskip("safetensors.numpy")
pytestmark = pytest.mark.filterwarnings("ignore")  # warnings of other libraries

HERE = Path(__file__).parent
PUBLISHED = json.loads((HERE / "published.json").read_text())
TOLERANCE = 5e-5


def test_the_goldens_are_up_to_date(recipe: Any, maker: Any, runs: Any, tmp_path: Path) -> None:
    """Installed transformers gives the logits of golden.npz, from tensors of the same names."""
    model = maker.transformers_model(recipe, tmp_path)
    assert (
        maker.digest(model.stored_tensors.items())
        == json.loads((HERE / "golden.json").read_text())["tensors"][recipe.name]
    )
    logits = maker.truth(model, recipe.token_ids)
    np.testing.assert_allclose(logits[maker.KEPT], np.load(HERE / "golden.npz")[recipe.name], atol=1e-6, rtol=0)
    np.testing.assert_allclose(runs.logits(load_model(tmp_path), recipe.token_ids), logits, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_activations(activation: str, backend: str, maker: Any, runs: Any, tmp_path: Path) -> None:
    """Every nonlinearity that a config can name computes transformers' values."""
    recipe = maker.Recipe("llama", {"model_type": "llama", **maker.SIZES, "hidden_act": activation})
    truth = maker.truth(maker.transformers_model(recipe, tmp_path), recipe.token_ids)
    np.testing.assert_allclose(
        runs.logits(load_model(tmp_path, backend=backend), recipe.token_ids), truth, atol=TOLERANCE, rtol=0
    )


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "gpt_neox"])
def test_tensors_of_a_tied_model(family: str, maker: Any, runs: Any, tmp_path: Path) -> None:
    """A tied model may store embedding, head, both or a different head: the logits are transformers'."""
    recipe = next(recipe for recipe in maker.recipes() if recipe.config["model_type"] == family)
    recipe = replace(recipe, config={**recipe.config, "tie_word_embeddings": True})
    maker.transformers_model(recipe, tmp_path)
    tensors = safetensors_numpy.load_file(tmp_path / "model.safetensors")
    named = ("embed_tokens.weight", "wte.weight", "embed_in.weight")
    (name,) = [one for one in tensors if one.endswith(named)]
    embedding, head = tensors.pop(name), "embed_out.weight" if family == "gpt_neox" else "lm_head.weight"
    tensors = {one: value for one, value in tensors.items() if not one.endswith(("embed_out.weight", "lm_head.weight"))}
    for stored in (
        {name: embedding},
        {"lm_head.weight": embedding},
        {name: embedding, head: embedding.copy()},
        {name: embedding, head: embedding[::-1].copy()},
    ):
        safetensors_numpy.save_file({**tensors, **stored}, tmp_path / "model.safetensors", metadata={"format": "pt"})
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
        with torch.no_grad():
            truth = model(torch.tensor([recipe.token_ids])).logits[0].numpy()
        np.testing.assert_allclose(runs.logits(load_model(tmp_path), recipe.token_ids), truth, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["llama dynamic", "mistral", "gemma3_text", "smollm3 windows"])
def test_a_cache_that_grows_token_by_token(name: str, maker: Any, runs: Any, tmp_path: Path) -> None:
    """One token per step gives transformers' logits, also if the rotary frequencies change on the way."""
    (recipe,) = [recipe for recipe in maker.recipes() if recipe.name == name]
    reference, past, expected = maker.transformers_model(recipe, tmp_path), None, []
    for token_id in recipe.token_ids:
        with torch.no_grad():
            step = reference(torch.tensor([[token_id]]), past_key_values=past, use_cache=True)
        past = step.past_key_values
        expected.append(step.logits[0, -1].numpy())
    logits = runs.logits(load_model(tmp_path), recipe.token_ids, [1] * len(recipe.token_ids), rope_length=1)
    np.testing.assert_allclose(logits, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("scaling", [{}, {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 256}])
def test_far_positions(scaling: dict[str, Any], maker: Any, runs: Any, tmp_path: Path) -> None:
    """Logits of 2,000 tokens are transformers' for every kind of rotary scaling."""
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0} | scaling}
    config = {"model_type": "llama", **maker.SIZES, "max_position_embeddings": 2048, **rope}
    recipe = maker.Recipe("llama", config, num_tokens=2000)
    truth = maker.truth(maker.transformers_model(recipe, tmp_path), recipe.token_ids)
    np.testing.assert_allclose(runs.logits(load_model(tmp_path), recipe.token_ids), truth, atol=TOLERANCE, rtol=0)


def test_gemma3_with_its_vision_tower(maker: Any, runs: Any, tmp_path: Path) -> None:
    """A multimodal checkpoint that transformers saved gives transformers' logits on text."""
    text = maker.SIZES | maker.GEMMA | maker.TWO_ROPES | {"layer_types": maker.ALTERNATING}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 16, "patch_size": 8}
    ids = {"image_token_index": 29, "boi_token_index": 30, "eoi_token_index": 31, "mm_tokens_per_image": 1}
    config = transformers.Gemma3Config(text_config=text, vision_config=vision, **ids)
    torch.manual_seed(1)
    transformers.Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
    reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    token_ids = list(range(3, 27))
    logits = runs.logits(load_model(tmp_path), token_ids)
    np.testing.assert_allclose(logits, maker.truth(reference, token_ids), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs(name: str, maker: Any, runs: Any, tmp_path: Path) -> None:
    """Published configs with random weights in shards give transformers' logits, as published and as saved again."""
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED[name]))
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    torch.manual_seed(len(name))
    model = transformers.AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3 if parameter.ndim == 1 else 0.08)
    model.save_pretrained(tmp_path, max_shard_size="60KB")
    token_ids = [3 + 7 * place % 80 for place in range(40)]
    truth = maker.truth(model.double().eval(), token_ids)
    for text in ((tmp_path / "config.json").read_text(), json.dumps(PUBLISHED[name])):
        (tmp_path / "config.json").write_text(text)
        for chunks in ([], [13, 1, 1, 20, 5]):
            logits = runs.logits(load_model(tmp_path), token_ids, chunks)
            np.testing.assert_allclose(logits, truth, atol=TOLERANCE, rtol=0)
