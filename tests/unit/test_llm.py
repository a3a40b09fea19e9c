"""LLM: the front door, with scripted models and the real ones in shared/."""

import json
import shutil
import subprocess
import sys

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
    """An LLM of bytes; its EOS is token 256."""
    model = ScriptedModel(script or hashed_logits(), 256 + len(special), eos_token_ids=(256,), **config)
    return LLM.from_parts(model, byte_tokenizer(special=special))


def nan_at(length):
    """Logits that are NaN for sequences of this many tokens."""

    def script(token_ids, vocab_size):
        return np.full(vocab_size, np.nan if len(token_ids) == length else 0.0, np.float32)

    return script


@pytest.fixture(scope="module")
def stories(shared):
    """Karpathy's stories260K."""
    return LLM(shared / "models" / "stories260K")


def test_the_published_text(shared, stories):
    """At temperature 0 stories260K writes what its author published, from its start token."""
    published = (shared / "models" / "stories260K" / "PUBLISHED_GREEDY.txt").read_text()
    text = stories.complete("", SamplingParams(temperature=0.0, max_tokens=200)).choices[0].text
    assert text.startswith(published.rstrip("\n"))


def test_the_path_may_be_a_string(shared):
    """As in the README: LLM("path/to/checkpoint"), named after its folder."""
    assert LLM(str(shared / "models" / "babyllama-105")).complete("Once", GREEDY).model == "babyllama-105"


def test_a_real_model_streams_what_it_completes(stories):
    """With one request there is one batch shape, so even numpy's rounding is the same."""
    params = SamplingParams(seed=5, max_tokens=60, stop="\n", n=2)
    texts = ["", ""]
    for delta in stories.stream("Once upon a time", params):
        texts[delta.index] += delta.text
    assert texts == [choice.text for choice in stories.complete("Once upon a time", params).choices]


def test_the_text_of_prompt_and_completion_is_the_text_of_all_tokens(stories):
    """SentencePiece's leading space is right: echo is prompt + completion is the tokenizer's own decoding."""
    plain = stories.complete("Lily saw a", GREEDY).choices[0]
    echoed = stories.complete("Lily saw a", SamplingParams(temperature=0.0, max_tokens=5, echo=True)).choices[0]
    assert echoed.text == "Lily saw a" + plain.text == stories.tokenizer.decode(echoed.token_ids)


def test_one_prompt_or_a_list_of_them():
    """A list in, a list out; a list of ids is one prompt; parameters for all or for each."""
    llm = make_llm()
    one = llm.complete("ab", GREEDY)
    assert llm.complete([97, 98], GREEDY) == one
    assert llm.complete(["ab"], GREEDY) == llm.complete(["ab"], [GREEDY]) == [one]
    ids, text = llm.complete([[97, 98], "cd"], [GREEDY, SamplingParams(max_tokens=2, seed=1)])
    assert ids == one
    assert len(text.choices[0].token_ids) == 2
    assert llm.complete(np.array([97, 98]), GREEDY) == one


def test_default_parameters():
    """Without parameters: 16 tokens at most, a seed from the system, which replays the text."""
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
    """Each is a ParameterError that says what was expected."""
    for method in (make_llm().complete, make_llm().stream):
        with pytest.raises(ParameterError, match=match):
            method(prompt, params)


def test_errors_of_one_prompt_in_a_list_name_it():
    """The position in the list is in the message, and nothing is computed."""
    llm = make_llm()
    with pytest.raises(PromptError, match=r"prompt\[1\]\[0\]=999"):
        llm.complete(["a", [999]])
    with pytest.raises(PromptError, match=r"prompt\[1\]=3"):
        llm.complete(["a", 3])


def test_streaming_refuses_a_ranking():
    """What ranks cannot be streamed; the error comes at once, not with the first piece."""
    with pytest.raises(ParameterError, match=r"best_of=3.*n=2"):
        make_llm().stream("a", SamplingParams(n=2, best_of=3))


def test_stream_numbers_choices_prompt_by_prompt():
    """Prompts with different n: the numbers go on where the prompt before ends."""
    params = [SamplingParams(n=2, seed=1), SamplingParams(n=1, seed=1), SamplingParams(n=2, temperature=0.0)]
    deltas = list(make_llm().stream(["a", "b", "c"], params))
    assert sorted(d.index for d in deltas if d.finish_reason) == [0, 1, 2, 3, 4]


