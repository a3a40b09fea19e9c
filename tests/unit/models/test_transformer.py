"""The forward pass: against a slow float64 definition, against transformers' goldens, and in every batch shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from decoding.errors import ContextLengthError, ParameterError
from decoding.models import ForwardBatch, Transformer, crew, load_model, products, transformer

PROMPT = [1, 7, 3, 18, 0, 5, 5, 11, 2, 9]


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
    """Llama by definition; `tensors` as in the checkpoint, `config` a model's."""

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
        """Logits of every token, [tokens, vocab]."""
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


def _batch(*rows: tuple[int, list[int], int], all_logits: bool = False) -> ForwardBatch:
    """Rows of (slot, new token ids, start)."""
    slots, tokens, starts = zip(*rows, strict=True)
    return ForwardBatch(
        token_ids=np.concatenate([np.array(ids, np.int32) for ids in tokens]),
        slots=np.array(slots),
        num_new=np.array([len(ids) for ids in tokens]),
        start=np.array(starts),
        all_logits=all_logits,
    )


def _all_logits(model: Transformer, token_ids: list[int]) -> NDArray[np.float32]:
    return model.forward(_batch((0, token_ids, 0), all_logits=True), model.new_cache(1))


def _greedy(model: Transformer, token_ids: list[int], num_tokens: int) -> list[int]:
    cache, output = model.new_cache(1), list[int]()
    new, start = token_ids, 0
    while len(output) < num_tokens:
        logits = model.forward(_batch((0, new, start)), cache)
        start += len(new)
        new = [int(logits[0].argmax())]
        output += new
    return output


@pytest.fixture
def model(workshop: Any) -> Transformer:
    """A tiny random model with grouped heads and an untied head."""
    return load_model(workshop.checkpoint())


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
    ],
)
def test_forward_equals_its_slow_definition(workshop: Any, changes: dict[str, Any]) -> None:
    """Grouped heads, biases, tied and untied heads: logits equal those of the float64 per-token loops."""
    folder = workshop.config(**changes)
    tensors = workshop.tensors(folder)
    (folder / "model.safetensors").write_bytes(workshop.safetensors(tensors))
    model = load_model(folder)
    expected = SlowLlama(model.config, tensors).logits(PROMPT)
    np.testing.assert_allclose(_all_logits(model, PROMPT), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("in_place", [False, True])
def test_weights_in_blocks_and_as_whole_matrices(
    workshop: Any, monkeypatch: pytest.MonkeyPatch, in_place: bool
) -> None:
    """Sizes of which blocks can be made, a vocabulary that fills none, one token or ten: the same logits."""
    monkeypatch.setattr(products, "multiplies_in_place", lambda: in_place)
    monkeypatch.setattr(transformer, "multiplies_in_place", lambda: in_place)
    monkeypatch.setattr(products, "_LEAST_SIZE", 0)
    monkeypatch.setattr(crew, "WORTHWHILE", 1)
    monkeypatch.setattr(crew, "WORTH_WAKING", 1)
    folder = workshop.config(hidden_size=64, intermediate_size=96, vocab_size=71)
    tensors = workshop.tensors(folder)
    (folder / "model.safetensors").write_bytes(workshop.safetensors(tensors))
    model = load_model(folder)
    expected = SlowLlama(model.config, tensors).logits(PROMPT)
    found = _all_logits(model, PROMPT)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=2e-4)
    cache = model.new_cache(1)
    for position, token_id in enumerate(PROMPT):
        row = model.forward(_batch((0, [token_id], position)), cache)
        np.testing.assert_allclose(row[0], expected[position], atol=2e-4)


@pytest.mark.parametrize(("dtype", "mantissa_bits"), [("F16", 10), ("BF16", 7)])
def test_half_precision_weights_are_read_exactly(workshop: Any, dtype: str, mantissa_bits: int) -> None:
    """Weights that float16 or bfloat16 hold exactly give the very logits of the same weights in float32."""
    folder = workshop.config()
    tensors = {}
    for name, array in workshop.tensors(folder).items():
        fraction, exponent = np.frexp(array)
        tensors[name] = np.ldexp(np.round(fraction * 2**mantissa_bits), exponent - mantissa_bits)
    half = load_model(workshop.checkpoint(dtype=dtype, tensors=tensors))
    full = load_model(workshop.checkpoint(dtype="F32", tensors=tensors))
    np.testing.assert_array_equal(_all_logits(half, PROMPT), _all_logits(full, PROMPT))


