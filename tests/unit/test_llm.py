"""Tests of LLM, with scripted models and with the real ones in shared/."""

import json
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from decoding import LLM, SamplingParams
from decoding.errors import (
    ContextLengthError,
    ModelNotFoundError,
    NonFiniteLogitsError,
    ParameterError,
    PromptError,
    TokenizerError,
)
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, fixed_reply, hashed_logits

FIM = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]
GREEDY = SamplingParams(temperature=0.0, max_tokens=5, seed=0)


def make_llm(script=None, special=("<eos>", *FIM), **config):
    """Return an LLM over all bytes and special tokens, whose EOS is token 256."""
    model = ScriptedModel(script or hashed_logits(), 256 + len(special), eos_token_ids=(256,), **config)
    return LLM.from_parts(model, byte_tokenizer(special=special))


def nan_at(length):
    """Return a script whose logits are NaN for sequences of this length."""

    def script(token_ids, vocab_size):
        return np.full(vocab_size, np.nan if len(token_ids) == length else 0.0, np.float32)

    return script


@pytest.fixture(scope="module")
def stories(shared):
    """Return an LLM of Karpathy's stories260K."""
    return LLM(shared / "models" / "stories260K")


def test_the_published_text(shared, stories):
    """At temperature 0 stories260K generates the text that its author published."""
    published = (shared / "models" / "stories260K" / "PUBLISHED_GREEDY.txt").read_text()
    text = stories.complete("", SamplingParams(temperature=0.0, max_tokens=200)).choices[0].text
    assert text.startswith(published.rstrip("\n"))


def test_the_path_may_be_a_string(shared):
    """The path may be a string, and the model is named after its folder."""
    assert LLM(str(shared / "models" / "babyllama-105")).complete("Once", GREEDY).model == "babyllama-105"


def test_a_stream_joins_to_the_completion(stories):
    """A stream of a real model joins to the text of `complete`."""
    params = SamplingParams(seed=5, max_tokens=60, stop="\n", n=2)
    texts = ["", ""]
    for delta in stories.stream("Once upon a time", params):
        texts[delta.index] += delta.text
    assert texts == [choice.text for choice in stories.complete("Once upon a time", params).choices]


def test_echo_is_the_decoding_of_all_tokens(stories):
    """The echoed text is prompt + completion, and equals the tokenizer's decoding of all tokens."""
    plain = stories.complete("Lily saw a", GREEDY).choices[0]
    echoed = stories.complete("Lily saw a", SamplingParams(temperature=0.0, max_tokens=5, echo=True)).choices[0]
    assert echoed.text == "Lily saw a" + plain.text == stories.tokenizer.decode(echoed.token_ids)


def test_one_prompt_or_a_list_of_them():
    """A list of prompts gives a list of results, a list of ids is one prompt, and each prompt may have parameters."""
    llm = make_llm()
    one = llm.complete("ab", GREEDY)
    assert llm.complete([97, 98], GREEDY) == one
    assert llm.complete(["ab"], GREEDY) == llm.complete(["ab"], [GREEDY]) == [one]
    ids, text = llm.complete([[97, 98], "cd"], [GREEDY, SamplingParams(max_tokens=2, seed=1)])
    assert ids == one
    assert len(text.choices[0].token_ids) == 2
    assert llm.complete(np.array([97, 98]), GREEDY) == one


def test_default_parameters():
    """By default at most 16 tokens are drawn, with a random seed that replays the result."""
    llm = make_llm()
    result = llm.complete("ab")
    assert result.usage.prompt_tokens == 2
    assert result.usage.total_tokens == 2 + result.usage.completion_tokens <= 18
    again = llm.complete("ab", SamplingParams(seed=result.choices[0].seed))
    assert again == result


@pytest.mark.parametrize(
    ("prompt", "params", "match"),
    [
        (["a", "b"], [GREEDY], "params=.*there are 2"),
        ("a", {"max_tokens": 1}, "params=.*must be a SamplingParams"),
        (["a"], ["greedy"], "params=.*must be a SamplingParams"),
    ],
)
def test_bad_parameter_lists(prompt, params, match):
    """A wrong number or type of parameters raises a ParameterError with the expected form."""
    for method in (make_llm().complete, make_llm().stream):
        with pytest.raises(ParameterError, match=match):
            method(prompt, params)


