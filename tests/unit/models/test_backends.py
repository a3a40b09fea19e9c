"""The forward pass of both backends: against a slow float64 definition, goldens, and in every shape of batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from decoding.models import load_model

PROMPT = [1, 7, 3, 18, 0, 5, 5, 11, 2, 9]
TOLERANCE = 5e-5


# The definition: one token at a time, one head at a time, float64, Hugging Face's layout as it is stored.


def _norm(x: NDArray[Any], weight: NDArray[Any], eps: float) -> NDArray[Any]:
    return x / np.sqrt(np.mean(x * x) + eps) * weight


def _rotated(x: NDArray[Any], position: int, theta: float) -> NDArray[Any]:
    half = len(x) // 2
    angles = position * theta ** -(np.arange(half) * 2 / len(x))
    first, second = x[:half], x[half:]
    return np.concatenate(
        [first * np.cos(angles) - second * np.sin(angles), second * np.cos(angles) + first * np.sin(angles)]
    )


class SlowLlama:
    """Llama by definition, in float64: `tensors` as in the checkpoint, `config` as a model's."""

    def __init__(self, config: Any, tensors: dict[str, NDArray[Any]]) -> None:
        self.config = config
        self.tensors = {name: np.asarray(array, np.float64) for name, array in tensors.items()}

    def _linear(self, name: str, x: NDArray[Any]) -> NDArray[Any]:
        return self.tensors[f"{name}.weight"] @ x + self.tensors.get(f"{name}.bias", 0.0)

    def _attend(self, prefix: str, x: NDArray[Any], position: int, past: list[Any]) -> NDArray[Any]:
        config, dim = self.config, self.config.head_dim
        theta = config.layers[0].rope.theta
        q, k, v = (self._linear(f"{prefix}.{name}_proj", x).reshape(-1, dim) for name in "qkv")
        past.append(([_rotated(head, position, theta) for head in k], v))
        out = []
        for head, query in enumerate(q):
            group = head // (config.num_attention_heads // config.num_key_value_heads)
            query = _rotated(query, position, theta)
            scores = np.array([query @ keys[group] / np.sqrt(dim) for keys, _ in past])
            weights = np.exp(scores - scores.max())
            weights /= weights.sum()
            out.append(sum(weight * values[group] for weight, (_, values) in zip(weights, past, strict=True)))
        return self._linear(f"{prefix}.o_proj", np.concatenate(out))

    def logits(self, token_ids: list[int]) -> NDArray[Any]:
        """Return the logits of every token, [tokens, vocab]."""
        eps = self.config.norm_eps
        pasts: list[list[Any]] = [[] for _ in range(self.config.num_hidden_layers)]
        rows = []
        for position, token_id in enumerate(token_ids):
            x = self.tensors["model.embed_tokens.weight"][token_id]
            for index, past in enumerate(pasts):
                prefix = f"model.layers.{index}"
                normed = _norm(x, self.tensors[f"{prefix}.input_layernorm.weight"], eps)
                x = x + self._attend(f"{prefix}.self_attn", normed, position, past)
                normed = _norm(x, self.tensors[f"{prefix}.post_attention_layernorm.weight"], eps)
                gate = self._linear(f"{prefix}.mlp.gate_proj", normed)
                up = self._linear(f"{prefix}.mlp.up_proj", normed)
                x = x + self._linear(f"{prefix}.mlp.down_proj", gate / (1 + np.exp(-gate)) * up)
            head = "model.embed_tokens" if self.config.tie_word_embeddings else "lm_head"
            rows.append(self.tensors[f"{head}.weight"] @ _norm(x, self.tensors["model.norm.weight"], eps))
        return np.array(rows)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1},
        {"tie_word_embeddings": True},
        {"attention_bias": True, "mlp_bias": True},
        {"head_dim": 6},
        {"rope_theta": None, "rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}},
        {"num_hidden_layers": 1, "rms_norm_eps": 0.5},
        {"hidden_size": 72, "intermediate_size": 100, "vocab_size": 71},
        {"hidden_size": 320, "intermediate_size": 600, "vocab_size": 48, "num_hidden_layers": 1},
    ],
)
def test_forward_agrees_with_its_slow_definition(
    workshop: Any, runs: Any, backend: str, changes: dict[str, Any]
) -> None:
    """Both backends agree with float64 loops, for grouped heads, biases, tied heads and odd sizes."""
    folder = workshop.config(**changes)
    tensors = {name: array * 0.5 if array.ndim == 2 else array for name, array in workshop.tensors(folder).items()}
    (folder / "model.safetensors").write_bytes(workshop.safetensors(tensors))
    model = load_model(folder, backend=backend)
    expected = SlowLlama(model.config, tensors).logits(PROMPT)
    np.testing.assert_allclose(runs.logits(model, PROMPT), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("dtype", "mantissa_bits"), [("F16", 10), ("BF16", 7)])