def test_files_written_by_the_library_are_read(workshop: Any) -> None:
    """A checkpoint saved by safetensors itself (its order, its padding) gives the same logits."""
    from safetensors.numpy import save_file

    folder = workshop.config()
    tensors = {name: array.astype(np.float32) for name, array in workshop.tensors(folder).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "np"})
    expected = load_model(workshop.checkpoint(tensors=tensors))
    np.testing.assert_array_equal(_all_logits(load_model(folder), PROMPT), _all_logits(expected, PROMPT))


@pytest.mark.parametrize("chunks", [[10], [1] * 10, [3, 7], [4, 1, 5], [9, 1]])
def test_a_prompt_may_come_in_chunks(model: Transformer, chunks: list[int]) -> None:
    """Prefill in chunks, down to token by token, gives the logits of the whole prompt at once."""
    cache, start, rows = model.new_cache(1), 0, []
    for size in chunks:
        rows.append(model.forward(_batch((0, PROMPT[start : start + size], start), all_logits=True), cache))
        start += size
    np.testing.assert_allclose(np.concatenate(rows), _all_logits(model, PROMPT), atol=1e-5, rtol=0)


def test_a_row_is_the_same_alone_and_in_a_batch(model: Transformer) -> None:
    """Prompts, chunks and single tokens in one batch, slots out of order: each row as when it runs alone."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 19, size).tolist() for size in (1, 12, 30, 2, 7, 90)]
    slots = [4, 0, 7, 2, 5, 3]
    cache = model.new_cache(8)
    started = model.forward(
        _batch(*((slot, ids[:-1], 0) for slot, ids in zip(slots, prompts, strict=True) if len(ids) > 1)), cache
    )
    assert started.shape == (5, 19)
    rows = [(slot, ids[-1:], len(ids) - 1) for slot, ids in zip(slots, prompts, strict=True)]
    mixed = model.forward(_batch(*rows[:3], (6, PROMPT, 0), *rows[3:]), cache)
    alone = [_all_logits(model, ids)[-1] for ids in [*prompts[:3], PROMPT, *prompts[3:]]]
    np.testing.assert_allclose(mixed, alone, atol=1e-4, rtol=0)


def test_all_logits_keeps_the_order_of_the_tokens(model: Transformer) -> None:
    """With all_logits the rows follow one another, each token's logits in its place."""
    logits = model.forward(_batch((1, PROMPT, 0), (0, PROMPT[:4], 0), all_logits=True), model.new_cache(2))
    whole = _all_logits(model, PROMPT)
    np.testing.assert_allclose(logits, np.concatenate([whole, whole[:4]]), atol=1e-5, rtol=0)


def test_a_fork_shares_the_prefix_and_nothing_else(model: Transformer) -> None:
    """KVCache.share makes a second sequence with the same past; the two then go their own ways."""
    cache = model.new_cache(3)
    model.forward(_batch((2, PROMPT, 0)), cache)
    cache.share(2, 0, 6)
    forked = model.forward(_batch((2, [4], 10), (0, [8], 6)), cache)
    expected = [_all_logits(model, [*PROMPT, 4])[-1], _all_logits(model, [*PROMPT[:6], 8])[-1]]
    np.testing.assert_allclose(forked, expected, atol=1e-5, rtol=0)


