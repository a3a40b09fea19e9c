"""Flags for the model and its engine: the given ones reach LLM, and no others."""

import subprocess
import sys

import pytest

from decoding import llm
from decoding.cli.api_flags import model_folders
from decoding.cli.command import make_parser
from decoding.cli.model_flags import load_llm, share_seats


@pytest.fixture
def calls(monkeypatch):
    """Return a list of the folder and the arguments of every LLM that is created."""
    made = []

    class Stub:
        """A stand-in for LLM that records its arguments."""

        def __init__(self, folder, **arguments):
            made.append((folder, arguments))

    monkeypatch.setattr(llm, "LLM", Stub)
    return made


def loaded(calls, command, *flags):
    """Return the arguments of the LLM that a command loads."""
    options = make_parser().parse_args([*command.split(), *flags])
    load_llm("folder", options)
    return calls[-1]


@pytest.mark.parametrize("command", ["complete x", "explain x", "replay capsule", "batch in out", "serve"])
def test_flags_of_the_forward_pass_reach_every_command(calls, command):
    """Threads, backend and quantization reach LLM from every command, only if they are given."""
    assert loaded(calls, command) == ("folder", {})
    assert loaded(calls, command, "--num-threads=3", "--backend=numpy", "--quantization=q4_0") == (
        "folder",
        {"num_threads": 3, "backend": "numpy", "quantization": "q4_0"},
    )


def test_progress_on_a_terminal_only(calls, monkeypatch, capsys):
    """The progress of loading is shown on a terminal only, and erased at the end."""
    assert loaded(calls, "complete x") == ("folder", {})
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    _, arguments = loaded(calls, "complete x")
    for done in (1, 2, 3):
        arguments["progress"](done, 3)
    shown = "loading folder ...", "\x1b[K", "\x1b[Kloading weights:  33 %", "\x1b[Kloading weights:  66 %", "\x1b[K"
    assert capsys.readouterr().err.split("\r") == list(shown)


@pytest.mark.parametrize("command", ["batch in out", "serve"])
def test_the_engine_of_many_requests(calls, command):
    """Each engine setting has a flag of its name, and two have an older name as well."""
    flags = "--max-num-seqs=4 --max-num-batched-tokens=64 --kv-cache-bytes=1000 --no-prefix-cache"
    flags += " --num-scheduler-steps=3 --num-draft-tokens=7"
    expected = {
        "max_num_seqs": 4,
        "max_batched_tokens": 64,
        "kv_cache_bytes": 1000,
        "prefix_cache": False,
        "num_scheduler_steps": 3,
        "num_draft_tokens": 7,
    }
    assert loaded(calls, command, *flags.split()) == ("folder", expected)
    older = flags.replace("max-num-seqs", "max-running").replace("max-num-batched", "max-batched")
    assert loaded(calls, command, *older.split()) == ("folder", expected)


def test_speculation(calls):
    """--speculation takes prompt_lookup or the folder of a draft model, loaded with the same threads."""
    assert loaded(calls, "serve", "--speculation=prompt_lookup") == ("folder", {"speculation": "prompt_lookup"})
    _, arguments = loaded(calls, "serve", "--speculation=small", "--num-threads=2", "--max-num-seqs=9")
    assert calls[-2] == ("small", {"num_threads": 2})
    assert isinstance(arguments.pop("speculation"), llm.LLM)
    assert arguments == {"num_threads": 2, "max_num_seqs": 9}


@pytest.mark.parametrize(("flags", "share"), [("", 16), ("--max-num-seqs=1", 1), ("--max-num-seqs-per-request=32", 32)])
def test_the_share_of_one_request(calls, flags, share):
    """By default a server gives one request half of its sequences, at least one."""
    options = make_parser().parse_args(["serve", *flags.split()])
    share_seats(options)
    load_llm("folder", options)
    assert calls[-1][1]["max_num_seqs_per_request"] == share


def test_older_flags_are_hidden(capsys):
    """--help shows one name per setting."""
    with pytest.raises(SystemExit):
        make_parser().parse_args(["serve", "--help"])
    shown = capsys.readouterr().out
    assert "--max-num-seqs" in shown
    assert "--max-running" not in shown
    assert "--max-batched-tokens" not in shown


def test_the_parser_needs_no_heavy_module():
    """The flags and help of every command load neither numpy nor the kernel nor a web framework."""
    heavy = ("numpy", "decoding._kernel", "fastapi", "uvicorn", "tokenizers", "hypothesis")
    program = (
        "import sys; from decoding.cli.command import make_parser; make_parser().format_help();"
        f" print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_served_names_of_files():
    """A GGUF file is served under its name without ending or shard number, a folder under its name."""
    paths = {
        "models/tiny.Q4_1.gguf": "tiny.Q4_1",
        "models/tiny-00002-of-00003.gguf": "tiny",
        "models/tiny": "tiny",
    }
    for path, name in paths.items():
        assert model_folders(make_parser().parse_args(["serve", path])) == {name: path}
    named = make_parser().parse_args(["serve", "--model", "a=models/tiny.gguf"])
    assert model_folders(named) == {"a": "models/tiny.gguf"}
