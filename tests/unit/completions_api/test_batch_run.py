"""Runs over batch files: every line is answered once, whatever an earlier run left in the output."""

import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from decoding.chat import ChatFormat
from decoding.completions_api.batch_run import BatchRun
from decoding.completions_api.settings import ApiSettings, Limits
from decoding.errors import ParameterError
from decoding.llm import LLM
from decoding.params import SamplingParams
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits


def make_llm(script=None):
    """Return an LLM over all bytes and an EOS."""
    model = ScriptedModel(script or hashed_logits(), 257, eos_token_ids=(256,))
    return LLM.from_parts(model, byte_tokenizer(special=["<eos>"]), max_num_seqs=4)


def line(custom_id, model="custom", **body):
    """Return one line of an input file."""
    body = {"model": model, "prompt": f"prompt {custom_id}", "max_tokens": 5, "seed": 1, **body}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": body}) + "\n"


def run(tmp_path, text, llm=None):
    """Run a batch. Return its counts and the lines of the output."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(text)
    counts = BatchRun(llm or make_llm(), source, target).run(lambda counts: None)
    return counts, [json.loads(one) for one in target.read_text().splitlines()]


def test_every_request_gets_the_same_answer_as_alone(tmp_path):
    """Each of 300 requests gets the same answer as alone, matched by custom_id."""
    counts, answers = run(tmp_path, "".join(line(f"r{i}", max_tokens=i % 7, n=1 + i % 3) for i in range(300)))
    assert (counts.num_lines, counts.num_answered, counts.num_failed) == (300, 300, 0)
    assert {answer["custom_id"] for answer in answers} == {f"r{i}" for i in range(300)}
    llm = make_llm()
    for answer in answers[:20]:
        number = int(answer["custom_id"][1:])
        params = SamplingParams(max_tokens=number % 7, n=1 + number % 3, seed=1)
        expected = llm.complete(f"prompt r{number}", params)
        assert answer["response"]["status_code"] == 200
        assert answer["error"] is None
        choices = answer["response"]["body"]["choices"]
        assert [choice["text"] for choice in choices] == [choice.text for choice in expected.choices]


def test_bad_lines_get_an_error_and_others_are_computed(tmp_path):
    """Bad lines get an error, refused requests get the API's answer, and the other lines are computed."""

    def script(token_ids, vocab_size):
        return hashed_logits()(token_ids, vocab_size) * (float("nan") if token_ids[:3] == [110, 97, 110] else 1)

    text = line("a") + "nonsense\n\n" + '{"custom_id": "b"}\n' + line("c", model="gpt") + line("d", n=0) + line("a")
    text += line("e", prompt="nan") + line("f", prompt="x" * 2000) + line("g").rstrip("\n")
    counts, answers = run(tmp_path, text, make_llm(script))
    assert (counts.num_answered, counts.num_failed) == (9, 7)
    statuses = {one["custom_id"]: one["response"]["status_code"] for one in answers if one["response"]}
    assert statuses == {"a": 200, "c": 404, "d": 400, "e": 500, "f": 400, "g": 200}
    assert [one["custom_id"] for one in answers if one["response"] is None] == [None, "b", "a"]


def test_a_resumed_run_remembers_failures(tmp_path):
    """Lines that failed in an earlier run count as failed, unless they are no longer in the input."""
    text = line("a") + "nonsense\n" + line("b", n=0) + line("c", model="gpt")
    counts, _ = run(tmp_path, text)
    assert (counts.num_answered, counts.num_skipped, counts.num_failed) == (4, 0, 3)
    counts, _ = run(tmp_path, text)
    assert (counts.num_answered, counts.num_skipped, counts.num_failed) == (0, 4, 3)
    counts, _ = run(tmp_path, line("a") + line("b", n=0) + line("new"))
    assert (counts.num_lines, counts.num_answered, counts.num_skipped, counts.num_failed) == (3, 1, 2, 1)


def test_a_byte_order_mark_is_left_out(tmp_path):
    """A byte order mark before the first line is ignored."""
    counts, answers = run(tmp_path, "\ufeff" + line("a") + line("b"))
    assert (counts.num_answered, counts.num_failed) == (2, 0)
    assert {answer["custom_id"] for answer in answers} == {"a", "b"}