def test_errors_of_one_prompt_in_a_list_name_it():
    """The error of a prompt in a list names its position."""
    llm = make_llm()
    with pytest.raises(PromptError, match=r"prompt\[1\]\[0\]=999"):
        llm.complete(["a", [999]])
    with pytest.raises(PromptError, match=r"prompt\[1\]=3"):
        llm.complete(["a", 3])


def test_streaming_refuses_best_of():
    """Streaming with best_of above n raises at the call, not with the first piece."""
    with pytest.raises(ParameterError, match=r"best_of=3.*n=2"):
        make_llm().stream("a", SamplingParams(n=2, best_of=3))


def test_stream_numbers_choices_prompt_by_prompt():
    """A stream numbers the choices across prompts: each prompt continues the numbers of the one before."""
    params = [SamplingParams(n=2, seed=1), SamplingParams(n=1, seed=1), SamplingParams(n=2, temperature=0.0)]
    deltas = list(make_llm().stream(["a", "b", "c"], params))
    assert sorted(d.index for d in deltas if d.finish_reason) == [0, 1, 2, 3, 4]


def test_fill_in_the_middle():
    """The model computes markers and suffix; echo shows the prefix only, with None for its first token."""
    params = SamplingParams(suffix="yz", echo=True, logprobs=1, max_tokens=2, seed=1, ignore_eos=True)
    result = make_llm().complete("ab", params)
    assert result.prompt_token_ids == [257, 97, 98, 258, 121, 122, 259]
    assert result.usage.prompt_tokens == 7
    logprobs = result.choices[0].logprobs
    assert logprobs.token_ids[:2] == [97, 98]
    assert logprobs.token_logprobs[0] is None
    row = hashed_logits()([257, 97], 260).astype(np.float64)
    assert logprobs.token_logprobs[1] == pytest.approx(row[98] - np.log(np.exp(row).sum()), rel=1e-5)
    empty = make_llm().complete("", SamplingParams(suffix="z", echo=True, logprobs=1, max_tokens=1, seed=1))
    assert empty.prompt_token_ids == [257, 258, 122, 259]
    with pytest.raises(PromptError, match="no fill-in-the-middle tokens"):
        make_llm(special=("<eos>",)).complete("ab", params)


def test_a_failed_choice_raises_unless_asked_not_to():
    """The error of a choice is raised by default; on_error="status" returns the other results too."""
    llm = make_llm(nan_at(4))
    prompts = ["abc", "abcde"]
    with pytest.raises(NonFiniteLogitsError):
        llm.complete(prompts)
    failed, fine = llm.complete(prompts, on_error="status")
    assert (failed.choices[0].finish_reason, fine.choices[0].finish_reason) == ("error", "length")
    assert len(failed.choices[0].token_ids) == 1
    with pytest.raises(ParameterError, match="on_error='ignore'"):
        llm.complete("a", on_error="ignore")


def test_a_failed_choice_in_a_stream():
    """A failed stream delivers its tokens first, then raises the error or ends with it."""
    llm = make_llm(nan_at(4))
    stream = llm.stream("abc")
    assert len(next(stream).token_ids) == 1
    with pytest.raises(NonFiniteLogitsError):
        list(stream)
    last = list(llm.stream("abc", on_error="status"))[-1]
    assert last.finish_reason == "error"
    assert isinstance(last.error, NonFiniteLogitsError)


def test_a_stream_can_be_left_at_any_time():
    """Closing a stream stops the model at once and does not affect the next request."""
    model = ScriptedModel(hashed_logits(), 256)
    llm = LLM.from_parts(model, byte_tokenizer())
    expected = llm.complete("ab", GREEDY)
    model.num_forwards = 0
    stream = llm.stream("ab", SamplingParams(n=3, max_tokens=100, seed=1))
    next(stream)
    stream.close()
    count = model.num_forwards
    assert list(stream) == []
    assert model.num_forwards == count <= 2
    assert llm.complete("ab", GREEDY) == expected


