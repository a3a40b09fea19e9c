"""With a small KV cache and other requests, a request gives what it gives alone and frees all memory."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding.errors import ContextLengthError, EngineError, ParameterError
from decoding.llm import LLM
from decoding.models.batch import BLOCK_SIZE
from decoding.params import SamplingParams
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits

TOKENIZER = byte_tokenizer([b"ab", b"\xe2\x80"], ["<eos>"])
EOS = TOKENIZER.vocab_size - 1
PARAMS = st.builds(
    SamplingParams,
    seed=st.integers(0, 5),
    n=st.integers(1, 4),
    max_tokens=st.integers(0, 40),
    temperature=st.sampled_from([0.0, 1.0, 2.0]),
    frequency_penalty=st.sampled_from([0.0, 0.5]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    dry_multiplier=st.sampled_from([0.0, 0.8]),
    mirostat_tau=st.sampled_from([None, 3.0]),
    logprobs=st.sampled_from([None, 1]),
    logprobs_mode=st.sampled_from(["raw", ("final", "raw")]),
    echo=st.booleans(),
    stop=st.sampled_from([(), ("ab",)]),
    ignore_eos=st.booleans(),
    allowed_token_ids=st.just([97, 98, 0xE2, *range(256, EOS + 1)]),
)
# Prompts with common prefixes of whole blocks, which the prefix cache can reuse.
PROMPTS = st.builds(
    lambda blocks, rest: [token for block in blocks for token in [block] * BLOCK_SIZE] + rest,
    st.lists(st.sampled_from([97, 98]), max_size=3),
    st.lists(st.sampled_from([97, 98]), min_size=1, max_size=4),
)
REQUESTS = st.lists(st.tuples(PROMPTS, PARAMS), min_size=1, max_size=6)
SETTINGS = st.fixed_dictionaries(
    {
        "max_num_seqs": st.integers(1, 6),
        "max_batched_tokens": st.integers(1, 40),
        "kv_cache_bytes": st.integers(6, 20).map(lambda blocks: blocks * BLOCK_SIZE),
        "prefix_cache": st.booleans(),
    }
)


def make_llm(**settings):
    """Return a scripted model with a context of 96 tokens; logits depend only on the sequence's own tokens."""
    model = ScriptedModel(
        hashed_logits(), TOKENIZER.vocab_size, max_position_embeddings=96, eos_token_ids=(EOS,), most_steps=3
    )
    return LLM.from_parts(model, TOKENIZER, **settings)


def is_free(llm):
    """Return True if no sequence runs, waits or holds memory."""
    stats = llm.stats
    return (stats.num_running, stats.num_waiting, stats.num_blocks_live) == (0, 0, 0)


@settings(max_examples=60)
@given(REQUESTS, SETTINGS)
def test_short_memory_changes_nothing(requests, given_settings):
    """With a KV cache that is too small, each request gives bit for bit what it gives alone."""
    prompts, params = map(list, zip(*requests, strict=True))
    alone = [make_llm(prefix_cache=False).complete(prompt, one) for prompt, one in requests]
    llm = make_llm(**given_settings)
    assert llm.complete(prompts, params) == alone
    assert llm.complete(prompts, params) == alone
    assert is_free(llm)


class Breaking(ScriptedModel):
    """A scripted model that raises in the forward passes `breaks`, after writing to the cache."""

    breaks = frozenset()

    def forward(self, batch, cache):
        """Compute the logits, and raise if this forward pass is in `breaks`."""
        logits = super().forward(batch, cache)
        if self.num_forwards in self.breaks:
            raise OSError("the disk is gone")
        return logits