def test_several_models_settings_and_hints(tmp_path):
    """Each request uses the model that it names and the given settings, and a hint is reported once."""
    source, target, hints = tmp_path / "in.jsonl", tmp_path / "out.jsonl", []
    models = {"one": make_llm(), "two": make_llm(hashed_logits(5))}
    rows = [line(f"{name}-{i}", model=name, repetition_penalty=1.1) for i in range(3) for name in models]
    rows += [line("top", model="one", logprobs=9), line("profile", model="two", profile="llama_cpp")]
    rows += [line("other", model="three"), line("refused", model="one", profile="vllm")]
    source.write_text("".join(rows))
    settings = ApiSettings(limits=Limits(max_logprobs=9), profiles=("llama_cpp",))
    counts = BatchRun(models, source, target, settings, warn=hints.append).run(lambda counts: None)
    assert (counts.num_answered, counts.num_failed) == (10, 2)
    (hint,) = hints
    assert "repetition_penalty from 1.0 to 1.5" in hint
    answers = {one["custom_id"]: one["response"] for one in map(json.loads, target.read_text().splitlines())}
    params = SamplingParams(max_tokens=5, seed=1, context_frequency_penalty=1.1)
    for name, llm in models.items():
        body = answers[f"{name}-2"]["body"]
        assert body["model"] == name
        assert body["choices"][0]["text"] == llm.complete(f"prompt {name}-2", params).choices[0].text
    assert len(answers["top"]["body"]["choices"][0]["logprobs"]["top_logprobs"][0]) >= 9
    assert answers["profile"]["body"]["system_fingerprint"] == models["two"].fingerprint("llama_cpp")
    assert "profile='vllm': must be 'llama_cpp'" in answers["refused"]["body"]["error"]["message"]


def test_a_second_run_completes_the_output(tmp_path):
    """A second run completes an output that was cut anywhere, and leaves a complete one unchanged."""
    text = "".join(line(f"r{i}") for i in range(5)) + "nonsense\n" + line("r0")
    _, whole = run(tmp_path, text)
    target = tmp_path / "out.jsonl"
    data = target.read_bytes()
    ends = [0, 1, data.index(b"\n"), data.index(b"\n") + 1, len(data) - 5, len(data) - 1, len(data)]
    for end in ends:
        target.write_bytes(data[:end])
        counts, answers = run(tmp_path, text)
        assert counts.num_answered + counts.num_skipped == 7
        assert sorted(str(one["custom_id"]) for one in answers) == sorted(str(one["custom_id"]) for one in whole)
    assert target.read_bytes() == data


@pytest.mark.parametrize("text", ["dear diary", '{"id": "mine"}', "\n", " "])
def test_a_line_without_a_line_break(tmp_path, text):
    """An existing file without a line break, which is no batch output, is refused and keeps its text."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(line("a"))
    target.write_text(text)
    with pytest.raises(ParameterError, match="output="):
        BatchRun(make_llm(), source, target)
    assert target.read_text() == text


def test_leaving_frees_the_engine(tmp_path):
    """An exception during the run frees the engine and leaves whole lines in the output."""
    llm = make_llm()
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(line(f"r{i}", max_tokens=50) for i in range(20)))

    def interrupt(counts):
        if counts.num_answered:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        BatchRun(llm, source, target).run(interrupt)
    assert (llm.stats.num_running, llm.stats.num_waiting, llm.stats.num_blocks_live) == (0, 0, 0)
    assert all(json.loads(one)["response"] for one in target.read_text().splitlines())


def test_invalid_inputs_and_outputs_are_refused(tmp_path):
    """A missing input, the input as output, or an output of another kind is refused and not overwritten."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(line("a"))
    target.write_text("dear diary\n")
    for paths, match in (
        ((tmp_path / "gone", target), "input="),
        ((tmp_path, target), "input="),
        ((source, source), "must not be the input"),
        ((source, target), "line 1 is not a line of one"),
    ):
        with pytest.raises(ParameterError, match=match):
            BatchRun(make_llm(), *paths)
    assert target.read_text() == "dear diary\n"


