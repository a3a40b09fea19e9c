"""`decoding complete --color`: the text is the same, and each token has the colour of its probability."""

import json
import math
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from decoding import SamplingParams, cli, llm
from decoding.cli.colour import paint_of
from decoding.presentation.scale import LEVELS, level_of
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits

LETTERS = ",".join(str(byte) for byte in b"abcdefgh \n")
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
COMMAND = [str(Path(sys.executable).with_name("decoding")), "complete", "def f(", "--max-tokens=12", "--seed=1"]


@pytest.fixture(autouse=True)
def scripted(monkeypatch):
    """LLM(path) is a scripted model, and the terminal has 16 million colours."""

    def make(path=None, **_):
        model = ScriptedModel(hashed_logits(scale=3.0), 257, eos_token_ids=(256,))
        return real.from_parts(model, byte_tokenizer(special=["<eos>"]), name=str(path))

    real = llm.LLM
    monkeypatch.setattr(llm, "LLM", make)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return make


@pytest.fixture
def run(capsys):
    """Run `decoding complete ...` drawing letters only; returns (stdout, stderr)."""

    def call(*arguments):
        assert cli.main(["complete", "ab", "--seed=1", f"--allowed-token-ids={LETTERS}", *arguments]) == 0
        return capsys.readouterr()

    return call


def coloured_runs(out):
    """Return (text, background) of every stretch of output; the background is None without colours."""
    runs, background = [], None
    for part in re.split(r"(\x1b\[[0-9;]*m)", out):
        if ESCAPES.fullmatch(part):
            found = re.search(r"48;2;(\d+);(\d+);(\d+)", part)
            background = tuple(map(int, found.groups())) if found else None
        elif part:
            runs.append((part, background))
    return runs


def test_colours_are_those_of_the_probabilities(run, scripted):
    """Character by character: every letter is a token, and its background is that of its probability."""
    out, _ = run("--color=always", "--max-tokens=60")
    allowed = [int(token_id) for token_id in LETTERS.split(",")]
    params = SamplingParams(seed=1, max_tokens=60, logprobs=0, allowed_token_ids=allowed)
    choice = scripted().complete("ab", params).choices[0]
    shown = [(char, background) for text, background in coloured_runs(out) for char in text][:-1]
    levels = [level_of(math.exp(value)) for value in choice.logprobs.token_logprobs]
    expected = [level.terminal_background for level in levels]
    assert "".join(char for char, _ in shown) == choice.text
    assert all(
        background == (None if char == "\n" else wanted)
        for (char, background), wanted in zip(shown, expected, strict=True)
    )
    assert len(set(expected)) > 2


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--stop=gh", "--stop=cda"),
        ("--n=3",),
        ("--best-of=3",),
        ("--echo",),
        ("--logprobs=2",),
        ("--beam-width=2",),
        ("--token-healing",),
    ],
)
def test_the_text_does_not_change(run, arguments, capsys):
    """Without escape sequences the output is that without colours, on stdout and on stderr but for the command."""
    if arguments == ("--beam-width=2",):
        outputs = []
        for color in ("always", "never"):
            assert cli.main(["complete", "ab", "--max-tokens=4", *arguments, f"--color={color}"]) == 0
            outputs.append(capsys.readouterr())
        coloured, plain = outputs
    else:
        coloured, plain = (run("--max-tokens=40", *arguments, f"--color={color}") for color in ("always", "never"))
    assert ESCAPES.search(coloured.out)
    assert ESCAPES.sub("", coloured.out) == plain.out
    assert coloured.err.replace("always", "never") == plain.err