def test_fill_in_the_middle():
    """The model is fed markers and suffix; echo shows the prefix alone, with null for its first token."""
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
    """The error is raised when all is done; with on_error="status" the other results are there."""
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
    """What was generated comes first, then the error, raised or as the last piece."""
    llm = make_llm(nan_at(4))
    stream = llm.stream("abc")
    assert len(next(stream).token_ids) == 1
    with pytest.raises(NonFiniteLogitsError):
        list(stream)
    last = list(llm.stream("abc", on_error="status"))[-1]
    assert last.finish_reason == "error"
    assert isinstance(last.error, NonFiniteLogitsError)


def test_a_stream_can_be_left_at_any_time():
    """Closing stops the model at once, and the next request is not affected."""
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
    """Interleaved, they give what they give one after the other."""
    llm = make_llm()
    params = SamplingParams(seed=3, max_tokens=8, ignore_eos=True)
    expected = [list(llm.stream(prompt, params)) for prompt in ("ab", "cd")]
    pairs = list(zip(llm.stream("ab", params), llm.stream("cd", params), strict=True))
    assert [[one for one, _ in pairs], [other for _, other in pairs]] == expected


def test_without_a_tokenizer():
    """Token ids in and out; text is empty; what needs text is refused by name."""
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
    """A real checkpoint whose tokenizer is not there takes ids and gives the same ids."""
    source = shared / "models" / "stories260K"
    for name in ("config.json", "model.safetensors"):
        shutil.copy(source / name, tmp_path / name)
    assert (
        LLM(tmp_path).complete([1], GREEDY).choices[0].token_ids
        == LLM(source).complete([1], GREEDY).choices[0].token_ids
    )


def test_logits_are_the_bare_forward_pass():
    """Float32 [num_tokens, vocab]; row i is what the model says after token i."""
    script = hashed_logits()
    logits = make_llm().logits([97, 98, 99])
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, [script([97, 98, 99][:end], 260) for end in (1, 2, 3)])


@pytest.mark.parametrize(
    ("token_ids", "error"),
    [([], PromptError), ("ab", PromptError), ([260], PromptError), ([1] * 9, ContextLengthError)],
)
def test_logits_of_bad_token_ids(token_ids, error):
    """The errors are those of prompts."""
    with pytest.raises(error):
        make_llm(max_position_embeddings=8).logits(token_ids)


@pytest.mark.parametrize("value", [0, -1, True, 1.0, None, "4"])
def test_max_num_seqs(value):
    """At least one sequence must be able to run."""
    with pytest.raises(ParameterError, match="max_num_seqs="):
        LLM.from_parts(ScriptedModel(hashed_logits(), 4), max_num_seqs=value)


def test_no_such_model(tmp_path):
    """A folder that is not there, or no path at all, is an error of ours."""
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        LLM(tmp_path / "nowhere")
    with pytest.raises(ParameterError, match="model=5"):
        LLM(5)


def test_the_fingerprint_names_model_and_tokenizer(stories, shared):
    """Equal for the same files, different for others."""
    fingerprint = stories.system_fingerprint
    assert fingerprint == LLM(shared / "models" / "stories260K").system_fingerprint
    assert fingerprint != LLM(shared / "models" / "babyllama-105").system_fingerprint
    assert make_llm().system_fingerprint != make_llm(special=("<eos>",)).system_fingerprint


def test_the_fingerprint_does_not_depend_on_the_engine():
    """Settings and speculation change no bit of the output, so they are no part of it; a profile is."""

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
    """LLM(path, num_threads=..., backend=...) passes both on as they are, and the backend is in the fingerprint."""
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
def test_a_profile_is_that_of_the_sampler(processors):
    """With profile="transformers", top_k keeps ties, and the bias comes before the penalty, with processors too."""

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
    """Requests of several profiles that share steps get what each gets alone, with drafts too."""
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