def test_half_precision_weights_are_read_exactly(
    workshop: Any, runs: Any, backend: str, dtype: str, mantissa_bits: int
) -> None:
    """Weights that are exact in half precision give the same logits to the bit as in float32."""
    folder = workshop.config()
    tensors = {}
    for name, array in workshop.tensors(folder).items():
        fraction, exponent = np.frexp(array)
        tensors[name] = np.ldexp(np.round(fraction * 2**mantissa_bits), exponent - mantissa_bits)
    half = load_model(workshop.checkpoint(dtype=dtype, tensors=tensors), backend=backend)
    full = load_model(workshop.checkpoint(dtype="F32", tensors=tensors), backend=backend)
    np.testing.assert_array_equal(runs.logits(half, PROMPT), runs.logits(full, PROMPT))


def test_files_written_by_the_library_are_read(workshop: Any, runs: Any) -> None:
    """A checkpoint saved by the safetensors library gives the same logits."""
    from safetensors.numpy import save_file

    folder = workshop.config()
    tensors = {name: array.astype(np.float32) for name, array in workshop.tensors(folder).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "np"})
    expected = load_model(workshop.checkpoint(tensors=tensors))
    np.testing.assert_array_equal(runs.logits(load_model(folder), PROMPT), runs.logits(expected, PROMPT))


def test_logits_of_any_subset_of_tokens(workshop: Any, runs: Any, backend: str) -> None:
    """Any subset of a batch's tokens, also an empty one, gets the same logits as all tokens together."""
    model = load_model(workshop.checkpoint(), backend=backend)
    rows = [runs.Row(PROMPT, 0, [1]), runs.Row(PROMPT[:4], 0, [0])]
    whole = model.forward(runs.make_batch(*rows, all_logits=True), model.new_cache(2))
    for wanted in ([], [0], [2, 9, 10, 13], [13]):
        batch = replace(runs.make_batch(*rows), logits_tokens=np.array(wanted, np.int32))
        found = model.forward(batch, model.new_cache(2))
        assert found.shape == (len(wanted), 19)
        np.testing.assert_allclose(found, whole[wanted], atol=1e-5, rtol=0)


def test_a_copied_block_holds_the_same_tokens(workshop: Any, runs: Any, backend: str) -> None:
    """Sequences that share one block and use a copy of it are computed as if each were alone."""
    model = load_model(workshop.checkpoint(), backend=backend)
    prompt, cache = PROMPT * 2, model.new_cache(4)  # 20 tokens: a full block and a part of another
    model.forward(runs.make_batch(runs.Row(prompt, 0, [3, 0])), cache)
    cache.copy_block(0, 2)
    rows = [runs.Row([4], 20, [3, 0]), runs.Row([8, 1], 20, [3, 2])]
    found = model.forward(runs.make_batch(*rows), cache)
    expected = [runs.logits(model, [*prompt, *row.token_ids])[-1] for row in rows]
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_old_content_of_a_block_is_not_read(workshop: Any, runs: Any, backend: str) -> None:
    """NaN and infinity in unused positions of a block do not affect the logits."""
    model = load_model(workshop.checkpoint(), backend=backend)
    expected = runs.logits(model, PROMPT)[-1]
    for garbage in (np.nan, np.inf, -np.inf):
        cache = model.new_cache(2)
        memory = cache.memory.view(np.float32) if backend == "native" else cache._data
        memory[...] = garbage
        model.forward(runs.make_batch(runs.Row(PROMPT[:4], 0, [1])), cache)
        found = model.forward(runs.make_batch(runs.Row(PROMPT[4:], 4, [1])), cache)
        np.testing.assert_allclose(found[0], expected, atol=1e-5, rtol=0)