def test_it_streams_token_by_token(monkeypatch, scripted):
    """Each piece is written as it is released; text that a stop string may take back is not written before."""
    pieces = []

    class Terminal:
        encoding = "utf-8"

        def write(self, text):
            pieces.append(ESCAPES.sub("", text))

        def flush(self):
            pass

    monkeypatch.setattr(sys, "stdout", Terminal())
    arguments = ["--seed=1", f"--allowed-token-ids={LETTERS}", "--max-tokens=30", "--stop=hh", "--color=always"]
    assert cli.main(["complete", "ab", *arguments]) == 0
    allowed = [int(token_id) for token_id in LETTERS.split(",")]
    params = SamplingParams(seed=1, max_tokens=30, allowed_token_ids=allowed, stop="hh")
    assert pieces == [*(delta.text for delta in scripted().stream("ab", params)), "\n"]
    assert len(pieces) > 10


def test_json_has_no_colours(run):
    """--json prints the object that it prints without --color, and a note says that it has no colours."""
    coloured, plain = (run("--json", *arguments) for arguments in (["--color=always"], []))
    without = [
        {key: value for key, value in json.loads(out).items() if key != "id"} for out in (coloured.out, plain.out)
    ]
    for one in without:
        one.pop("created")
    assert without[0] == without[1]
    assert "note: --color: JSON has no colours" in coloured.err


def test_alone_the_flag_is_auto_and_takes_no_value(run):
    """A prompt may follow it; a stdout that is no terminal gets no colours, and a note says so."""
    assert cli.main(["complete", "--color", "ab", "--max-tokens=1"]) == 0
    out, err = run("--color")
    assert not ESCAPES.search(out)
    assert "note: --color: standard output is not a terminal" in err


def test_another_word_is_an_error(capsys):
    """The error names the words."""
    assert cli.main(["complete", "ab", "--color=purple"]) == 2
    assert "--color=auto/--color=always/--color=never" in capsys.readouterr().err


def test_without_rich(monkeypatch, capsys):
    """The error names the extra, before a model is loaded; without the flag rich is not needed."""
    for name in [name for name in sys.modules if name.split(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    assert cli.main(["complete", "ab", "--color=always"]) == 2
    assert "--color: needs the package rich: pip install 'decoding-engine[color]'" in capsys.readouterr().err
    assert cli.main(["complete", "ab", "--max-tokens=1"]) == 0


@pytest.mark.parametrize(
    ("color", "term"), [("truecolor", "xterm"), ("", "xterm-256color"), ("", "xterm"), ("", "dumb")]
)
def test_every_terminal_has_colours_of_its_own(monkeypatch, color, term):
    """16 million, 256 or 16 colours: likely tokens have none, and the least likely differ from the others."""
    monkeypatch.setenv("COLORTERM", color)
    monkeypatch.setenv("TERM", term)
    paint = paint_of("always")
    painted = [paint("x", level) for level in LEVELS]
    assert painted[0] == "x"
    assert all(ESCAPES.sub("", text) == "x" != text for text in painted[1:])
    assert painted[1] != painted[-1]
    assert paint("a\n\nb", LEVELS[-1]).split("\n") == [paint("a", LEVELS[-1]), "", paint("b", LEVELS[-1])]


def on_terminal(*arguments, **environment):
    """Run the real command on a terminal; return what it writes to stdout."""
    leader, follower = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", **environment}
    process = subprocess.Popen([*COMMAND, *arguments], stdout=follower, stderr=subprocess.DEVNULL, env=env)
    os.close(follower)
    written = b""
    while chunk := read_some(leader):
        written += chunk
    os.close(leader)
    assert process.wait() == 0
    return written.decode().replace("\r\n", "\n")


def read_some(descriptor):
    """Return bytes from a terminal; none at its end, which Linux reports as an error."""
    try:
        return os.read(descriptor, 4096)
    except OSError:
        return b""


def test_a_real_terminal():
    """The word auto colours a terminal, unless NO_COLOR is set (an empty one is not) or --color is absent."""
    plain = on_terminal()
    assert not ESCAPES.search(plain)
    for environment in ({}, {"NO_COLOR": ""}):
        coloured = on_terminal("--color", **environment)
        assert ESCAPES.search(coloured)
        assert ESCAPES.sub("", coloured) == plain
    assert on_terminal("--color", NO_COLOR="1") == plain
    assert ESCAPES.search(on_terminal("--color=always", NO_COLOR="1"))
