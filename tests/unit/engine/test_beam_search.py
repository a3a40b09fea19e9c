"""Beam search on shared KV cache blocks agrees with the reference in plain Python."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoding import LLM, ParameterError
from decoding.engine.beam_params import BeamSearchParams, beams_of
from decoding.errors import ContextLengthError, LogitsError
from decoding.params import SamplingParams
from decoding.reference.beam_search import beam_search
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits

VOCAB = 40


def make_llm(script=None, **options):
    """Return an LLM around a scripted model that reads its KV cache as a real model does."""
    settings = {name: options.pop(name) for name in ("kv_cache_bytes", "max_batched_tokens") if name in options}
    model = ScriptedModel(script or hashed_logits(seed=2, scale=2.0), VOCAB, eos_token_ids=(7,), **options)
    return LLM.from_parts(model, **settings)


def expected(prompt, params, script=None, ends=(7,)):
    """Return the hypotheses of the reference beam search."""
    script = script or hashed_logits(seed=2, scale=2.0)
    return beam_search(
        lambda token_ids: script(token_ids, VOCAB),
        prompt,
        width=params.beam_width,
        max_tokens=params.max_tokens,
        ends=tuple(dict.fromkeys((*params.stop_token_ids, *(() if params.ignore_eos else ends)))),
        length_penalty=params.length_penalty,
        early_stopping=params.early_stopping,
        num_groups=params.num_beam_groups,
        diversity_penalty=params.diversity_penalty,
    )


@st.composite
def arguments(draw):
    """Draw arguments of a beam search, with or without groups."""
    groups = draw(st.integers(1, 3))
    return BeamSearchParams(
        beam_width=groups * draw(st.integers(1, 3)),
        max_tokens=draw(st.integers(1, 6)),
        length_penalty=draw(st.sampled_from([-1.5, 0.0, 0.5, 1.0, 3.0])),
        early_stopping=draw(st.sampled_from([True, False, "never"])),
        num_beam_groups=groups,
        diversity_penalty=draw(st.sampled_from([0.0, 0.4, 5.0])) if groups > 1 else 0.0,
        stop_token_ids=draw(st.lists(st.integers(0, VOCAB - 1), max_size=3)),
        ignore_eos=draw(st.booleans()),
    )


@given(arguments(), st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=40))
def test_the_definition(params, prompt):
    """Hypotheses and scores equal those of the reference, for all arguments and prompts."""
    choices = make_llm().beam_search(prompt, params).choices
    wanted = expected(prompt, params)[: params.num_returned]
    assert [choice.token_ids for choice in choices] == [one.token_ids for one in wanted]
    assert [choice.beam_score for choice in choices] == pytest.approx([one.score for one in wanted], rel=1e-5)


def test_ties_are_ordered_by_beam_then_token_id():
    """Equally likely tokens are ordered by beam, then by token id."""

    def script(token_ids, vocab_size):
        return hashed_logits()(token_ids, vocab_size) * 0

    params = BeamSearchParams(beam_width=3, max_tokens=2)
    choices = make_llm(script).beam_search([1], params).choices
    assert [choice.token_ids for choice in choices] == [[0, 0], [0, 1], [0, 2]]
    assert [one.token_ids for one in expected([1], params, script)] == [[0, 0], [0, 1], [0, 2]]


def test_blocks_are_shared_and_freed():
    """Beams share the blocks of their common prefix, which is computed once; all blocks are free at the end."""
    llm = make_llm()
    prompt = list(range(40)) * 3
    search = llm.start_beam_search(prompt, BeamSearchParams(beam_width=8, max_tokens=12, ignore_eos=True))
    most = 0
    while not search.is_done:
        search.step()
        most = max(most, search.num_blocks_live)
    assert most <= 7 + 2 * 8
    assert search.num_blocks_live == 0
    assert llm.engine.model.num_tokens <= len(prompt) + 8 * 12


def test_chunks_of_the_prompt():
    """A long prompt is computed in chunks of max_batched_tokens, and the hypotheses are the same."""
    params, prompt = BeamSearchParams(beam_width=3, max_tokens=5), list(range(35))
    llm = make_llm(max_batched_tokens=4)
    assert llm.beam_search(prompt, params).choices == make_llm().beam_search(prompt, params).choices
    assert llm.engine.model.num_forwards >= 9


def test_beams_are_recomputed_beyond_the_rotary_boundary():
    """If long texts have other rotary factors, the beams are recomputed when they outgrow the boundary."""

    def regime(length):
        return int(length > 20)

    def script(token_ids, vocab_size):
        return hashed_logits(seed=2, scale=2.0)(token_ids, vocab_size)

    params, prompt = BeamSearchParams(beam_width=3, max_tokens=8, ignore_eos=True), list(range(16))
    choices = make_llm(script, rope_border=20, rope_regime=regime).beam_search(prompt, params).choices
    wanted = beam_search(
        lambda ids: script([one + VOCAB * regime(len(ids)) for one in ids], VOCAB), prompt, width=3, max_tokens=8
    )
    assert [choice.token_ids for choice in choices] == [one.token_ids for one in wanted]


def test_texts_stop_reasons_and_logprobs():
    """A choice has its text without the end token, its stop reason and log-probabilities that match its score."""
    model = ScriptedModel(hashed_logits(seed=5), 257, eos_token_ids=(256,))
    llm = LLM.from_parts(model, byte_tokenizer(special=["<eos>"]))
    params = BeamSearchParams(beam_width=4, n=3, max_tokens=6, stop_token_ids=range(128), logprobs=2)
    result = llm.beam_search("Hello", params)
    assert len(result.choices) == 3
    for choice in result.choices:
        has_ended = choice.token_ids[-1] < 128 or choice.token_ids[-1] == 256
        assert choice.finish_reason == ("stop" if has_ended else "length")
        assert choice.stop_reason == (choice.token_ids[-1] if has_ended else None)
        assert sum(choice.logprobs.token_logprobs) / len(choice.token_ids) == pytest.approx(choice.beam_score)
        assert all(2 <= len(top) <= 3 for top in choice.logprobs.top_logprobs)
        shown = choice.token_ids[: -1 if has_ended else None]
        assert choice.text == bytes(shown).decode("utf-8", "replace")
    assert result.usage.completion_tokens == sum(len(choice.token_ids) for choice in result.choices)


def test_requests_run_between_the_steps():
    """A completion that runs between two steps of a beam search changes neither result."""
    llm = make_llm()
    params, sampling = BeamSearchParams(beam_width=3, max_tokens=6), SamplingParams(max_tokens=4, seed=1)
    alone, completion = llm.beam_search([1, 2], params), llm.complete([1, 2], sampling)
    search = llm.start_beam_search([1, 2], params)
    while not search.is_done:
        search.step()
        assert llm.complete([1, 2], sampling).choices == completion.choices
    assert search.result(llm.name).choices == alone.choices


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"beam_width": 0}, "beam_width=0: must be an integer from 1 to 256"),
        ({"beam_width": 4, "n": 5}, "n=5: must be at most beam_width=4"),
        ({"num_beam_groups": 3}, "num_beam_groups=3: must divide beam_width=4"),
        ({"diversity_penalty": 0.5}, "diversity_penalty=0.5: must be 0 without groups"),
        ({"early_stopping": "sometimes"}, "early_stopping='sometimes': must be True, False or \"never\""),
        ({"early_stopping": 1}, "early_stopping=1: must be"),
        ({"length_penalty": float("nan"), "max_tokens": 0}, "max_tokens=0: must be"),
    ],
)
def test_wrong_arguments(given, told):
    """A wrong argument raises an error with the argument's name, its value and the rule."""
    with pytest.raises(ParameterError) as caught:
        BeamSearchParams(**given)
    assert told in str(caught.value)


