"""Speculation equals plain decoding with every penalty, bias, mask and processor, for good and bad drafts."""

import pickle

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from decoding.engine.engine import Engine
from decoding.engine.request import make_request
from decoding.engine.settings import EngineSettings
from decoding.errors import LogitsError, ParameterError
from decoding.llm import LLM
from decoding.params import SamplingParams
from decoding.sampling.sampler import Sampler
from decoding.testing import logits_batches, sampling_params, vocab_sizes
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits

TOKENIZER = byte_tokenizer([b"ab", b"ba"], ["<eos>"])
EOS = TOKENIZER.vocab_size - 1
PARAMS = st.builds(
    SamplingParams,
    seed=st.integers(0, 9),
    n=st.integers(1, 3),
    max_tokens=st.integers(0, 40),
    min_tokens=st.just(0),
    temperature=st.sampled_from([0.0, 0.5, 2.0]),
    top_p=st.sampled_from([1.0, 0.9]),
    frequency_penalty=st.sampled_from([0.0, 0.5]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    dry_multiplier=st.sampled_from([0.0, 0.8]),
    no_repeat_ngram_size=st.sampled_from([None, 3]),
    xtc_probability=st.sampled_from([0.0, 0.5]),
    mirostat_tau=st.sampled_from([None, 2.0]),
    logit_bias=st.sampled_from([(), {97: 1.5}]),
    logprobs=st.sampled_from([None, 2]),
    logprobs_mode=st.sampled_from(["raw", "final", ("scaled", "raw")]),
    stop=st.sampled_from([(), ("aba",)]),
    ignore_eos=st.booleans(),
    allowed_token_ids=st.just([97, 98, 99, *range(256, EOS + 1)]),
)


def favour_b(token_ids, logits):
    """Raise the logit of "b" by the number of tokens so far (a logits processor)."""
    logits[98] += 0.1 * len(token_ids)


def short_memory(token_ids, vocab_size):
    """Return logits of the last two tokens alone, so that texts repeat and drafts are often right."""
    return hashed_logits(seed=3)(token_ids[-2:], vocab_size)


def wrong_at_times(token_ids, vocab_size):
    """Return the logits of a draft model, which are those of `short_memory` two times out of three."""
    return short_memory(token_ids, vocab_size) if len(token_ids) % 3 else hashed_logits(9)(token_ids, vocab_size)


def make_llm(script=short_memory, **settings):
    """Return a scripted model with a context of 64 tokens."""
    model = ScriptedModel(script, TOKENIZER.vocab_size, max_position_embeddings=64, eos_token_ids=(EOS,))
    return LLM.from_parts(model, TOKENIZER, **settings)


@pytest.mark.parametrize("drafter", ["prompt_lookup", "model"])
@settings(max_examples=50)
@given(st.lists(st.tuples(st.text("abc", min_size=1, max_size=30), PARAMS), min_size=1, max_size=5), st.data())
def test_speculation_is_plain_decoding(drafter, requests, data):
    """Speculation gives the results of plain decoding, bit for bit, in batches and in a small KV cache."""
    prompts, params = map(list, zip(*requests, strict=True))
    processors = [favour_b] if data.draw(st.booleans()) else []
    plain = make_llm().complete(prompts, params, processors=processors)
    speculating = make_llm(
        speculation=make_llm(wrong_at_times) if drafter == "model" else drafter,
        num_draft_tokens=data.draw(st.integers(1, 6)),
        max_num_seqs=data.draw(st.integers(1, 5)),
        kv_cache_bytes=16 * data.draw(st.integers(4, 16)),
        max_batched_tokens=data.draw(st.integers(1, 60)),
    )
    assert speculating.complete(prompts, params, processors=processors) == plain
    assert speculating.stats.num_blocks_live == 0


@pytest.mark.parametrize("drafter", ["prompt_lookup", "model"])
def test_accepted_drafts_save_steps(drafter):
    """On a repetitive text most draft tokens are accepted, and each saves a step."""
    params = SamplingParams(seed=1, temperature=0.0, max_tokens=60, allowed_token_ids=[97, 98, 99])
    llm = make_llm(speculation=make_llm() if drafter == "model" else drafter)
    result = llm.complete("ab", params)
    metrics = result.metrics
    assert 0.5 < metrics.num_accepted_tokens / metrics.num_draft_tokens <= 1
    assert llm.stats.num_steps == 60 - metrics.num_accepted_tokens
    assert (llm.stats.num_draft_tokens, llm.stats.num_accepted_tokens) == (
        metrics.num_draft_tokens,
        metrics.num_accepted_tokens,
    )
    assert result == make_llm().complete("ab", params)


def test_nan_behind_a_draft_fails_like_plain_decoding():
    """NaN logits fail a request after the same token as in plain decoding; rows after wrong draft tokens do not."""

    def nan_late(token_ids, vocab_size):
        logits = short_memory(token_ids, vocab_size)
        return logits * np.nan if len(token_ids) > 20 else logits

    params = SamplingParams(seed=1, max_tokens=40, allowed_token_ids=[97, 98], logprobs=1)
    plain = make_llm(nan_late).complete("ab", params, on_error="status")
    speculated = make_llm(nan_late, speculation="prompt_lookup").complete("ab", params, on_error="status")
    assert plain.choices[0].finish_reason == speculated.choices[0].finish_reason == "error"
    assert plain.choices[0].token_ids == speculated.choices[0].token_ids
    assert plain.choices[0].logprobs == speculated.choices[0].logprobs


def test_a_drafter_that_raises_is_turned_off():
    """If the draft model raises, speculation is turned off with a warning, and the results stay the same."""

    def broken(token_ids, vocab_size):
        if len(token_ids) == 9:
            raise MemoryError("draft")
        return short_memory(token_ids, vocab_size)

    params = SamplingParams(seed=1, max_tokens=30)
    llm = make_llm(speculation=make_llm(broken))
    with pytest.warns(RuntimeWarning, match="speculation is off from now on: the drafter raised MemoryError: draft"):
        results = llm.complete(["ab", "abc", "b"], params)
    assert results == make_llm().complete(["ab", "abc", "b"], params)
    assert llm.stats.num_draft_tokens > 0
    before = llm.stats.num_draft_tokens
    assert llm.complete("ba", params) == make_llm().complete("ba", params)
    assert (llm.stats.num_draft_tokens, llm.stats.num_blocks_live) == (before, 0)


def test_wrong_drafters():
    """An unknown method and a draft model with another vocabulary raise ParameterError."""
    with pytest.raises(ParameterError, match="speculation='ngram'"):
        make_llm(speculation="ngram")
    other = LLM.from_parts(ScriptedModel(hashed_logits(), 7))
    with pytest.raises(ParameterError, match="same vocabulary"):
        make_llm(speculation=other)


class Dictated:
    """A drafter that proposes given tokens, once."""

    def __init__(self, draft):
        self.draft = draft

    def propose(self, sequences):
        """Propose the draft, cut to the room of the sequence."""
        for sequence, room in sequences:
            sequence.draft, self.draft = self.draft[:room], []


@given(st.data())
def test_the_engine_checks_drafts_as_verify_does(data):
    """The engine accepts and corrects a draft exactly as Sampler.verify does, for random rows and parameters.

    The draft is the result of plain decoding with up to two changed tokens.
    """
    vocab_size = data.draw(vocab_sizes())
    logits = data.draw(
        logits_batches(vocab_size, data.draw(st.integers(2, 6)))
    )  # the first row is the row of the prompt
    model = ScriptedModel(lambda token_ids, _: logits[len(token_ids) - 3], vocab_size)
    prompt = data.draw(st.lists(st.integers(0, vocab_size - 1), min_size=3, max_size=3))
    request = make_request(prompt, data.draw(sampling_params(vocab_size)), model.config, None)
    sampler, state = Sampler(vocab_size), request.new_state(0)
    try:
        sampler.sample(logits[0], [state])
        plain = pickle.loads(pickle.dumps(state))
        draft = [int(sampler.sample(row, [plain]).token_ids[0]) for row in logits[1:]][:-1]
    except LogitsError:
        assume(False)
    for place in data.draw(st.lists(st.integers(0, len(draft) - 1), max_size=2)) if draft else ():
        draft[place] = data.draw(st.integers(0, vocab_size - 1))
    verified = sampler.verify(logits[1 : len(draft) + 2], state, draft)

    engine = Engine(model, None, EngineSettings(num_draft_tokens=8), Dictated(draft))
    states = []
    task = engine.add_request(request, lambda task, candidate: states.append(candidate.state))
    engine.step()
    engine.step() if not task.is_done else None
    tokens = states[-1].output_token_ids
    if task.is_done:  # a stop token, which finishes the request in the engine but not in `verify`
        assert tokens == state.output_token_ids[: len(tokens)]
        assert tokens[-1] in request.params.stop_token_ids
    else:
        assert tokens == state.output_token_ids
        assert pickle.dumps(states[-1]) == pickle.dumps(state)
        assert engine.stats.num_accepted_tokens == verified.num_accepted
