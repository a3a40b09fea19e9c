"""Batch files: every line answered once, in whatever state an earlier run left the output."""

import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from decoding.completions_api.batch_run import BatchRun
from decoding.errors import ParameterError
from decoding.llm import LLM
from decoding.params import SamplingParams
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits


def make_llm(script=None):
    """Bytes and an EOS."""
    model = ScriptedModel(script or hashed_logits(), 257, eos_token_ids=(256,))
    return LLM.from_parts(model, byte_tokenizer(special=["<eos>"]), max_num_seqs=4)


def line(custom_id, model="custom", **body):
    """One line of an input file."""
    body = {"model": model, "prompt": f"prompt {custom_id}", "max_tokens": 5, "seed": 1, **body}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": body}) + "\n"


def run(tmp_path, text, llm=None):
    """The counts, and the output's lines."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(text)
    counts = BatchRun(llm or make_llm(), source, target).run(lambda counts: None)
    return counts, [json.loads(one) for one in target.read_text().splitlines()]


def test_every_request_gets_what_it_gets_alone(tmp_path):
    """300 requests of all sizes, more than are open at once; answers are matched by custom_id."""
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


def test_what_is_wrong_is_answered_and_the_rest_goes_on(tmp_path):
    """Lines that are no request have an error; requests that are refused have the API's answer."""

    def script(token_ids, vocab_size):
        return hashed_logits()(token_ids, vocab_size) * (float("nan") if token_ids[:3] == [110, 97, 110] else 1)

    text = line("a") + "nonsense\n\n" + '{"custom_id": "b"}\n' + line("c", model="gpt") + line("d", n=0) + line("a")
    text += line("e", prompt="nan") + line("f", prompt="x" * 2000) + line("g").rstrip("\n")
    counts, answers = run(tmp_path, text, make_llm(script))
    assert (counts.num_answered, counts.num_failed) == (9, 7)
    statuses = {one["custom_id"]: one["response"]["status_code"] for one in answers if one["response"]}
    assert statuses == {"a": 200, "c": 404, "d": 400, "e": 500, "f": 400, "g": 200}
    assert [one["custom_id"] for one in answers if one["response"] is None] == [None, "b", "a"]


def test_a_second_run_answers_what_is_missing(tmp_path):
    """An output that ends anywhere, within a line too, is completed; one that is complete stays as it is."""
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


def test_leaving_frees_the_engine(tmp_path):
    """An exception from anywhere (Ctrl-C, a full disk) leaves nothing in the engine, and whole lines in the output."""
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


def test_what_is_no_batch(tmp_path):
    """No input, the input as output, an output that is something else: nothing is overwritten."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(line("a"))
    target.write_text("dear diary\n")
    for paths, match in (
        ((tmp_path / "gone", target), "input="),
        ((tmp_path, target), "input="),
        ((source, source), "must not be the input"),
        ((source, target), "line 1 is none"),
    ):
        with pytest.raises(ParameterError, match=match):
            BatchRun(make_llm(), *paths)
    assert target.read_text() == "dear diary\n"


def test_the_command_survives_ctrl_c(tmp_path):
    """`decoding batch` with the bundled model: interrupted by a real signal, started again, complete."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    text = "".join(line(f"r{i}", model="bundled", max_tokens=2 if i < 4 else 400, ignore_eos=True) for i in range(24))
    source.write_text(text)
    command = [sys.executable, "-m", "decoding", "batch", str(source), str(target)]
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs begin by ignoring Ctrl-C
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    for _ in range(600):
        if target.exists() and target.stat().st_size:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    try:
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()  # where it did not end by itself
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert 0 < len(target.read_text().splitlines()) < 24
    source.write_text(text.replace('"max_tokens": 400', '"max_tokens": 3'))
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "were there already" in done.stderr
    assert len({json.loads(one)["custom_id"] for one in target.read_text().splitlines()}) == 24


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_output_that_is_no_file_is_not_read(tmp_path):
    """What a device has is no output of a batch, nor does it end; a full disk is said, and leaves nothing running."""
    (tmp_path / "in.jsonl").write_text(line("a"))
    llm = make_llm()
    with pytest.raises(OSError, match="No space left"):
        BatchRun(llm, tmp_path / "in.jsonl", Path("/dev/full")).run(lambda counts: None)
    assert (llm.stats.num_running, llm.stats.num_waiting, llm.stats.num_blocks_live) == (0, 0, 0)
    assert BatchRun(llm, tmp_path / "in.jsonl", Path("/dev/null")).run(lambda counts: None).num_answered == 1


def test_two_runs_never_write_one_output(tmp_path):
    """The second is refused, and changes nothing, as long as the first is there; after that it goes on."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(line("a") + line("b"))
    first = BatchRun(make_llm(), source, target)
    command = [sys.executable, "-m", "decoding", "batch", source, target]
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode != 0
    assert "must not be the output of another run at the same time" in second.stderr
    assert first.run(lambda counts: None).num_answered == 2
    assert BatchRun(make_llm(), source, target).run(lambda counts: None).num_skipped == 2


def test_grammars_in_a_batch(tmp_path):
    """A line may have a grammar; one with a bad grammar gets its own 400."""
    pytest.importorskip("llguidance")
    good = line("good", structured_outputs={"regex": "[ab]{3}"}, max_tokens=9)
    _, answers = run(tmp_path, good + line("bad", structured_outputs={"regex": "("}) + line("plain"))
    by_id = {answer["custom_id"]: answer["response"] for answer in answers}
    assert set(by_id["good"]["body"]["choices"][0]["text"]) <= {"a", "b"}
    assert (by_id["bad"]["status_code"], by_id["bad"]["body"]["error"]["param"]) == (400, "structured_outputs")
    assert by_id["plain"]["status_code"] == 200
