"""Replay capsules: saving, loading, replaying to the bit, and forcing the recorded tokens."""

import dataclasses
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding.engine.replay import Capsule
from decoding.errors import ContextLengthError, ParameterError, PromptError
from decoding.llm import LLM
from decoding.params import SamplingParams
from decoding.sampling.stages import PROFILES
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits

TOKENIZER = byte_tokenizer([b"ab"], ["<eos>", "<fim_prefix>", "<fim_suffix>", "<fim_middle>"])


def make_llm(seed=0, **config):
    """Return an LLM over all bytes, an EOS and fill-in-the-middle markers."""
    model = ScriptedModel(hashed_logits(seed), TOKENIZER.vocab_size, eos_token_ids=(257,), **config)
    return LLM.from_parts(model, TOKENIZER)


PARAMS = st.builds(
    SamplingParams,
    n=st.integers(1, 3),
    best_of=st.sampled_from([None, 5]),
    max_tokens=st.integers(0, 8),
    temperature=st.sampled_from([0.0, 1.0, 1.7]),
    xtc_probability=st.sampled_from([0.0, 0.5]),
    frequency_penalty=st.sampled_from([0.0, 0.7]),
    logit_bias=st.sampled_from([(), {97: 3.0}]),
    bad_words=st.sampled_from([(), ("ab", (98,))]),
    mirostat_tau=st.sampled_from([None, 3.0]),
    stop=st.sampled_from([(), ("a", "b")]),
    logprobs=st.sampled_from([None, 1]),
    logprobs_mode=st.sampled_from(["raw", "final"]),
    echo=st.booleans(),
    suffix=st.sampled_from([None, "yz"]),
    allowed_token_ids=st.just([97, 98, 99, 256, 257]),
)


@settings(max_examples=60)
@given(st.text("ab", min_size=1, max_size=5), PARAMS)
def test_a_capsule_replays_to_the_bit(tmp_path_factory, prompt, params):
    """A saved capsule replays to the same bits, with or without a given seed; a forced replay gives the same tokens."""
    path = tmp_path_factory.getbasetemp() / "capsule.json"
    llm = make_llm()
    result = llm.complete(prompt, params)
    llm.capsule(result).save(path)
    replay = make_llm().replay(path)
    assert (replay.is_same, str(replay)) == (True, "the same, to the bit")
    assert replay.result == result
    forced = make_llm().replay(Capsule.load(path), force=True)
    assert forced.is_same, str(forced)
    assert [choice.token_ids for choice in forced.result.choices] == [choice.token_ids for choice in result.choices]


def test_the_first_difference_is_reported():
    """A replay by another model reports the first choice and token that differ; a forced one keeps the tokens."""
    params = SamplingParams(seed=1, logprobs=0, max_tokens=5)
    capsule = make_llm().capsule(make_llm().complete("ab", params))
    replay = make_llm(seed=7).replay(capsule)
    assert not replay.is_same
    assert replay.differences[-1].startswith("choice 0: token 0 ")
    choice = make_llm().complete("ab", params).choices[0]
    assert make_llm(seed=7).replay(capsule, force=True).result.choices[0].token_ids == choice.token_ids


def test_forced_tokens_get_the_logprobs_of_this_model():
    """Forced tokens get the log-probabilities of the replaying model, by its log-softmax."""
    script = hashed_logits(7)
    capsule = make_llm().capsule(make_llm().complete("ab", SamplingParams(seed=1, max_tokens=4, ignore_eos=True)))
    forced = make_llm(seed=7).replay(capsule, force=True)
    ids = [97, 98]
    choice = forced.result.choices[0]
    for token_id, logprob in zip(choice.token_ids, choice.logprobs.token_logprobs, strict=True):
        row = script(ids, TOKENIZER.vocab_size).astype(float)
        assert logprob == pytest.approx(row[token_id] - math.log(sum(map(math.exp, row))), rel=1e-5)
        ids.append(token_id)


def test_a_capsule_names_its_profile(tmp_path):
    """A capsule replays under the profile that it names; a capsule without a profile is of "openai"."""
    model = ScriptedModel(hashed_logits(), TOKENIZER.vocab_size)
    llm = LLM.from_parts(model, TOKENIZER, profile="vllm")
    llm.capsule(llm.complete("ab", SamplingParams(seed=1))).save(tmp_path / "capsule.json")
    assert llm.replay(tmp_path / "capsule.json").is_same
    other = LLM.from_parts(model, TOKENIZER)
    assert other.replay(tmp_path / "capsule.json").is_same
    mine = dataclasses.replace(PROFILES["vllm"], name="mine")
    capsule = llm.capsule(llm.complete("ab", SamplingParams(seed=1), profile=mine))
    assert capsule.system_fingerprint == llm.fingerprint(mine) != llm.system_fingerprint
    with pytest.raises(ParameterError, match="profile='vllm': must be the capsule's profile, 'mine"):
        llm.replay(capsule)
    assert LLM.from_parts(model, TOKENIZER, profile=mine).replay(capsule).is_same
    assert other.replay(tmp_path / "capsule.json", force=True).is_same
    written = json.loads((tmp_path / "capsule.json").read_text())
    del written["profile"]
    (tmp_path / "old.json").write_text(json.dumps(written))
    assert Capsule.load(tmp_path / "old.json").profile == "openai"


def test_a_capsule_with_processors_is_refused():
    """A capsule of a result with logits processors is refused, because they cannot be saved."""
    llm = make_llm()
    result = llm.complete("ab", processors=[lambda token_ids, logits: None])
    with pytest.raises(ParameterError, match="processors"):
        llm.capsule(result)


def _changed(capsule, **changes):
    return {**json.loads(capsule), **changes}


@pytest.mark.parametrize(
    "change",
    [
        {"format": "decoding replay 0"},
        {"prefix": [3, 1]},
        {"prefix": [0, 9]},
        {"prefix": [0]},
        {"choices": []},
        {"choices": [{}]},
        {"choices": [1]},
        {"choices": None},
        {"params": {"n": 0}},
        {"params": {"surprise": 1}},
        {"params": []},
        {"more": 1},
    ],
)
def test_an_invalid_capsule_is_refused(tmp_path, change):
    """A file with a wrong, missing or unknown field raises a ParameterError."""
    path = tmp_path / "capsule.json"
    make_llm().capsule(make_llm().complete("ab", SamplingParams(seed=1))).save(path)
    path.write_text(json.dumps(_changed(path.read_text(), **change)))
    with pytest.raises(ParameterError):
        make_llm().replay(path)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 10**5, "\x00"])
def test_a_capsule_that_is_not_json_is_refused(tmp_path, text):
    """A file that is missing or no JSON object raises a ParameterError that names the capsule."""
    path = tmp_path / "capsule.json"
    with pytest.raises(ParameterError, match="capsule="):
        make_llm().replay(path)
    path.write_text(text)
    with pytest.raises(ParameterError, match="capsule="):
        make_llm().replay(path)


def test_a_model_too_small_for_the_capsule():
    """A model with too small a vocabulary or context raises a PromptError or ContextLengthError."""
    capsule = make_llm().capsule(make_llm().complete([256] * 9, SamplingParams(seed=1)))
    with pytest.raises(PromptError, match="256"):
        LLM.from_parts(ScriptedModel(hashed_logits(), 100)).replay(capsule)
    with pytest.raises(ContextLengthError):
        make_llm(max_position_embeddings=8).replay(capsule)
