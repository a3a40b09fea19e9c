"""Custom logits processors: their position in the pipeline, valid return values, and errors per request."""

import numpy as np
import pytest

from decoding.errors import EmptySupportError, ParameterError, ProcessorError
from decoding.llm import LLM
from decoding.params import SamplingParams
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits


def make_llm(script=None):
    """Return an LLM around a scripted model over all bytes and an EOS."""
    model = ScriptedModel(script or hashed_logits(), 257, eos_token_ids=(256,))
    return LLM.from_parts(model, byte_tokenizer(special=["<eos>"]))


def keep(token_ids, logits):
    """Change nothing."""


EVERYTHING = {
    "seed": 3,
    "max_tokens": 12,
    "temperature": 0.9,
    "repetition_penalty": 1.3,
    "frequency_penalty": 0.4,
    "presence_penalty": 0.2,
    "context_frequency_penalty": 0.1,
    "dry_multiplier": 0.8,
    "dry_sequence_breakers": ["\n"],
    "bad_words": ["zz"],
    "logit_bias": {97: 2.0, 98: 1.5},
    "allowed_token_ids": list(range(90, 110)),
    "min_tokens": 3,
}


@pytest.mark.parametrize("mode", ["raw", "penalized", "scaled", "final", ("final", "raw"), ("raw", "scaled", "final")])
@pytest.mark.parametrize("more", [{}, {"mirostat_tau": 3.0}, {"n": 2, "best_of": 4}, {"temperature": 0.0}])
def test_a_processor_that_changes_nothing_changes_nothing(mode, more):
    """A processor that changes nothing changes no bit of the result, with every stage before and after it active."""
    params = SamplingParams(**{**EVERYTHING, "logprobs": 2, "logprobs_mode": mode, **more})
    assert make_llm().complete("ababab", params, processors=[keep]) == make_llm().complete("ababab", params)


def test_processors_run_in_order_between_biases_and_masks():
    """Processors run in order, after logit_bias and before the masks; a banned token stays banned."""
    seen = []

    def first(token_ids, logits):
        seen.append((list(token_ids), float(logits[97])))
        logits[98] = 1e30
        return logits

    def second(token_ids, logits):
        seen.append(float(logits[98]))
        return np.where(np.arange(257) == 99, np.float64(1e20), logits)

    params = SamplingParams(seed=1, max_tokens=2, logit_bias={97: 5.0}, banned_token_ids=[98])
    choice = make_llm().complete("ab", params, processors=[first, second]).choices[0]
    assert choice.text == "cc"
    bare = hashed_logits()([97, 98], 257)[97]
    assert seen[0] == ([97, 98], float(np.float32(bare) + np.float32(5.0)))
    assert seen[1] == pytest.approx(1e30)
    assert seen[2][0] == [97, 98, 99]


def test_bans_by_minus_infinity():
    """A processor bans tokens by -inf; banning all of them raises an EmptySupportError."""

    def only_x(token_ids, logits):
        logits[:] = -np.inf
        logits[120] = 0.0

    assert make_llm().complete("ab", SamplingParams(max_tokens=3), processors=[only_x]).choices[0].text == "xxx"
    with pytest.raises(EmptySupportError):
        make_llm().complete("ab", processors=[lambda token_ids, logits: logits - np.inf])


def raises(token_ids, logits):
    """Raise an IndexError at the third drawn token."""
    return logits if len(token_ids) < 4 else [][0]