def test_two_streams_at_once():
    """Two interleaved streams give the same pieces as one after the other."""
    llm = make_llm()
    params = SamplingParams(seed=3, max_tokens=8, ignore_eos=True)
    expected = [list(llm.stream(prompt, params)) for prompt in ("ab", "cd")]
    pairs = list(zip(llm.stream("ab", params), llm.stream("cd", params), strict=True))
    assert [[one for one, _ in pairs], [other for _, other in pairs]] == expected


def test_without_a_tokenizer():
    """Without a tokenizer, ids are accepted and returned with empty text, and text raises a TokenizerError."""
    llm = LLM.from_parts(ScriptedModel(hashed_logits(), 50))
    result = llm.complete([1, 2], SamplingParams(seed=1, max_tokens=3, logprobs=1, echo=True))
    (choice,) = result.choices
    assert (choice.text, choice.token_ids[:2], len(choice.token_ids)) == ("", [1, 2], 5)
    assert choice.logprobs.tokens == [f"token_id:{token_id}" for token_id in choice.token_ids]
    assert set(choice.logprobs.text_offset) == {0}
    for refused in (lambda: llm.complete("a"), lambda: llm.tokenizer):
        with pytest.raises(TokenizerError, match="no tokenizer"):
            refused()


def test_a_folder_without_a_tokenizer(shared, tmp_path):
    """A real checkpoint without its tokenizer file returns the same ids."""
    source = shared / "models" / "stories260K"
    for name in ("config.json", "model.safetensors"):
        shutil.copy(source / name, tmp_path / name)
    assert (
        LLM(tmp_path).complete([1], GREEDY).choices[0].token_ids
        == LLM(source).complete([1], GREEDY).choices[0].token_ids
    )


def test_logits_are_the_bare_forward_pass():
    """`logits` returns float32 [num_tokens, vocab], where row i is the model's output after token i."""
    script = hashed_logits()
    logits = make_llm().logits([97, 98, 99])
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, [script([97, 98, 99][:end], 260) for end in (1, 2, 3)])


@pytest.mark.parametrize(
    ("token_ids", "error"),
    [([], PromptError), ("ab", PromptError), ([260], PromptError), ([1] * 9, ContextLengthError)],
)
def test_logits_of_bad_token_ids(token_ids, error):
    """`logits` raises the errors of prompts for bad token ids."""
    with pytest.raises(error):
        make_llm(max_position_embeddings=8).logits(token_ids)


@pytest.mark.parametrize("value", [0, -1, True, 1.0, None, "4"])
def test_max_num_seqs(value):
    """max_num_seqs must be an integer of at least 1."""
    with pytest.raises(ParameterError, match="max_num_seqs="):
        LLM.from_parts(ScriptedModel(hashed_logits(), 4), max_num_seqs=value)


def test_no_such_model(tmp_path):
    """A missing folder raises a ModelNotFoundError, and an argument that is no path a ParameterError."""
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        LLM(tmp_path / "nowhere")
    with pytest.raises(ParameterError, match="model=5"):
        LLM(5)


def test_the_fingerprint_names_model_and_tokenizer(stories, shared):
    """The fingerprint is equal for the same files, and differs for another model or tokenizer."""
    fingerprint = stories.system_fingerprint
    assert fingerprint == LLM(shared / "models" / "stories260K").system_fingerprint
    assert fingerprint != LLM(shared / "models" / "babyllama-105").system_fingerprint
    assert make_llm().system_fingerprint != make_llm(special=("<eos>",)).system_fingerprint


def test_the_fingerprint_does_not_depend_on_the_engine():
    """The fingerprint depends on the profile, but not on engine settings and speculation."""

    def make(**settings):
        return LLM.from_parts(ScriptedModel(hashed_logits(), 260), byte_tokenizer(), **settings)

    plain = make().system_fingerprint
    for settings in (
        {"max_num_seqs": 1, "max_batched_tokens": 7, "kv_cache_bytes": 4096, "prefix_cache": False},
        {"speculation": "prompt_lookup", "num_draft_tokens": 2},
        {"profile": "openai"},
    ):
        assert make(**settings).system_fingerprint == plain
    assert make(profile="llama_cpp").system_fingerprint != plain


