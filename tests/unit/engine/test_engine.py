"""The decoding loop: max_num_seqs, shared prefill, lazily created candidates, errors, ends of texts."""

import numpy as np
import pytest

from decoding.engine.engine import Engine
from decoding.engine.request import make_request
from decoding.engine.settings import EngineSettings
from decoding.engine.tasks import scores as scores_module
from decoding.errors import EmptySupportError, NonFiniteLogitsError
from decoding.params import SamplingParams
from decoding.sampling.kernel import ThreadPool
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits

TOKENIZER = byte_tokenizer(special=["<eos>"])


def scripted(script=None, **config):
    """Return a scripted model over all bytes and an EOS that may be drawn."""
    return ScriptedModel(script or hashed_logits(), 257, eos_token_ids=(256,), **config)


def make_engine(model, max_num_seqs=4, **settings):
    """Return an engine that runs a few sequences at once."""
    return Engine(model, TOKENIZER, EngineSettings(max_num_seqs=max_num_seqs, **settings))


def run(model, requests, max_num_seqs=4, **settings):
    """Return the results of (prompt, parameters) pairs, and the largest number of sequences in a step."""
    engine = make_engine(model, max_num_seqs, **settings)
    tasks = [engine.add_request(make_request(p, SamplingParams(**kw), model.config, TOKENIZER)) for p, kw in requests]
    most = 0
    while engine.has_work:
        most = max(most, engine.step())
    return [task.result("test") for task in tasks], most


def choices(result):
    """Return the fields of the choices that must agree between two results."""
    return [(c.token_ids, c.text, c.logprobs, c.finish_reason) for c in result.choices]


def nan_after(trigger):
    """Return a script whose logits are NaN when token `trigger` is the newest."""
    plain = hashed_logits()

    def script(token_ids, vocab_size):
        logits = plain(token_ids, vocab_size)
        return logits * np.nan if token_ids[-1] == trigger else logits

    return script


@pytest.mark.parametrize("max_num_seqs", [1, 2, 3, 5, 64])
def test_results_do_not_depend_on_max_num_seqs(max_num_seqs):
    """Never more than max_num_seqs sequences run, and results do not depend on it."""
    requests = [(f"prompt {i}", {"n": i, "seed": i, "logprobs": 1, "max_tokens": 3 * i}) for i in range(1, 6)]
    expected = [run(scripted(), [request])[0][0] for request in requests]
    results, most = run(scripted(), requests, max_num_seqs)
    assert most == min(max_num_seqs, 15)
    assert [choices(r) for r in results] == [choices(r) for r in expected]


def test_draws_use_the_threads_of_the_model():
    """The engine's sampler shares its rows among the threads of a model that has some."""
    model = scripted()
    assert make_engine(model)._sampler.num_threads == 1
    model.threads = ThreadPool(3)
    assert make_engine(model)._sampler.num_threads == 3


def test_candidates_share_one_prefill():
    """The prompt is computed once for all n candidates, also for those that start later."""
    model = scripted()
    (result,), _ = run(model, [("x" * 100, {"n": 7, "seed": 1, "max_tokens": 2, "ignore_eos": True})], max_num_seqs=2)
    assert model.num_tokens == 100 + 7  # each candidate computes its first token to get the second
    assert result.usage.completion_tokens == 14


def test_a_late_candidate_survives_the_end_of_the_first():
    """Results are the same if one prompt's last candidates and the next prompt's first start in the same step."""
    requests = [("a", {"n": 3, "max_tokens": 2, "seed": 1}), ("b", {"n": 3, "max_tokens": 3, "seed": 2})] * 3
    expected = [run(scripted(), [request])[0][0] for request in requests]
    for max_num_seqs in (2, 4, 5):
        results, _ = run(scripted(), requests, max_num_seqs)
        assert [choices(r) for r in results] == [choices(r) for r in expected]


def test_a_million_candidates_are_made_one_by_one():
    """A request with best_of = 10**6 starts at once and creates only as many sequences as can run."""
    model = scripted()
    engine = make_engine(model, max_num_seqs=3)
    params = SamplingParams(best_of=10**6, seed=1, max_tokens=1)
    engine.add_request(make_request("a", params, model.config, TOKENIZER))
    assert engine.step() == 1  # computes the prompt
    for _ in range(5):
        assert engine.step() == 3
    assert engine.has_work


def test_greedy_is_computed_once_and_counted_for_every_candidate():
    """Greedy candidates are computed once; usage counts every candidate."""
    model = scripted()
    params = {"n": 3, "best_of": 5, "temperature": 0.0, "max_tokens": 4, "ignore_eos": True}
    (result,), most = run(model, [("abc", params)])
    assert most == 1
    assert [c.index for c in result.choices] == [0, 1, 2]
    assert len({tuple(c.token_ids) for c in result.choices}) == 1
    assert result.usage.completion_tokens == 5 * 4