@pytest.mark.parametrize(
    ("processor", "match"),
    [
        (raises, "raises: raised IndexError"),
        (lambda token_ids, logits: logits[:-1], r"floats of shape \(257,\)"),
        (lambda token_ids, logits: logits.astype(int), "must return floats"),
        (lambda token_ids, logits: logits * np.nan, "gave nan at 0"),
        (lambda token_ids, logits: np.where(np.arange(257) == 7, np.inf, logits), "gave inf at 7"),
        (lambda token_ids, logits: "abc", "must return floats"),
    ],
)
def test_a_processor_that_fails_fails_its_own_request(processor, match):
    """A failing processor is named in the error; another request of the batch gets its usual text."""
    llm, params = make_llm(), SamplingParams(seed=1, max_tokens=10, ignore_eos=True)
    good = llm.stream("good", params)
    texts = [next(good).text]
    with pytest.raises(ProcessorError, match=match):
        llm.complete("ab", params, processors=[processor])
    texts += [delta.text for delta in good]
    assert "".join(texts) == make_llm().complete("good", params).choices[0].text
    failed = llm.complete("ab", params, on_error="status", processors=[processor]).choices[0]
    assert failed.finish_reason == "error"
    assert isinstance(failed.error, ProcessorError)


@pytest.mark.parametrize("value", [keep, "abc", [1], {keep}])
def test_an_invalid_list_of_processors_is_refused(value):
    """An argument that is no list of callables raises a ParameterError."""
    with pytest.raises(ParameterError, match="processors="):
        make_llm().complete("ab", processors=value)


def test_a_processor_that_bans_everything_is_named_as_the_stage():
    """If a processor bans every token, the error names the stage "processors" and the token's number."""

    def ban(token_ids, logits):
        return logits if len(token_ids) < 5 else np.full_like(logits, -np.inf)

    llm = make_llm()
    params = SamplingParams(max_tokens=9, ignore_eos=True, seed=1)
    results = llm.complete(["a", "ab", "abcd"], params, processors=[ban], on_error="status")
    assert [str(result.choices[0].error) for result in results] == [
        f"logits[{number}]: no token is left to draw after stage processors" for number in (4, 3, 1)
    ]


def test_a_nested_step_fails_its_own_request():
    """A processor that calls its own engine fails its request only, and no sequence or block is left behind."""
    llm = make_llm()

    def ask(token_ids, logits):
        llm.complete("x", SamplingParams(max_tokens=1))

    params = SamplingParams(max_tokens=4, ignore_eos=True, seed=1)
    tasks = llm.engine.add([*llm.engine.requests("a", params, [ask])[0], *llm.engine.requests("b", params)[0]])
    while llm.engine.step():
        pass
    (asking,), (other,) = (task.result("m").choices for task in tasks)
    assert isinstance(asking.error, ProcessorError)
    assert "the engine is in the middle of a step" in str(asking.error)
    assert other == make_llm().complete("b", params).choices[0]
    assert (llm.stats.num_running, llm.stats.num_waiting, llm.stats.num_blocks_live) == (0, 0, 0)


def test_a_processor_that_exits_ends_its_own_request():
    """`sys.exit` in a processor fails its request only; KeyboardInterrupt is passed on."""

    def leave(token_ids, logits):
        raise SystemExit(3)

    def interrupted(token_ids, logits):
        raise KeyboardInterrupt

    llm = make_llm()
    with pytest.raises(ProcessorError, match="leave: raised SystemExit: 3"):
        llm.complete("a", processors=[leave])
    with pytest.raises(KeyboardInterrupt):
        llm.complete("a", processors=[interrupted])
    assert (llm.stats.num_running, llm.stats.num_waiting, llm.stats.num_blocks_live) == (0, 0, 0)


def test_on_sample_that_raises_fails_its_own_request():
    """An exception in `on_sample` fails its own request; other requests of the step continue."""

    def watch(sampler, logits, states):
        raise KeyError("gone")

    llm = make_llm()
    params = SamplingParams(max_tokens=4, ignore_eos=True, seed=1)
    tasks = llm.engine.add([*llm.engine.requests("a", params, (), watch)[0], *llm.engine.requests("b", params)[0]])
    while llm.engine.step():
        pass
    (watched,), (other,) = (task.result("m").choices for task in tasks)
    assert str(watched.error) == "on_sample raised KeyError: 'gone'"
    assert isinstance(watched.error.__cause__, KeyError)
    assert other == make_llm().complete("b", params).choices[0]