def test_threads_and_backend_go_to_the_model(monkeypatch, shared):
    """LLM passes num_threads and backend to the loader, and the backend is part of the fingerprint."""
    calls = []

    def load_files(files, backend, **settings):
        calls.append({"num_threads": settings["num_threads"], "backend": backend})
        return ScriptedModel(hashed_logits(), 512)

    monkeypatch.setattr("decoding.model_loading.load_files", load_files)
    folder = shared / "models" / "stories260K"
    numpy = LLM(folder, num_threads=3, backend="numpy")
    native = LLM(folder)
    assert calls == [{"num_threads": 3, "backend": "numpy"}, {"num_threads": None, "backend": "native"}]
    assert numpy.system_fingerprint != native.system_fingerprint


@pytest.mark.parametrize("processors", [[], [lambda token_ids, logits: None]])
def test_a_profile_decides_ties_and_order(processors):
    """With profile="transformers", top_k keeps ties and the bias comes before the penalty, also with processors."""

    def script(token_ids, vocab_size):
        logits = np.zeros(vocab_size, np.float32)
        logits[:4] = 5.0
        return logits

    params = SamplingParams(top_k=1, n=50, max_tokens=1, seed=1)
    texts = {}
    for profile in ("openai", "transformers"):
        llm = LLM.from_parts(ScriptedModel(script, 8), profile=profile)
        choices = llm.complete([5], params, processors=processors).choices
        texts[profile] = {choice.token_ids[0] for choice in choices}
        biased = SamplingParams(
            logit_bias={5: 10.0}, repetition_penalty=4.0, temperature=0.0, max_tokens=1, allowed_token_ids=[3, 5]
        )
        token_id = llm.complete([5], biased, processors=processors).choices[0].token_ids[0]
        assert token_id == (5 if profile == "openai" else 3)
    assert texts == {"openai": {0}, "transformers": {0, 1, 2, 3}}
    with pytest.raises(ParameterError, match="profile='vlm': must be one of 'openai'"):
        LLM.from_parts(ScriptedModel(script, 8), profile="vlm")


def test_a_call_has_a_profile_of_its_own():
    """Requests of different profiles in one batch get the same results as alone, also with drafts."""
    names = ("openai", "transformers", "llama_cpp", "vllm", None)
    params = SamplingParams(n=2, max_tokens=9, seed=3, temperature=1.5, top_k=9, typical_p=0.6, frequency_penalty=1.0)
    for speculation in (None, "prompt_lookup"):
        llm = LLM.from_parts(ScriptedModel(hashed_logits(), 260), profile="vllm", speculation=speculation)
        tasks = []
        for name in names:
            requests, _ = llm.engine.requests([97, 98], params, profile=name)
            tasks += llm.engine.add(requests)
        while not all(task.is_done for task in tasks):
            llm.engine.step()
        together = [[choice.token_ids for choice in task.result("x").choices] for task in tasks]
        for name, ids in zip(names, together, strict=True):
            alone = LLM.from_parts(ScriptedModel(hashed_logits(), 260), profile=name or "vllm").complete(
                [97, 98], params
            )
            assert [choice.token_ids for choice in alone.choices] == ids, name
            assert [choice.token_ids for choice in llm.complete([97, 98], params, profile=name).choices] == ids
            streamed = [token for delta in llm.stream([97, 98], params, profile=name) for token in delta.token_ids]
            assert sorted(streamed) == sorted(token for choice in ids for token in choice)
        assert len(set(map(repr, together))) > 1
        with pytest.raises(ParameterError, match="profile=3: must be one of 'openai'"):
            llm.complete([97], profile=3)


def test_chosen_seeds_survive_json():
    """Chosen seeds are below 2**53, which JSON readers do not round; given seeds may have 64 bits."""
    seeds = [make_llm().complete("a", SamplingParams(max_tokens=1)).choices[0].seed for _ in range(50)]
    assert all(0 <= seed < 2**53 for seed in seeds)
    assert max(seeds) > 2**50
    assert make_llm().complete("a", SamplingParams(max_tokens=1, seed=2**63 - 1)).choices[0].seed == 2**63 - 1