def test_the_size_of_a_cache(workshop: Any, runs: Any, backend: str) -> None:
    """A block holds 16 tokens' keys and values in all layers, plus padding, and a cache of 2^20 blocks is usable."""
    model = load_model(workshop.checkpoint(head_dim=16), backend=backend)
    cache = model.new_cache(1 << 20)
    assert cache.num_blocks == 1 << 20
    numbers = 2 * 16 * 2 * 2 * 16  # keys and values, tokens, layers, heads, numbers of a head
    assert 4 * numbers <= cache.block_bytes <= 6 * numbers
    found = model.forward(runs.make_batch(runs.Row(PROMPT, 0, [(1 << 20) - 1])), cache)
    np.testing.assert_allclose(found[0], runs.logits(model, PROMPT)[-1], atol=1e-5, rtol=0)


def test_overflow_gives_non_finite_logits(workshop: Any, runs: Any, backend: str) -> None:
    """Weights that overflow float32 give non-finite logits and no warning."""
    folder = workshop.config()
    factors = {"up_proj": 1e20, "down_proj": 1e30}
    tensors = {name: array * factors.get(name.split(".")[-2], 1.0) for name, array in workshop.tensors(folder).items()}
    model = load_model(workshop.checkpoint(tensors=tensors), backend=backend)
    assert not np.isfinite(runs.logits(model, PROMPT)).any()


def test_digest_follows_weights_and_config(workshop: Any) -> None:
    """The digest is equal for equal files, and changes with one weight or one config value."""
    folder = workshop.config()
    tensors = workshop.tensors(folder)
    first = load_model(workshop.checkpoint(tensors=tensors)).digest
    assert load_model(workshop.checkpoint(tensors=tensors)).digest == first
    assert load_model(workshop.checkpoint(tensors=tensors, rope_theta=9999.0)).digest != first
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 1.001
    assert load_model(workshop.checkpoint(tensors=tensors)).digest != first


@pytest.mark.parametrize("name", ["stories260K", "babyllama-105"])
def test_real_models_give_the_logits_of_transformers(shared: Any, runs: Any, backend: str, name: str) -> None:
    """Logits agree with transformers on float64 weights to 5e-5, and the greedy continuations are equal.

    Goldens: transformers 5.23, torch 2.13, eager attention; see shared/models/README.md.
    """
    model = load_model(shared / "models" / name, backend=backend)
    golden = np.load(shared / "models" / name / "golden.npz")
    for index in range(sum(key.startswith("prompt_") for key in golden)):
        prompt, expected = golden[f"prompt_{index}"].tolist(), golden[f"greedy_{index}"].tolist()
        np.testing.assert_allclose(runs.logits(model, prompt), golden[f"logits_f64_{index}"], atol=TOLERANCE, rtol=0)
        assert runs.greedy(model, prompt, len(expected)) == expected


def test_stories260k_writes_its_published_text(shared: Any, runs: Any) -> None:
    """Greedy decoding from BOS gives, byte for byte, the text published in llama2.c's test_all.py."""
    from decoding.text.detokenizer import Detokenizer
    from decoding.text.tokenizer import Tokenizer

    folder = shared / "models" / "stories260K"
    detokenizer = Detokenizer(Tokenizer.from_folder(folder), [1])
    ids = runs.greedy(load_model(folder), [1], 200)
    text = b"".join(map(detokenizer.append, ids)).decode()
    published = (folder / "PUBLISHED_GREEDY.txt").read_text()
    assert text.startswith(published.rstrip("\n"))
    assert len(published) > 450
