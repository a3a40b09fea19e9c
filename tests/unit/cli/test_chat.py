"""Tests of `decoding chat`: a conversation on pipes and on a terminal."""

import io
import os
import pty
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from decoding import cli, llm
from decoding.chat import ChatFormat
from decoding.params import SamplingParams
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
FLAGS = ("--max-tokens=6", "--allowed-token-ids=97,98,99,100")
PARAMS = {"max_tokens": 6, "allowed_token_ids": [97, 98, 99, 100]}


@pytest.fixture
def make(monkeypatch):
    """Replace LLM(path) by a scripted model with a chat template."""

    def made(path=None):
        one = real.from_parts(
            ScriptedModel(hashed_logits(), 260, max_position_embeddings=200), byte_tokenizer(), name=str(path)
        )
        one.chat_format = ChatFormat(one.tokenizer, chat_template=TEMPLATE)
        return one

    real = llm.LLM
    monkeypatch.setattr(llm, "LLM", made)
    return made


@pytest.fixture
def run(capsys, monkeypatch):
    """Return a function that runs `decoding chat` on a text as stdin and returns (exit code, stdout, stderr)."""

    def call(text, *arguments):
        stdin = SimpleNamespace(buffer=io.BytesIO(text), isatty=lambda: False)
        monkeypatch.setattr(sys, "stdin", stdin)
        code = cli.main(["chat", *FLAGS, *arguments])
        return code, *capsys.readouterr()

    return call


def replies(model, texts, system=None, **params):
    """Yield the library's replies to the messages, each after the conversation so far."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    for text in texts:
        messages.append({"role": "user", "content": text})
        (choice,) = model.chat(messages, SamplingParams(**PARAMS, **params)).choices
        messages.append({"role": "assistant", "content": choice.text})
        yield choice.text


def test_every_line_is_a_message(make, run):
    """Each line gets a reply that sees the conversation, and the printed seed replays all replies."""
    code, out, err = run(b"Hello\n\nAnd now?\n", "--system=Be nice.")
    assert code == 0
    seed = int(err.removeprefix("seed: "))
    assert out.splitlines() == list(replies(make(), ["Hello", "And now?"], "Be nice.", seed=seed))
    assert run(b"Hello\nAnd now?\n", "--system=Be nice.", f"--seed={seed}")[1] == out


def test_commands_of_a_conversation(make, run):
    """/reset removes all messages but the system message, and /exit ends the conversation."""
    _, out, _ = run(b"Hello\n/reset\nHello\n /exit \nHello\n", "--seed=3")
    (reply,) = replies(make(), ["Hello"], seed=3)
    assert out.splitlines() == [reply, reply]


@pytest.mark.parametrize(
    ("text", "flags", "told"),
    [
        (b"\xff\n", (), "messages from stdin: must be UTF-8 (byte 0 of a line is not)"),
        (b"x" * 300, (), "messages="),
        (b"x", ("--n=2",), "n=2: must be 1 in a conversation"),
        (b"x", ("--echo",), "echo=True: must be off in a conversation"),
        (b"x", ("--suffix=y",), "suffix='y': must be absent in a conversation"),
        (b"x", ("--chat-template=/nowhere",), "--chat-template /nowhere: cannot be read"),
    ],
)
def test_errors(make, run, text, flags, told):
    """On a pipe every error ends the command with one line and exit code 2."""
    code, _, err = run(text, *flags)
    assert code == 2
    assert told in err.splitlines()[-1]


def test_a_model_without_a_template(monkeypatch, run):
    """A model without a chat template is an error before the first message is read."""
    monkeypatch.setattr(
        llm, "LLM", lambda path=None: real.from_parts(ScriptedModel(hashed_logits(), 260), byte_tokenizer())
    )
    code, out, err = run(b"x")
    assert (code, out) == (2, "")
    assert "no default chat template" in err


real = llm.LLM


def test_on_a_terminal(tmp_path):
    """On a terminal Ctrl-C ends the reply only, and an error leaves the conversation unchanged."""
    template = tmp_path / "template.jinja"
    template.write_text(TEMPLATE)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "decoding", "chat", f"--chat-template={template}", "--seed=1", "--ignore-eos"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    seen = b""

    def until(text, times=1):
        nonlocal seen
        deadline = time.monotonic() + 120
        while seen.count(text) < times:
            assert time.monotonic() < deadline, seen
            seen += os.read(ours, 4096)

    until(b"> ")
    os.write(ours, b"Hello\n")
    until(b"Hello\r\n")
    while seen.endswith(b"Hello\r\n"):
        seen += os.read(ours, 4096)
    process.send_signal(signal.SIGINT)
    until(b"> ", 2)
    os.write(ours, b"y" * 3500 + b"\n")
    until(b"error: messages=")
    until(b"> ", 3)
    os.write(ours, b"/exit\n")
    until(b"seed: 1")
    assert process.wait(60) == 0
    os.close(ours)