def test_held_text_comes_before_the_error_of_a_choice():
    """Text held for a stop string is delivered before the error, in a piece without the error."""

    def script(token_ids, vocab_size):
        logits = np.full(vocab_size, np.nan if len(token_ids) == 5 else 0.0, np.float32)
        logits[b"aaEN"[len(token_ids) % 4]] += 50.0
        return logits

    params = SamplingParams(temperature=0.0, stop="END")
    text = ""
    with pytest.raises(NonFiniteLogitsError):  # noqa: PT012
        for delta in make_llm(script).stream("ab", params):
            text += delta.text
    assert text == "ENa"
    *pieces, last = make_llm(script).stream("ab", params, on_error="status")
    assert "".join(delta.text for delta in pieces) == "ENa"
    assert [delta.finish_reason for delta in pieces] == [None] * len(pieces)
    assert (last.text, last.token_ids, last.finish_reason) == ("", [], "error")


def test_all_known_end_tokens_end_a_text(caplog):
    """If the model's config and the tokenizer disagree about EOS, both tokens end a text, and a warning is logged."""
    tokenizer = byte_tokenizer(special=["<eos>", "<end>"])
    model = ScriptedModel(hashed_logits(), 258, eos_token_ids=(257,))
    llm = LLM.from_parts(model, tokenizer)
    for token_id in (256, 257):
        params = SamplingParams(allowed_token_ids=[token_id], max_tokens=3)
        assert llm.complete("a", params).choices[0].stop_reason == token_id
    assert "ids [257] and by the tokenizer at id 256" in caplog.text
    assert LLM.from_parts(model, byte_tokenizer()).complete("a", SamplingParams(seed=1)).usage.completion_tokens > 0


FORKING = """
import os, sys, threading, time
from decoding import LLM, SamplingParams
from decoding.testing.scripted import ScriptedModel, hashed_logits

def slow(token_ids, vocab_size):
    if len(token_ids) > 3:
        time.sleep(0.05)
    return hashed_logits()(token_ids, vocab_size)

llm = LLM.from_parts(ScriptedModel(slow, 50))
expected = llm.complete([1], SamplingParams(seed=1, max_tokens=2))
params = SamplingParams(max_tokens=100, seed=2)
thread = threading.Thread(target=llm.complete, args=([1, 2, 3, 4], params), daemon=True)
thread.start()
time.sleep(0.2)
child = os.fork()
if child == 0:
    os._exit(0 if llm.complete([1], SamplingParams(seed=1, max_tokens=2)) == expected else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
os._exit(0)
"""


def test_a_fork_in_the_middle_of_a_step():
    """A child forked while another thread decodes can use its copy of the LLM, with the same results."""
    command = [sys.executable, "-W", "ignore", "-c", FORKING]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "0\n"


def test_the_bundled_model():
    """LLM() completes Python code and fills in the middle, and a seed replays its result."""
    llm = LLM()
    params = SamplingParams(max_tokens=24, temperature=0.8, top_p=0.95, seed=7, n=2, best_of=4, logprobs=5)
    result = llm.complete("def add(a, b):", params)
    assert [choice.seed for choice in result.choices] == [7, 7]
    assert llm.complete("def add(a, b):", params) == result
    assert all(choice.text and len(choice.logprobs.top_logprobs[0]) >= 5 for choice in result.choices)
    assert llm.complete("def f(", SamplingParams(suffix="):\n", seed=1)).usage.completion_tokens > 0


def test_scripted_replies():
    """A scripted reply becomes text token by token, and a stop string ends it."""
    llm = make_llm(fixed_reply(b"hello world", prompt_length=2))
    choice = llm.complete("ab", SamplingParams(temperature=0.0, stop=" wor")).choices[0]
    assert (choice.text, choice.stop_reason) == ("hello", " wor")


