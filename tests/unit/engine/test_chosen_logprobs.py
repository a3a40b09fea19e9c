"""Log-probabilities of chosen token ids equal a float64 log-softmax, in output and prompt, in every mode of use."""

import json

import numpy as np
import pytest

from decoding import LLM, ParameterError, Sampler, SamplingParams, SamplingState
from decoding.completions_api.schema import completion_object
from decoding.engine.model_runner import all_logits
from decoding.sampling.kernel.call import Call
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits

IDS = (97, 5, 256)
TOKENIZER = byte_tokenizer([], ["<eos>"])


def make_llm(**settings):
    """Return an LLM around hashed logits over all bytes and an EOS."""
    return LLM.from_parts(ScriptedModel(hashed_logits(1), 257, eos_token_ids=(256,)), TOKENIZER, **settings)


def log_softmax(token_ids):
    """Return the float64 log-softmax of the model's logits after these tokens."""
    logits = hashed_logits(1)(token_ids, 257).astype(np.float64)
    return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())


def params(**others):
    """Return SamplingParams that ask for the log-probabilities of IDS."""
    return SamplingParams(**{"logprobs": 0, "logprob_token_ids": IDS, "max_tokens": 5, "seed": 1, **others})


def test_raw_values_in_output_and_prompt():
    """With echo, every entry but the first has the values of the float64 log-softmax, to 2e-6."""
    choice = make_llm().complete([7, 8, 9], params(echo=True)).choices[0]
    assert choice.logprobs.by_token_id[0] == {}
    for end in range(1, len(choice.token_ids)):
        right = log_softmax(choice.token_ids[:end])
        assert choice.logprobs.by_token_id[end] == pytest.approx({one: right[one] for one in IDS}, abs=2e-6)
    drawn = params(logprob_token_ids=[choice.token_ids[3]])
    again = make_llm().complete([7, 8, 9], drawn).choices[0].logprobs
    assert again.by_token_id[0][choice.token_ids[3]] == again.token_logprobs[0]


@pytest.mark.parametrize("mode", ["penalized", "scaled", "final", ("final", "raw")])
def test_the_first_mode_decides(mode):
    """Chosen ids have the log-probabilities of the first mode, as the top entries have; a banned id has -inf."""
    others = {"temperature": 0.7, "top_k": 90, "frequency_penalty": 1.0, "banned_token_ids": [5], "logprobs_mode": mode}
    choice = make_llm().complete([7, 8, 9], params(logprobs=257, **others)).choices[0]
    for values, top in zip(choice.logprobs.by_token_id, choice.logprobs.top_logprobs, strict=True):
        assert values[5] == -np.inf
        assert values[97] == top["a"]


def test_asking_changes_nothing_else():
    """logprob_token_ids changes neither tokens nor other log-probabilities, also with speculation and streams."""
    asked, plain = params(n=2, best_of=3), params(n=2, best_of=3, logprob_token_ids=())
    with_ids, without = make_llm().complete("ab", asked), make_llm().complete("ab", plain)
    for one, other in zip(with_ids.choices, without.choices, strict=True):
        assert (one.token_ids, one.logprobs.token_logprobs) == (other.token_ids, other.logprobs.token_logprobs)
        assert not any(other.logprobs.by_token_id)
    assert make_llm(speculation="prompt_lookup").complete("ab", asked).choices == with_ids.choices
    pieces = list(make_llm().stream("ab", params()))
    streamed = [values for piece in pieces for values in piece.logprobs.by_token_id]
    assert streamed == make_llm().complete("ab", params()).choices[0].logprobs.by_token_id


def test_asking_takes_no_call_of_the_kernel(monkeypatch):
    """Steps of four candidates call it once each, with the ids as without."""
    counts = []

    def count(call, plain=Call.sample):
        counts[-1] += 1
        return plain(call)

    monkeypatch.setattr(Call, "sample", count)
    for ids in ((), IDS):
        counts.append(0)
        make_llm().complete(["ab"] * 4, params(logprob_token_ids=ids, ignore_eos=True))
    assert counts == [5, 5]


def test_with_processors_and_healing():
    """Mode "raw" reads the logits before a processor changes them, mode "final" after."""

    def only_b(token_ids, logits):
        logits[:] = np.where(np.arange(257) == 98, 0.0, -np.inf)

    choice = make_llm().complete([7, 8], params(), processors=[only_b]).choices[0]
    assert choice.logprobs.by_token_id[0][97] == pytest.approx(log_softmax([7, 8])[97], abs=2e-6)
    final = make_llm().complete([7, 8], params(logprobs_mode="final"), processors=[only_b]).choices[0]
    assert final.logprobs.by_token_id[0] == dict.fromkeys(IDS, -np.inf)


def test_on_the_wire():
    """The JSON object has ids as keys and -9999.0 for -inf, and no field if none was requested."""
    llm = make_llm()
    result = llm.complete("ab", params(logprobs_mode="final", top_k=1))
    wire = completion_object([result], system_fingerprint="x")
    by_id = wire["choices"][0]["logprobs"]["by_token_id"]
    assert set(by_id[0]) == {"97", "5", "256"}
    assert json.loads(json.dumps(by_id, allow_nan=False)) == by_id
    assert -9999.0 in by_id[0].values()
    plain = completion_object([llm.complete("ab", params(logprob_token_ids=()))], system_fingerprint="x")
    assert "by_token_id" not in plain["choices"][0]["logprobs"]


def test_replay(tmp_path):
    """A capsule contains logprob_token_ids, and its replay returns the same values."""
    llm = make_llm()
    llm.capsule(llm.complete("ab", params())).save(tmp_path / "capsule.json")
    replay = llm.replay(tmp_path / "capsule.json")
    assert replay.is_same
    assert replay.result == llm.complete("ab", params())


def test_invalid_chosen_ids_are_refused():
    """Ids without logprobs, too many ids and ids outside the vocabulary are refused."""
    with pytest.raises(ParameterError, match=r"logprob_token_ids=.*must come with logprobs"):
        SamplingParams(logprob_token_ids=[1])
    with pytest.raises(ParameterError, match=r"logprob_token_ids=129 ids: must be at most 128"):
        SamplingParams(logprob_token_ids=list(range(129)), logprobs=0)
    with pytest.raises(ParameterError, match=r"logprob_token_ids=257: must be below vocab_size=257"):
        make_llm().complete("ab", params(logprob_token_ids=[257]))
    with pytest.raises(ParameterError, match="must have logprobs"):
        Sampler(3).logprobs_of(np.zeros(3, np.float32), SamplingState(SamplingParams()), [1])


def test_a_real_model(shared):
    """Chosen values of a real model equal the log-softmax of one forward pass over the whole text, to 5e-6."""
    llm = LLM(shared / "models" / "stories260K")
    choice = llm.complete("Once upon", params(echo=True, logprob_token_ids=[3, 400])).choices[0]
    logits = all_logits(llm.engine.model, choice.token_ids).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    for position, values in enumerate(choice.logprobs.by_token_id[1:]):
        assert values == pytest.approx({one: logprobs[position, one] for one in (3, 400)}, abs=5e-6)