def test_seeds_that_the_engine_chooses_survive_json():
    """They are below 2**53, so that JavaScript and jq do not round them; given ones may have 64 bits."""
    seeds = [make_llm().complete("a", SamplingParams(max_tokens=1)).choices[0].seed for _ in range(50)]
    assert all(0 <= seed < 2**53 for seed in seeds)
    assert max(seeds) > 2**50
    assert make_llm().complete("a", SamplingParams(max_tokens=1, seed=2**63 - 1)).choices[0].seed == 2**63 - 1


def test_held_text_comes_before_the_error_of_a_choice():
    """What waits for the rest of a stop string is shown, in a piece without the error."""

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
    """The ids of the model's configs and the tokenizer's eos_token, where they disagree; it is logged."""
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
    """A child that is forked while another thread decodes has a free engine of its own, with the same results."""
    command = [sys.executable, "-W", "ignore", "-c", FORKING]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "0\n"


def test_the_bundled_model():
    """LLM() completes Python and fills in the middle, out of the box, with a replayable seed."""
    llm = LLM()
    params = SamplingParams(max_tokens=24, temperature=0.8, top_p=0.95, seed=7, n=2, best_of=4, logprobs=5)
    result = llm.complete("def add(a, b):", params)
    assert [choice.seed for choice in result.choices] == [7, 7]
    assert llm.complete("def add(a, b):", params) == result
    assert all(choice.text and len(choice.logprobs.top_logprobs[0]) >= 5 for choice in result.choices)
    assert llm.complete("def f(", SamplingParams(suffix="):\n", seed=1)).usage.completion_tokens > 0


def test_scripted_replies():
    """A reply scripted token by token comes out as text, and a stop string ends it."""
    llm = make_llm(fixed_reply(b"hello world", prompt_length=2))
    choice = llm.complete("ab", SamplingParams(temperature=0.0, stop=" wor")).choices[0]
    assert (choice.text, choice.stop_reason) == ("hello", " wor")


def test_results_share_nothing():
    """Lists in a result belong to the caller, also where choices came of one computation or echo one prompt."""
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


def test_the_tokenizer_names_the_end_where_the_config_does_not(shared, tmp_path):
    """Without eos_token_id in either config, tokenizer_config.json's eos_token ends a sequence."""
    folder = tmp_path / "stories"
    shutil.copytree(shared / "models" / "stories260K", folder)
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({key: config[key] for key in config if key != "eos_token_id"}))
    params = SamplingParams(allowed_token_ids=[2], max_tokens=5, seed=0)  # </s>
    (choice,) = LLM(folder).complete("Once", params).choices
    assert (choice.finish_reason, choice.stop_reason) == ("stop", 2)


def test_a_tokenizer_that_is_a_link_to_nowhere(shared, tmp_path):
    """It is broken, not missing."""
    folder = tmp_path / "stories"
    shutil.copytree(shared / "models" / "stories260K", folder)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to(tmp_path / "gone")
    with pytest.raises(TokenizerError, match="tokenizer"):
        LLM(folder)


@pytest.mark.parametrize("prompt", [np.array(5), [np.array([[5]])], None, 5, b"abc", {"a": 1}])
def test_what_is_no_prompt(prompt):
    """A PromptError, whatever it is."""
    with pytest.raises(PromptError):
        make_llm().complete(prompt)


@pytest.mark.parametrize("token_ids", [np.array(5), "abc", None])
def test_what_is_no_list_of_token_ids(token_ids):
    """`logits` takes token ids only."""
    with pytest.raises(PromptError, match="must be a sequence of token ids"):
        make_llm().logits(token_ids)
    if token_ids != "abc":
        with pytest.raises(ParameterError, match="token_ids"):
            make_llm().tokenizer.decode(token_ids)


def test_a_character_split_between_prompt_and_output():
    """With echo it is one character; without, its last bytes are no character; its offset is its start either way."""
    llm = make_llm()
    prompt = list("aé".encode())
    params = {"allowed_token_ids": [prompt[-1]], "max_tokens": 1, "logprobs": 0, "seed": 0}
    echoed = llm.complete(prompt[:-1], SamplingParams(echo=True, **params)).choices[0]
    alone = llm.complete(prompt[:-1], SamplingParams(**params)).choices[0]
    assert (echoed.text, alone.text) == ("aé", "\ufffd")
    assert echoed.logprobs.text_offset == [0, 1, 1]
    assert alone.logprobs.text_offset == [1]
