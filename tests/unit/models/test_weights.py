"""Names and layouts of tensors: the same network under every name that published files use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from decoding.errors import CheckpointError
from decoding.models import load_model
from decoding.models.weights import split_heads

SIZES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama tied": {"tie_word_embeddings": True},
    "gemma3_text": {"head_dim": 4, "tie_word_embeddings": False},
    "gpt2": {"n_embd": 16, "n_head": 4, "n_layer": 2, "num_key_value_heads": None, "rope_theta": None},
    "gpt_neox": {"num_key_value_heads": None, "rotary_pct": 0.5},
}

Rename = Callable[[str], str]


def _logits(workshop: Any, runs: Any, kind: str, rename: Rename = str, extra: Any = None, **changes: Any) -> Any:
    """Return the logits of the network with its tensors renamed and extra tensors added."""
    sizes = {"model_type": kind.split()[0]} | SIZES[kind]
    tensors = workshop.tensors(workshop.config(**sizes))
    stored = {rename(name): values for name, values in tensors.items()} | (extra or {})
    model = load_model(workshop.checkpoint(tensors=stored, **sizes | changes))
    return runs.logits(model, list(range(9)))


def _without(prefix: str) -> Rename:
    return lambda name: name.removeprefix(prefix)


@pytest.mark.parametrize(
    ("kind", "rename"),
    [
        ("llama", _without("model.")),
        ("llama tied", _without("model.")),
        ("gpt2", _without("transformer.")),
        ("gpt_neox", _without("gpt_neox.")),
        ("gpt_neox", lambda name: name.replace("lm_head", "embed_out")),
        ("gemma3_text", lambda name: name.replace("model.", "model.language_model.")),
        ("gemma3_text", lambda name: f"language_model.{name}"),
        ("gemma3_text", _without("model.")),
    ],
)
def test_other_names_of_the_same_tensors(workshop: Any, runs: Any, kind: str, rename: Rename) -> None:
    """Tensors without the inner model's prefix, or with older names, give the same logits."""
    np.testing.assert_array_equal(_logits(workshop, runs, kind, rename), _logits(workshop, runs, kind))


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("llama", ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"]),
        ("gpt2", ["transformer.h.0.attn.bias", "transformer.h.1.attn.masked_bias"]),
        ("gpt_neox", ["gpt_neox.layers.0.attention.bias", "gpt_neox.layers.0.attention.masked_bias"]),
        ("gpt_neox", ["gpt_neox.layers.1.attention.rotary_emb.inv_freq"]),
        ("gemma3_text", ["vision_tower.x.weight", "model.vision_tower.y", "multi_modal_projector.z.weight"]),
    ],
)
def test_constants_and_other_towers_are_harmless(workshop: Any, runs: Any, kind: str, names: list[str]) -> None:
    """Masks, rotary frequencies and vision towers in a file are ignored."""
    extra = {name: np.ones((1, 2, 3)) for name in names}
    np.testing.assert_array_equal(_logits(workshop, runs, kind, extra=extra), _logits(workshop, runs, kind))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_an_unknown_tensor_is_refused(workshop: Any, runs: Any, kind: str) -> None:
    """An unknown tensor with a similar name is refused."""
    with pytest.raises(CheckpointError, match="is not a tensor of this architecture"):
        _logits(workshop, runs, kind, extra={"model.layers.0.self_attn.bias": np.ones(3)})


def test_gpt2s_context_must_equal_its_positions(workshop: Any, runs: Any) -> None:
    """GPT-2's context must equal the number of learned positions."""
    with pytest.raises(CheckpointError, match=r"wpe\.weight: has shape \[160, 16\]; the config asks for \[161, 16\]"):
        _logits(workshop, runs, "gpt2", max_position_embeddings=161)


def test_heads_that_are_stored_together_are_split() -> None:
    """GPT-NeoX's rows of q, k and v per head are reordered to all queries, then keys, then values."""
    order = split_heads(num_heads=2, head_dim=2)  # stored: q0 k0 v0 q1 k1 v1, two rows each
    assert order.tolist() == [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]


def test_a_model_larger_than_the_memory(workshop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model larger than the physical memory raises a CheckpointError with the size it needs."""
    folder = workshop.checkpoint()
    monkeypatch.setattr("decoding.models.packing.physical_memory", lambda: 10_000)
    with pytest.raises(CheckpointError, match="needs 17,408 bytes of memory for its weights"):
        load_model(folder)