def test_the_command_survives_ctrl_c(tmp_path):
    """`decoding batch` interrupted by SIGINT exits with 130, and a second run completes the output."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    text = "".join(line(f"r{i}", model="bundled", max_tokens=2 if i < 4 else 400, ignore_eos=True) for i in range(24))
    source.write_text(text)
    command = [sys.executable, "-m", "decoding", "batch", str(source), str(target)]
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore SIGINT
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    for _ in range(2400):
        if target.exists() and target.stat().st_size:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    try:
        _, stderr = process.communicate(timeout=120)
    finally:
        process.kill()  # if it has not ended by itself
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert 0 < len(target.read_text().splitlines()) < 24
    source.write_text(text.replace('"max_tokens": 400', '"max_tokens": 3'))
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "were there already" in done.stderr
    assert len({json.loads(one)["custom_id"] for one in target.read_text().splitlines()}) == 24


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_output_that_is_no_file_is_not_read(tmp_path):
    """A device may be the output; a full disk raises OSError and leaves nothing running."""
    (tmp_path / "in.jsonl").write_text(line("a"))
    llm = make_llm()
    with pytest.raises(OSError, match="No space left"):
        BatchRun(llm, tmp_path / "in.jsonl", Path("/dev/full")).run(lambda counts: None)
    assert (llm.stats.num_running, llm.stats.num_waiting, llm.stats.num_blocks_live) == (0, 0, 0)
    assert BatchRun(llm, tmp_path / "in.jsonl", Path("/dev/null")).run(lambda counts: None).num_answered == 1


def test_two_runs_never_write_one_output(tmp_path):
    """A second run on the same output is refused until the first has ended."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(line("a") + line("b"))
    first = BatchRun(make_llm(), source, target)
    command = [sys.executable, "-m", "decoding", "batch", source, target]
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode != 0
    assert "must not be in use as the output of another run" in second.stderr
    assert first.run(lambda counts: None).num_answered == 2
    assert BatchRun(make_llm(), source, target).run(lambda counts: None).num_skipped == 2


def test_chat_requests(tmp_path):
    """Lines for the chat API get chat answers beside other lines, and bad ones get their own errors."""
    template = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    llm = make_llm()
    llm.chat_format = ChatFormat(llm.tokenizer, chat_template=template)
    messages = [{"role": "user", "content": "Hello"}]
    bodies = {
        "a": {"messages": messages, "max_tokens": 4, "logprobs": True, "top_logprobs": 2},
        "b": {"messages": [{"role": "user"}]},
        "c": {"messages": messages, "prompt": "x"},
        "d": {"messages": messages, "stream": True},
    }
    lines = [
        json.dumps({"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}) + "\n"
        for name, fields in bodies.items()
        for body in [{"model": "custom", "seed": 1, **fields}]
    ]
    counts, answers = run(tmp_path, "".join([line("e"), *lines]), llm)
    assert (counts.num_answered, counts.num_failed) == (5, 3)
    answer = {one["custom_id"]: one["response"] for one in answers}
    body = answer["a"]["body"]
    expected = llm.chat(messages, SamplingParams(max_tokens=4, seed=1)).choices[0]
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["content"] == expected.text
    assert [len(one["top_logprobs"]) for one in body["choices"][0]["logprobs"]["content"]] == [2] * 4
    assert answer["e"]["body"]["object"] == "text_completion"
    errors = {name: answer[name]["body"]["error"]["param"] for name in "bcd"}
    assert errors == {"b": "messages", "c": "prompt", "d": "stream"}


def test_grammars_in_a_batch(tmp_path):
    """A line may have a grammar, and a line with a bad grammar gets its own 400."""
    pytest.importorskip("llguidance")
    good = line("good", structured_outputs={"regex": "[ab]{3}"}, max_tokens=9)
    _, answers = run(tmp_path, good + line("bad", structured_outputs={"regex": "("}) + line("plain"))
    by_id = {answer["custom_id"]: answer["response"] for answer in answers}
    assert set(by_id["good"]["body"]["choices"][0]["text"]) <= {"a", "b"}
    assert (by_id["bad"]["status_code"], by_id["bad"]["body"]["error"]["param"]) == (400, "structured_outputs")
    assert by_id["plain"]["status_code"] == 200