@pytest.mark.parametrize(("length", "expected"), [(8, 1), (7, 2), (1, 8)])
def test_the_context_end(length, expected):
    """The last sampled token need not fit: a prompt that fills the context still gets one token."""
    model = scripted(max_position_embeddings=8)
    (result,), _ = run(model, [([97] * length, {"max_tokens": None, "ignore_eos": True, "seed": 0})])
    assert len(result.choices[0].token_ids) == expected
    assert result.choices[0].finish_reason == "length"


def test_max_tokens_zero_computes_nothing():
    """max_tokens=0 runs no forward pass; with echo and logprobs the prompt is scored and nothing else."""
    model = scripted()
    (result,), _ = run(model, [("abc", {"max_tokens": 0, "n": 2})])
    assert [(c.text, c.token_ids, c.finish_reason) for c in result.choices] == [("", [], "length")] * 2
    assert model.num_forwards == 0
    (scored,), _ = run(model, [("abc", {"max_tokens": 0, "echo": True, "logprobs": 0})])
    assert (scored.choices[0].text, scored.usage.completion_tokens) == ("abc", 0)
    assert model.num_tokens == 2  # the logits of the last token are not needed


def test_prompt_logprobs_are_those_of_the_bare_logits(monkeypatch):
    """Prompt log-probabilities equal the log-softmax of the model's logits, whatever the size of the chunks."""
    script, ids = hashed_logits(), [5, 6, 7, 8, 9, 5]
    expected = []
    for end in range(1, len(ids)):
        logits = script(ids[:end], 257).astype(np.float64)
        expected.append(logits[ids[end]] - np.log(np.exp(logits - logits.max()).sum()) - logits.max())
    for chunk in (512, 2, 1):
        monkeypatch.setattr(scores_module, "_MAX_ELEMENTS", chunk * 257)
        (result,), _ = run(scripted(), [(ids, {"echo": True, "logprobs": 2, "max_tokens": 3, "seed": 1})])
        logprobs = result.choices[0].logprobs
        assert logprobs.token_logprobs[0] is None is logprobs.top_logprobs[0]
        np.testing.assert_allclose(logprobs.token_logprobs[1:6], expected, rtol=1e-6)
        assert logprobs.token_ids == result.choices[0].token_ids
        assert result.choices[0].token_ids[:6] == ids


def test_long_prompts_are_computed_in_chunks():
    """Results do not depend on max_batched_tokens."""
    requests = [("x" * 50, {"seed": 1}), ("y" * 33, {"seed": 2, "n": 2}), ("z", {"seed": 3})]
    expected, _ = run(scripted(), requests)
    results, _ = run(scripted(), requests, max_batched_tokens=16)
    assert [choices(r) for r in results] == [choices(r) for r in expected]


def test_a_nan_row_fails_its_own_choice_only():
    """Choices with NaN logits fail; the other requests of the batch get exactly their usual results."""
    requests = [(f"p{i}", {"seed": i, "logprobs": 1, "banned_token_ids": [ord("!")]}) for i in range(5)]
    expected, _ = run(scripted(), requests)
    bad = (b"bad!".decode(), {"seed": 9, "n": 2})
    results, _ = run(scripted(nan_after(ord("!"))), [*requests[:2], bad, *requests[2:]], max_num_seqs=16)
    failed = results.pop(2)
    assert [choices(r) for r in results] == [choices(r) for r in expected]
    assert [c.finish_reason for c in failed.choices] == ["error", "error"]
    assert all(isinstance(c.error, NonFiniteLogitsError) for c in failed.choices)
    assert failed.usage.completion_tokens == 0


def test_a_nan_in_a_scored_prompt_fails_the_prompt():
    """If scoring the prompt meets NaN, every choice of the prompt fails and the prompt's entries are None."""
    params = {"echo": True, "logprobs": 1, "n": 2}
    (result, other), _ = run(scripted(nan_after(ord("!"))), [("a!b", params), ("ab", {"seed": 1})])
    assert [c.finish_reason for c in result.choices] == ["error", "error"]
    assert result.choices[0].logprobs.token_logprobs == [None, None, None]
    assert other.choices[0].finish_reason == "length"


def test_best_of_ranks_failed_candidates_last():
    """Failed candidates rank last, so they are not returned if n others succeed."""
    allowed = [65, 66]  # half of the candidates draw B first and then fail
    params = {"n": 2, "best_of": 40, "seed": 0, "max_tokens": 3, "allowed_token_ids": allowed, "temperature": 50.0}
    (result,), _ = run(scripted(nan_after(66)), [("x", params)], max_num_seqs=16)
    assert [c.finish_reason for c in result.choices] == ["length", "length"]
    assert result.choices[0].mean_logprob >= result.choices[1].mean_logprob


