"""Tests of BackendModel: another library's sequences behind the engine's blocks."""

import numpy as np
import pytest

from decoding import LLM, SamplingParams
from decoding.backends.model import BackendModel
from decoding.backends.protocol import Chunk
from decoding.backends.slots import Slots
from decoding.errors import EngineError, ParameterError
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits
from decoding.testing.scripted_backend import ScriptedBackend

VOCAB_SIZE = 256
PROMPTS = ["a", "The quick brown fox jumps", "The quick brown fox jumps over", "x" * 70, "The quick", "y" * 16]


def params(**fields):
    return SamplingParams(**{"max_tokens": 24, "temperature": 1.0, "logprobs": 2} | fields)


def many(**fields):
    return [params(seed=index, **fields) for index in range(len(PROMPTS))]


def run(model, **settings):
    llm = LLM.from_parts(model, byte_tokenizer(), **{"max_num_seqs": 8} | settings)
    return [(choice.token_ids, choice.logprobs) for result in complete(llm) for choice in result.choices]


def complete(llm):
    return llm.complete(PROMPTS, many(n=2, best_of=3, echo=True))


@pytest.mark.parametrize("batching", ["exact", "shared"])
@pytest.mark.parametrize("can_truncate", [True, False])
@pytest.mark.parametrize("num_sequences", [1, 3, 32])
def test_results_agree_with_a_native_model(batching, can_truncate, num_sequences):
    """A backend gives the same results as a model of the native interface, with best_of, echo and logprobs."""
    backend = ScriptedBackend(hashed_logits(3), VOCAB_SIZE, num_sequences=num_sequences, can_truncate=can_truncate)
    expected = run(ScriptedModel(hashed_logits(3), VOCAB_SIZE))
    assert run(BackendModel(backend, batching=batching)) == expected


@pytest.mark.parametrize(
    "settings",
    [
        {"max_num_seqs": 1},
        {"max_batched_tokens": 7},
        {"kv_cache_bytes": 16 * 13},
        {"prefix_cache": False},
        {"speculation": "prompt_lookup"},
    ],
    ids=lambda settings: next(iter(settings)),
)
@pytest.mark.parametrize("can_truncate", [True, False])
def test_exact_batching_hides_the_calls(settings, can_truncate):
    """With exact batching, a backend whose numbers depend on its calls gives one result under any schedule."""

    def noisy():
        return BackendModel(ScriptedBackend(hashed_logits(3), VOCAB_SIZE, noisy=True, can_truncate=can_truncate))

    assert run(noisy(), **settings) == run(noisy())


def test_shared_batching_shows_the_calls():
    """With shared batching the same backend depends on the schedule, so the test above can fail."""
    backends = [ScriptedBackend(hashed_logits(3), VOCAB_SIZE, noisy=True) for _ in range(2)]
    first, second = (BackendModel(backend, batching="shared") for backend in backends)
    assert run(first) != run(second, max_num_seqs=1)
    assert backends[0].num_calls < backends[1].num_calls


def test_the_prompt_of_many_candidates_is_computed_once():
    """The prompt is computed once for all candidates, which fork the backend's sequence."""
    backend = ScriptedBackend(hashed_logits(1), VOCAB_SIZE)
    llm = LLM.from_parts(BackendModel(backend, batching="shared"), byte_tokenizer())
    llm.complete("p" * 100, params(n=4, max_tokens=5, seed=1))
    assert backend.num_forks == 3
    assert backend.num_tokens == 100 + 4 * 4


def test_a_cached_prefix_is_not_computed_again():
    """A second prompt with the same prefix computes its new tokens only."""
    backend = ScriptedBackend(hashed_logits(1), VOCAB_SIZE)
    llm = LLM.from_parts(BackendModel(backend), byte_tokenizer())
    llm.complete("q" * 64, params(max_tokens=1, seed=1))
    before = backend.num_tokens
    llm.complete("q" * 64 + "ab", params(max_tokens=1, seed=1))
    assert backend.num_tokens - before == 2


def test_an_error_clears_the_sequences_of_its_step():
    """After a failed call, the same request gives the same result as on a new backend."""
    backend = ScriptedBackend(hashed_logits(2), VOCAB_SIZE)
    model = BackendModel(backend)
    llm = LLM.from_parts(model, byte_tokenizer())
    forward, backend.forward = backend.forward, lambda chunks: forward(chunks)[:0]
    with pytest.raises(EngineError) as caught:
        llm.complete("abc", params(seed=1))
    assert "must be float32 [1, 256]" in str(caught.value.__cause__)
    backend.forward = forward
    fresh = LLM.from_parts(ScriptedModel(hashed_logits(2), VOCAB_SIZE), byte_tokenizer())
    assert llm.complete("abc", params(seed=1)).choices[0].text == fresh.complete("abc", params(seed=1)).choices[0].text


def test_bare_logits_are_the_scripts():
    """LLM.logits returns one row per token, however the tokens are divided into calls."""
    tokens = list(range(37))
    script = hashed_logits(5)
    llm = LLM.from_parts(BackendModel(ScriptedBackend(script, VOCAB_SIZE)), byte_tokenizer())
    expected = [script(tokens[: end + 1], VOCAB_SIZE) for end in range(len(tokens))]
    np.testing.assert_array_equal(llm.logits(tokens), expected)


def test_a_slot_is_reused_up_to_a_piece_boundary():
    """A slot is reused up to its last piece boundary; later tokens are computed again."""
    backend = ScriptedBackend(hashed_logits(5), VOCAB_SIZE, num_sequences=2)
    slots = Slots(backend, 16)
    (slot,) = slots.assign([np.zeros(0, np.int32)])
    backend.forward([Chunk(slot.number, 0, list(range(40)), 0)])
    slot.token_ids = np.arange(40, dtype=np.int32)
    assert len(slots.assign([np.arange(38, dtype=np.int32)])[0].token_ids) == 38
    assert len(slots.assign([np.arange(30, dtype=np.int32)])[0].token_ids) == 16


def test_unknown_batching():
    """An unknown batching raises a ParameterError."""
    with pytest.raises(ParameterError, match="batching='fast': must be 'exact' or 'shared'"):
        BackendModel(ScriptedBackend(hashed_logits(5), VOCAB_SIZE), batching="fast")


def test_batching_needs_another_library():
    """batching="shared" with the native backend raises a ParameterError."""
    with pytest.raises(ParameterError, match="batching='shared': must be 'exact' with the backend 'native'"):
        LLM(batching="shared")