def test_sampling_parameters_of_a_beam_search():
    """Sampling-only parameters are refused; the others are taken over, and best_of or n gives the width."""
    beams = beams_of(SamplingParams(n=2, best_of=5, temperature=0, max_tokens=9, logprobs=1), {"length_penalty": 2})
    assert beams == BeamSearchParams(beam_width=5, n=2, max_tokens=9, logprobs=1, length_penalty=2)
    assert beams_of(SamplingParams(), {"beam_width": 3}).num_returned == 3
    with pytest.raises(ParameterError) as caught:
        beams_of(SamplingParams(top_p=0.5, seed=1, temperature=0.5), {"num_beam_groups": 2})
    names = [problem.parameter for problem in caught.value.problems]
    assert names == ["seed", "top_p", "temperature", "num_beam_groups"]


def test_invalid_searches_are_refused():
    """Too little memory, a too long prompt, two prompts, wrong parameters and non-finite logits are errors."""
    with pytest.raises(ParameterError, match=r"beam_width=64: needs [\d,]+ bytes for keys and values"):
        make_llm(kv_cache_bytes=2**14).beam_search([1], BeamSearchParams(beam_width=64, max_tokens=None))
    with pytest.raises(ContextLengthError):
        make_llm(max_position_embeddings=8).beam_search([1] * 9)
    with pytest.raises(ParameterError, match="must be one prompt"):
        make_llm().beam_search([[1], [2]])
    with pytest.raises(ParameterError, match="must be BeamSearchParams"):
        make_llm().beam_search([1], SamplingParams())
    with pytest.raises(LogitsError):
        make_llm(lambda ids, size: hashed_logits()(ids, size) * float("nan")).beam_search([1])