@settings(max_examples=60)
@given(REQUESTS, SETTINGS, st.frozensets(st.integers(1, 60), max_size=6))
def test_a_step_that_raises_leaves_a_sound_cache(requests, given_settings, breaks):
    """Requests of a step that raises get an EngineError; later requests get what they get alone."""
    model = Breaking(hashed_logits(), TOKENIZER.vocab_size, max_position_embeddings=96, eos_token_ids=(EOS,))
    model.breaks = breaks
    llm = LLM.from_parts(model, TOKENIZER, **given_settings)
    prompts, params = map(list, zip(*requests, strict=True))
    for _ in range(2):
        results = llm.complete(prompts, params, on_error="status")
        assert is_free(llm)
        for request, result in zip(requests, results, strict=True):
            errors = [choice.error for choice in result.choices if choice.error is not None]
            assert all(isinstance(error, EngineError) for error in errors)
            if not errors and not request[1].ranks_candidates:
                assert result == make_llm().complete(*request)


def test_prompts_that_can_never_fit_are_refused():
    """A prompt that is longer than the KV cache is refused; so are settings that fit no sequence."""
    llm = make_llm(kv_cache_bytes=3 * BLOCK_SIZE)
    assert (
        llm.complete([97] * 48, SamplingParams(seed=1, max_tokens=None, ignore_eos=True)).usage.completion_tokens == 1
    )
    with pytest.raises(ContextLengthError, match=r"49 tokens: must fit the KV cache \(kv_cache_bytes=48\) of 48"):
        llm.complete([97] * 49)
    with pytest.raises(ContextLengthError, match="of 96 tokens"):
        make_llm().complete([97] * 97)
    with pytest.raises(ParameterError, match="kv_cache_bytes=15: must be at least 16"):
        make_llm(kv_cache_bytes=15).complete([97])
    for name in ("max_num_seqs", "max_batched_tokens", "kv_cache_bytes", "num_draft_tokens"):
        for value in (0, -1, True, 1.5, "2"):
            with pytest.raises(ParameterError, match=f"{name}="):
                make_llm(**{name: value})
    with pytest.raises(ParameterError, match="prefix_cache=1"):
        make_llm(prefix_cache=1)


def test_preemption_happens_and_is_counted():
    """With a small KV cache sequences are preempted, and the metrics count it."""
    llm = make_llm(max_num_seqs=4, kv_cache_bytes=10 * BLOCK_SIZE)
    params = SamplingParams(seed=1, max_tokens=60, ignore_eos=True, frequency_penalty=0.3)
    results = llm.complete([[97], [98], [99], [100]], params)
    assert llm.stats.num_preemptions > 0
    assert sum(result.metrics.num_preemptions for result in results) == llm.stats.num_preemptions
    assert results == [make_llm().complete([prompt], params) for prompt in (97, 98, 99, 100)]


@settings(max_examples=60)
@given(REQUESTS, SETTINGS, st.data())
def test_streams_closed_at_any_step_free_their_memory(requests, given_settings, data):
    """Streams may be closed at any piece: the others give what they give alone, and all memory is freed."""
    llm = make_llm(**given_settings)
    requests = [(prompt, replace(params, n=min(params.n, 2))) for prompt, params in requests]
    streams = {index: llm.stream(*request) for index, request in enumerate(requests)}
    pieces = {index: [] for index in streams}
    while streams:
        index = data.draw(st.sampled_from(sorted(streams)))
        if data.draw(st.integers(0, 9)) == 0:
            streams.pop(index).close()
            pieces.pop(index)
            continue
        piece = next(streams[index], None)
        if piece is None:
            del streams[index]
        else:
            pieces[index].append(piece)
    assert is_free(llm)
    for index, deltas in pieces.items():
        choices = make_llm().complete(*requests[index]).choices
        texts = ["".join(delta.text for delta in deltas if delta.index == choice.index) for choice in choices]
        assert texts == [choice.text for choice in choices]