def test_sequences_spread_over_several_slots(model: Transformer) -> None:
    """A beginning of a beginning, in chunks and single tokens, beside others: each row as when it runs alone."""
    rng = np.random.default_rng(2)
    ids = rng.integers(0, 19, 90).tolist()
    ends = [rng.integers(0, 19, size).tolist() for size in (9, 1, 30, 2)]
    cache = model.new_cache(8)
    model.forward(_batch((5, ids[:40], 0)), cache)
    cache.share(5, 1, 33)
    model.forward(_batch((1, ids[33:70], 33), (5, ids[40:50], 40)), cache)
    for slot, (source, num_tokens) in zip((2, 3, 6, 7), ((1, 60), (1, 60), (5, 20), (1, 20)), strict=True):
        cache.share(source, slot, num_tokens)
    starts = [60, 60, 20, 20]
    rows = [(slot, end, start) for slot, end, start in zip((2, 3, 6, 7), ends, starts, strict=True)]
    mixed = model.forward(_batch(rows[0], (0, PROMPT, 0), *rows[1:]), cache)
    sequences = [[*ids[:start], *end] for start, end in zip(starts, ends, strict=True)]
    alone = [_all_logits(model, one)[-1] for one in (sequences[0], PROMPT, *sequences[1:])]
    np.testing.assert_allclose(mixed, alone, atol=1e-4, rtol=0)
    decoded = model.forward(
        _batch(*((slot, [4], len(one)) for slot, one in zip((2, 3, 6, 7), sequences, strict=True))), cache
    )
    np.testing.assert_allclose(decoded, [_all_logits(model, [*one, 4])[-1] for one in sequences], atol=1e-4, rtol=0)


def test_what_is_forgotten_is_given_back(model: Transformer) -> None:
    """`truncate` zeroes tokens, keeps those before them, and gives whole pages back to the system."""
    cache = model.new_cache(2)
    model.forward(_batch((0, [3] * 150, 0), (1, PROMPT, 0)), cache)
    kept = cache._data[0, :, :, :, :40].copy()
    cache.truncate(0, 40)
    assert not cache._data[0, :, :, :, 40:].any()
    np.testing.assert_array_equal(cache._data[0, :, :, :, :40], kept)
    cache.truncate(0, 0)
    assert not cache._data[0].any()
    assert cache._data[1].any()


def test_a_slot_starts_clean(model: Transformer) -> None:
    """NaN that an earlier sequence left in a slot reaches neither its next sequence nor a fork into it."""
    cache = model.new_cache(2)
    model.forward(_batch((1, PROMPT * 2, 0), (0, PROMPT * 3, 0)), cache)
    cache._data[..., :20, :] = np.nan
    longer = model.forward(_batch((1, PROMPT, 0), (0, PROMPT[:2], 0)), cache)
    assert np.isfinite(longer).all()
    cache._data[0, :, :, :, :2] = np.nan
    cache.share(1, 0, 4)
    padded = model.forward(_batch((0, [3], 4), (1, [3], 10)), cache)
    assert np.isfinite(padded).all()