def test_no_token_left():
    """A request whose parameters ban every token fails alone, not with its batch."""
    params = {"allowed_token_ids": [5], "banned_token_ids": [5]}
    (bad, good), _ = run(scripted(), [("x", params), ("y", {"seed": 1})])
    assert isinstance(bad.choices[0].error, EmptySupportError)
    assert good.choices[0].error is None


def test_best_of_ranks_by_the_mean_raw_logprob():
    """best_of ranks by the mean of each candidate's own log-probabilities, EOS included."""
    params = {"seed": 3, "max_tokens": 6, "temperature": 1.5}
    (every,), _ = run(scripted(), [("x", {**params, "n": 8, "logprobs": 0})])
    means = [sum(c.logprobs.token_logprobs) / len(c.token_ids) for c in every.choices]
    order = sorted(range(8), key=lambda index: (-means[index], index))
    (best,), _ = run(scripted(), [("x", {**params, "n": 3, "best_of": 8})])
    assert [c.token_ids for c in best.choices] == [every.choices[index].token_ids for index in order[:3]]
    assert [c.mean_logprob for c in best.choices] == [means[index] for index in order[:3]]
    assert best.usage.completion_tokens == sum(len(c.token_ids) for c in every.choices)


def test_min_tokens_bans_eos():
    """EOS is not drawn before min_tokens other tokens, even if it is nearly certain."""

    def eager(token_ids, vocab_size):
        logits = np.zeros(vocab_size, np.float32)
        logits[256] = 30.0
        return logits

    (result,), _ = run(scripted(eager), [("x", {"min_tokens": 3, "seed": 1})])
    assert len(result.choices[0].token_ids) == 4
    assert result.choices[0].stop_reason == 256


@pytest.mark.parametrize("victims", ["own", "other", "both"])
@pytest.mark.parametrize("speculates", [False, True])
def test_a_listener_may_abort_any_request_at_any_call(victims, speculates):
    """A listener may abort its own request, another one or both at any call; a third request is unaffected."""
    params = SamplingParams(n=2, max_tokens=5, seed=1, ignore_eos=True)
    model = scripted()
    requests = [make_request(prompt, params, model.config, TOKENIZER) for prompt in ("hello", "hellp", "x")]
    (expected,), _ = run(scripted(), [("x", {"n": 2, "max_tokens": 5, "seed": 1, "ignore_eos": True})])
    for when in range(1, 25):
        engine = Engine(model, TOKENIZER, EngineSettings(max_num_seqs=6), FixedDrafts() if speculates else None)
        calls, listening = [], []

        def listen(task, candidate, engine=engine, calls=calls, listening=listening, when=when):
            calls.append(task)
            for one in listening if len(calls) == when else ():
                if victims == "both" or (victims == "own") == (one is task):
                    engine.abort(one)

        listening += [engine.add_request(request, listen) for request in requests[:2]]
        untouched = engine.add_request(requests[2])
        while engine.has_work:
            engine.step()
        assert choices(untouched.result("test")) == choices(expected), when
        stats = engine.stats
        assert (stats.num_running, stats.num_waiting, stats.num_blocks_live) == (0, 0, 0)


class FixedDrafts:
    """A draft source that always proposes the same tokens."""

    def propose(self, sequences):
        """Propose as many of the fixed tokens as fit."""
        for sequence, room in sequences:
            sequence.draft = [157, 69, 165][:room]


def test_a_listener_that_raises_fails_the_step_and_no_later_one():
    """An exception in a listener fails all requests of the step, frees their blocks, and later requests succeed."""
    model = scripted()
    engine = make_engine(model)
    params = SamplingParams(n=2, max_tokens=3, seed=1, ignore_eos=True)
    told = []

    def raises(task, candidate):
        raise KeyError("listener")

    requests = [make_request(prompt, params, model.config, TOKENIZER) for prompt in ("a", "b", "c")]
    failing = engine.add_request(requests[0], raises)
    beside = engine.add_request(requests[1], lambda task, candidate: told.append(candidate.finish_reason))
    while engine.has_work:
        engine.step()
    for task in (failing, beside):
        assert [type(choice.error.__cause__) for choice in task.result("test").choices] == [KeyError, KeyError]
    assert told.count("error") == 2
    after = engine.add_request(requests[2])
    while engine.has_work:
        engine.step()
    assert [choice.finish_reason for choice in after.result("test").choices] == ["length", "length"]
    assert engine.stats.num_blocks_live == 0