def test_results_share_nothing():
    """Changing the lists of a choice does not change another choice of the same result."""
    llm = make_llm()
    for params in (
        SamplingParams(n=2, temperature=0.0, logprobs=1, max_tokens=3),
        SamplingParams(n=2, echo=True, logprobs=1, seed=1, max_tokens=3),
    ):
        first, second = llm.complete("ab", params).choices
        tokens, top = list(second.token_ids), dict(second.logprobs.top_logprobs[-1])
        first.token_ids.clear()
        for entry in first.logprobs.top_logprobs:
            (entry or {}).clear()
        assert second.token_ids == tokens
        assert second.logprobs.top_logprobs[-1] == top
        assert all(entry for entry in second.logprobs.top_logprobs[1:])


def test_eos_of_the_tokenizer_config(shared, tmp_path):
    """If no config has eos_token_id, the eos_token of tokenizer_config.json ends a sequence."""
    folder = tmp_path / "stories"
    shutil.copytree(shared / "models" / "stories260K", folder)
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({key: config[key] for key in config if key != "eos_token_id"}))
    params = SamplingParams(allowed_token_ids=[2], max_tokens=5, seed=0)  # </s>
    (choice,) = LLM(folder).complete("Once", params).choices
    assert (choice.finish_reason, choice.stop_reason) == ("stop", 2)


def test_a_tokenizer_that_is_a_broken_link(shared, tmp_path):
    """A tokenizer.json that is a broken link raises a TokenizerError instead of counting as missing."""
    folder = tmp_path / "stories"
    shutil.copytree(shared / "models" / "stories260K", folder)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to(tmp_path / "gone")
    with pytest.raises(TokenizerError, match="tokenizer"):
        LLM(folder)


@pytest.mark.parametrize("prompt", [np.array(5), [np.array([[5]])], None, 5, b"abc", {"a": 1}])
def test_invalid_prompts_are_refused(prompt):
    """A prompt of a wrong type raises a PromptError."""
    with pytest.raises(PromptError):
        make_llm().complete(prompt)


@pytest.mark.parametrize("token_ids", [np.array(5), "abc", None])
def test_invalid_token_ids_are_refused(token_ids):
    """`logits` and `decode` accept token ids only."""
    with pytest.raises(PromptError, match="must be a sequence of token ids"):
        make_llm().logits(token_ids)
    if token_ids != "abc":
        with pytest.raises(ParameterError, match="token_ids"):
            make_llm().tokenizer.decode(token_ids)


def test_a_character_split_between_prompt_and_output():
    """A character split between prompt and output is whole with echo and U+FFFD without; its offset is its start."""
    llm = make_llm()
    prompt = list("aé".encode())
    params = {"allowed_token_ids": [prompt[-1]], "max_tokens": 1, "logprobs": 0, "seed": 0}
    echoed = llm.complete(prompt[:-1], SamplingParams(echo=True, **params)).choices[0]
    alone = llm.complete(prompt[:-1], SamplingParams(**params)).choices[0]
    assert (echoed.text, alone.text) == ("aé", "\ufffd")
    assert echoed.logprobs.text_offset == [0, 1, 1]
    assert alone.logprobs.text_offset == [1]


def test_a_call_from_another_thread_does_not_wait_for_many_steps():
    """While a thread runs a long completion, a call from another one has its token within a few steps, every time."""

    def script(token_ids, vocab_size):
        time.sleep(0.001)  # lets the other thread run, as the native forward pass does
        return hashed_logits()(token_ids, vocab_size)

    model = ScriptedModel(script, 50)
    llm = LLM.from_parts(model)
    params = SamplingParams(max_tokens=1000, ignore_eos=True, seed=1)
    long = threading.Thread(target=lambda: llm.complete([1], params))
    long.start()
    waits = []
    while model.num_forwards < 5:
        time.sleep(0.001)
    for token_id in range(2, 12):
        before = model.num_forwards
        llm.complete([token_id], SamplingParams(max_tokens=1, seed=1))
        waits.append(model.num_forwards - before)
    assert long.is_alive()  # or nothing was shown
    long.join()
    assert max(waits) <= 8, waits
