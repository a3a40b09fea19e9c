"""Errors of the command line end it with one line on stderr and exit code 2, never with a traceback."""

import json
import os
import resource
import signal
import subprocess
import sys

import pytest

from decoding import cli
from decoding.model_loading import bundled_model_folder

BUNDLED = str(bundled_model_folder())
BUNDLED_WEIGHTS = f"{BUNDLED}/model.safetensors"
COMMAND = [sys.executable, "-m", "decoding", "complete"]


def start(*arguments, **settings):
    """Start the real command with the bundled model in a new process."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    settings.setdefault("preexec_fn", heed_ctrl_c)
    return subprocess.Popen([*COMMAND, *arguments], **{**pipes, **settings})


def heed_ctrl_c():
    """Restore the default handler of SIGINT, which background jobs of a shell and their children ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(*arguments, **settings):
    """Run the command and return its exit code, stdout and stderr."""
    process = start(*arguments, **settings)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err.decode()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "required: COMMAND"),
        (["compleat", "x"], "invalid choice: 'compleat'"),
        (["complete"], "give the prompt"),
        (["complete", "x", "--prompt-file", "y"], "give the prompt"),
        (["complete", "x", "y"], "unrecognized arguments: y"),
        (["complete", "x", "--bogus"], "--bogus"),
        (["complete", "x", "--temperature"], "--temperature"),
        (["complete", "x", "--model", "someone/a-model-7B"], "models are not downloaded by name: give the path of a"),
        (["complete", "x", "--model", "nowhere/at/all.gguf"], "'nowhere/at/all.gguf': there is no such folder or file"),
        (
            ["complete", "x", "--model", __file__],
            "must be a folder of a checkpoint in Hugging Face's layout, or a .gguf",
        ),
        (["complete", "x", "--model", BUNDLED_WEIGHTS], f"one file of a checkpoint; give its folder, {BUNDLED}"),
        (["complete", "x", "--quantization", "q9"], "--quantization: invalid choice: 'q9'"),
        (["complete", "x", "--temperature", "hot"], "--temperature: 'hot' is not a number"),
        (["complete", "x", "--temperature", "nan"], "temperature=nan: must be"),
        (["complete", "x", "--temperature=-inf"], "temperature=-inf: must be"),
        (["complete", "x", "--temperature", "1e400"], "temperature=inf: must be"),
        (["complete", "x", "--top-k", "0"], "top_k=0: must be"),
        (["complete", "x", "--top-p", "1.5", "--min-p", "2"], "min_p=2.0"),
        (["complete", "x", "--seed", "9" * 6000], "--seed"),
        (["complete", "x", "--seed", str(2**63)], "seed=9223372036854775808: must be"),
        (["complete", "x", "--seed", "1.5"], "--seed: '1.5' is not an integer"),
        (["complete", "x", "--n", "3", "--best-of", "2"], "best_of=2: must be at least n=3"),
        (["complete", "x", "--stop", ""], "stop=['']: must be"),
        (["complete", "x", "--logit-bias", "5"], "--logit-bias: '5' is neither"),
        (["complete", "x", "--logit-bias", "{5: 1}"], "is not valid JSON"),
        (["complete", "x", "--logit-bias", '{"5": "a"}'], "logit_bias="),
        (["complete", "x", "--logit-bias", "5=1", "--logit-bias", "5=2"], "logit_bias="),
        (["complete", "x", "--banned-token-ids", "1,,2"], "--banned-token-ids: '' is not an integer"),
        (["complete", "x", "--logprobs-mode", "cooked"], "logprobs_mode='cooked'"),
        (["complete", "x", "--stop-token-ids", "99999999"], "stop_token_ids=99999999"),
        (["complete", "x", "--model", "no/such/folder"], "no such folder"),
        (["complete", "x\udcff"], "must be valid Unicode"),
        (["complete", "x", "--suffix", "\udcff"], "suffix="),
        (["complete", "--prompt-file", "no/such/file"], "prompt from no/such/file: cannot be read"),
        (["complete", "x" * 20_000], "must fit the model's context"),
    ],
)
def test_one_line_and_exit_code_2(arguments, expected, capsys):
    """A wrong argument gives one line that names argument and rule; stdout stays empty."""
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("decoding: error: ")
    assert captured.err.count("\n") == 1
    assert len(captured.err) < 8000
    assert expected in captured.err


def test_an_error_during_sampling(capsys):
    """An error during sampling is the line after the seed and the replay command."""
    assert cli.main(["complete", "x", "--allowed-token-ids", "5", "--banned-token-ids", "5"]) == 2
    captured = capsys.readouterr()
    seed, replay, error = captured.err.splitlines()
    assert captured.out == ""
    assert seed.startswith("seed: ")
    assert replay.startswith("replay: ")
    assert error.startswith("decoding: error: ")
    assert "no token is left to draw" in error


def test_a_prompt_that_is_no_utf8(capsys, tmp_path):
    """A prompt file that is not UTF-8 gives an error with the byte's index."""
    (tmp_path / "prompt").write_bytes(b"ab\xff")
    assert cli.main(["complete", "--prompt-file", str(tmp_path / "prompt")]) == 2
    assert "must be UTF-8 (byte 2 is not)" in capsys.readouterr().err


def test_a_closed_pipe():
    """If the reader of a pipe closes it, as `| head` does, the command stops without a message, with exit code 141."""
    process = start("def f(", "--max-tokens=none", "--ignore-eos")
    assert process.stdout.read(1)
    process.stdout.close()
    assert process.wait(timeout=120) == 141
    assert _after_the_seed(process.stderr.read()) == b""
    process.stderr.close()


def test_ctrl_c():
    """Ctrl-C ends the command with exit code 130, the seed and no traceback."""
    process = start("def f(", "--max-tokens=none", "--ignore-eos")
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert _after_the_seed(err).strip() == b""


def _after_the_seed(err):
    """Return the part of stderr after the seed and the replay command."""
    seed, replay, rest = err.split(b"\n", 2)
    assert seed.startswith(b"seed: ")
    assert replay.startswith(b"replay: decoding complete --seed=")
    return rest


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk():
    """Output to a full disk gives one line of error and exit code 2."""
    with open("/dev/full", "wb") as full:
        code, _, err = finish("def f(", "--max-tokens=4", stdout=full)
    assert code == 2
    rest = _after_the_seed(err.encode())
    assert rest.startswith(b"decoding: error: cannot read or write")
    assert rest.count(b"\n") == 1


def test_an_ascii_terminal():
    """On an ASCII terminal text has escapes for other characters; JSON stays valid."""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    code, out, err = finish("caf\u00e9", "--echo", "--max-tokens=1", env=environment)
    assert (code, out[:7]) == (0, b"caf\\xe9"), err
    code, out, _ = finish("caf\u00e9", "--echo", "--max-tokens=0", "--json", env=environment)
    assert json.loads(out)["choices"][0]["text"] == "caf\u00e9"


def test_help_is_quick():
    """`--help` loads no model: it takes less than ten seconds of CPU time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    code, out, _ = finish("--help")
    assert (code, b"--temperature" in out) == (0, True)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 10