def test_the_cache_grows_with_its_sequences(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Capacity doubles by need, stops at the first whole page after the model's context; growing loses nothing."""
    monkeypatch.setattr("decoding.models.pages._PER_PAGE", 4)  # pages of this kind end everywhere
    monkeypatch.setattr("decoding.models.cache._FIRST_CAPACITY", 64)
    cache = model.new_cache(1)
    assert cache.capacity == 0
    ids = np.random.default_rng(1).integers(0, 19, 160).tolist()
    capacities = set()
    for start in range(0, 160, 10):
        last = model.forward(_batch((0, ids[start : start + 10], start)), cache)
        capacities.add(cache.capacity)
    assert capacities == {64, 128, 160}
    np.testing.assert_allclose(last[0], _all_logits(model, ids)[-1], atol=1e-5, rtol=0)


def test_the_first_capacity_is_bounded_in_bytes(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for many tokens where that is little address space, for few where it is much."""
    monkeypatch.setattr("decoding.models.pages._PER_PAGE", 4)
    for first_bytes, capacity in ((1 << 32, 160), (100 * 3 * model.new_cache(3).token_bytes, 100), (1, 64)):
        monkeypatch.setattr("decoding.models.cache._FIRST_BYTES", first_bytes)
        cache = model.new_cache(3)
        cache.reserve(1)
        assert cache.capacity == capacity


def test_a_long_prefill_is_cut_into_blocks(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention computed in blocks of queries equals attention computed at once."""
    whole = _all_logits(model, PROMPT)
    monkeypatch.setattr("decoding.models.batch._MAX_SCORES", 4 * 10 * 3)
    assert len(list(_batch((0, PROMPT, 0)).spans(4))) == 4
    np.testing.assert_allclose(_all_logits(model, PROMPT), whole, atol=1e-5, rtol=0)


def test_overflow_shows_in_the_logits_and_nowhere_else(workshop: Any) -> None:
    """Weights that overflow float32 on the way give non-finite logits, no warning (which would fail this test)."""
    folder = workshop.config()
    tensors = {name: array * (1e38 if "down" in name else 1.0) for name, array in workshop.tensors(folder).items()}
    model = load_model(workshop.checkpoint(tensors=tensors))
    assert not np.isfinite(_all_logits(model, PROMPT)).any()


@pytest.mark.parametrize(
    ("batch", "parameter"),
    [
        (_batch((0, [19], 0)), "token_ids"),
        (_batch((0, [3, -1], 0)), "token_ids"),
        (_batch((1, [3], 0)), "slots"),
        (_batch((-1, [3], 0)), "slots"),
        (_batch((0, [3], -1)), "start"),
        (ForwardBatch(np.array([1, 2]), np.array([0]), np.array([1]), np.array([0])), "num_new"),
        (ForwardBatch(np.array([1]), np.array([0, 1]), np.array([1]), np.array([0])), "slots"),
        (ForwardBatch(np.array([1]), np.array([0, 1]), np.array([1, 0]), np.array([0, 0])), "num_new"),
        (ForwardBatch(*(np.array([], int) for _ in range(4))), "slots"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(model: Transformer, batch: ForwardBatch, parameter: str) -> None:
    """Ids, slots and lengths out of range are a ParameterError that names the array."""
    with pytest.raises(ParameterError) as caught:
        model.forward(batch, model.new_cache(1))
    assert caught.value.problems[0].parameter == parameter


def test_the_context_is_a_hard_limit(model: Transformer) -> None:
    """A sequence may fill the context to its last position, and not one token more."""
    cache = model.new_cache(1)
    assert model.forward(_batch((0, [3] * 160, 0)), cache).shape == (1, 19)
    with pytest.raises(ContextLengthError, match="161 tokens"):
        model.forward(_batch((0, [3], 160)), cache)


@pytest.mark.parametrize("num_slots", [0, -1, 1.0, True, None])
def test_a_cache_has_at_least_one_slot(model: Transformer, num_slots: Any) -> None:
    """num_slots must be a positive integer."""
    with pytest.raises(ParameterError, match="num_slots"):
        model.new_cache(num_slots)


def test_digest_follows_weights_and_config(workshop: Any) -> None:
    """The digest is the same for equal files, another for one changed weight or config value."""
    folder = workshop.config()
    tensors = workshop.tensors(folder)
    first = load_model(workshop.checkpoint(tensors=tensors)).digest
    assert load_model(workshop.checkpoint(tensors=tensors)).digest == first
    assert load_model(workshop.checkpoint(tensors=tensors, rope_theta=9999.0)).digest != first
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 1.001
    assert load_model(workshop.checkpoint(tensors=tensors)).digest != first


@pytest.mark.parametrize("name", ["stories260K", "babyllama-105"])
def test_real_models_give_the_logits_of_transformers(shared: Any, name: str) -> None:
    """Logits within 5e-5 of transformers with float64 weights, and its greedy continuation, id by id.

    Goldens: transformers 5.23, torch 2.13, eager attention; shared/models/README.md says how.
    """
    model = load_model(shared / "models" / name)
    golden = np.load(shared / "models" / name / "golden.npz")
    for index in range(sum(key.startswith("prompt_") for key in golden)):
        prompt, expected = golden[f"prompt_{index}"].tolist(), golden[f"greedy_{index}"].tolist()
        np.testing.assert_allclose(_all_logits(model, prompt), golden[f"logits_f64_{index}"], atol=5e-5, rtol=0)
        assert _greedy(model, prompt, len(expected)) == expected


def test_stories260k_writes_its_published_text(shared: Any) -> None:
    """Greedy decoding from BOS gives, byte for byte, the text published in llama2.c's test_all.py."""
    from decoding.text.detokenizer import Detokenizer
    from decoding.text.tokenizer import Tokenizer

    folder = shared / "models" / "stories260K"
    detokenizer = Detokenizer(Tokenizer.from_folder(folder), [1])
    ids = _greedy(load_model(folder), [1], 200)
    text = b"".join(map(detokenizer.append, ids)).decode()
    published = (folder / "PUBLISHED_GREEDY.txt").read_text()
    assert text.startswith(published.rstrip("\n"))
    assert len(published) > 450