def test_a_cached_prefix_is_not_computed_again():
    """A cached prefix is not computed again, except for a prompt that is scored."""
    llm = make_llm()
    prompt = [97] * 40
    params = SamplingParams(seed=1, max_tokens=5, ignore_eos=True)  # generated tokens are not counted as prompt tokens
    assert llm.complete(prompt, params).metrics.cached_tokens == 0
    assert llm.complete([*prompt, 98], params).metrics.cached_tokens == 2 * BLOCK_SIZE
    assert llm.complete([97] * 32, params).metrics.cached_tokens == BLOCK_SIZE  # the last token must be computed
    assert llm.stats.num_prompt_tokens == 40 + 9 + 16
    assert llm.stats.num_cached_tokens == 3 * BLOCK_SIZE
    scored = llm.complete(prompt, SamplingParams(seed=1, max_tokens=1, echo=True, logprobs=0))
    assert scored.metrics.cached_tokens == 0
    assert None not in scored.choices[0].logprobs.token_logprobs[1:]
    assert make_llm(prefix_cache=False).complete([prompt, prompt], params)[1].metrics.cached_tokens == 0


def test_candidates_share_the_blocks_of_their_prompt():
    """Sixteen candidates of a prompt of five blocks share these and hold one block each of their own."""
    model = ScriptedModel(hashed_logits(), 257, max_position_embeddings=200)
    llm = LLM.from_parts(model, max_num_seqs=16)
    stream = llm.stream([1] * (5 * BLOCK_SIZE), SamplingParams(n=16, seed=1, max_tokens=10))
    for _ in range(20):
        next(stream)
    assert llm.stats.num_running == 16
    assert llm.stats.num_blocks_live == 5 + 16
    assert model.num_tokens < 5 * BLOCK_SIZE + 2 * 16


def test_a_prefix_is_computed_once():
    """Concurrent prompts with a common prefix compute it once; without a prefix cache each computes it."""
    prompt, params = [97] * 40, SamplingParams(max_tokens=2, seed=1)
    others = [[98, 99], [*prompt, 98], [97] * 20]
    alone = [make_llm(prefix_cache=False).complete(one, params) for one in (prompt, prompt, *others)]
    llm = make_llm(max_num_seqs=8, max_batched_tokens=500, kv_cache_bytes=None)
    together = llm.complete([prompt, prompt, *others], params)
    assert together == alone
    assert [result.metrics.cached_tokens for result in together] == [0, 32, 0, 32, 16]
    assert llm.stats.num_cached_tokens == 80
    apart = make_llm(max_num_seqs=8, max_batched_tokens=500, kv_cache_bytes=None, prefix_cache=False)
    assert apart.complete([prompt, prompt, *others], params) == alone
    assert (apart.stats.num_prompt_tokens, llm.stats.num_prompt_tokens) == (143, 143 - 80)


def test_the_budget_of_a_step():
    """No step computes more than max_batched_tokens, even if more sequences could run."""
    sizes = []

    class Counting(ScriptedModel):
        def forward(self, batch, cache):
            sizes.append(len(batch.token_ids))
            return super().forward(batch, cache)

    model = Counting(hashed_logits(), 257)
    llm = LLM.from_parts(model, max_num_seqs=32, max_batched_tokens=3, speculation="prompt_lookup")
    params = SamplingParams(max_tokens=6, seed=1, allowed_token_ids=[1, 2])
    llm.complete([[token_id] * 5 for token_id in range(1, 9)], params)
    assert max(sizes) == 3


def test_scored_prompts_are_not_waited_for():
    """A prompt does not wait for an equal prompt that is scored, which is computed in small chunks."""
    prompt = [97] * 40
    llm = make_llm(max_num_seqs=8, max_batched_tokens=500, kv_cache_bytes=None)
    scored, plain = llm.complete(
        [prompt, prompt],
        [SamplingParams(max_tokens=2, echo=True, logprobs=0, seed=1), SamplingParams(max_tokens=2, seed=1)],
    )
    assert scored.metrics.cached_tokens == plain.metrics.cached_tokens == 0
    assert llm.stats.num_steps == 2
