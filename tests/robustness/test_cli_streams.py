"""The command with streams closed and with an instruction set that is not there: one line, exit code 2."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = shlex.join(
    [str(Path(sys.executable).with_name("decoding")), "complete", "x", "--max-tokens", "4", "--seed", "1"]
)


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell, as a user types it."""
    env = {**os.environ, **environment}
    return subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False, env=env)


@pytest.mark.parametrize("name", ["bogus", "AVX2", "neon", "\udcff", "a\nb"])
def test_an_impossible_instruction_set_is_one_line(name: str) -> None:
    """DECODING_ISA is wrong: the line names it and what this machine has."""
    done = shell(COMMAND, DECODING_ISA=name)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("decoding: error: DECODING_ISA=")
    assert done.stderr.count("\n") == 1
    assert "portable" in done.stderr


def test_closed_stdout_is_an_error() -> None:
    """The text has nowhere to go."""
    done = shell(f"{COMMAND} >&-")
    assert (done.returncode, done.stderr) == (2, "decoding: error: standard output is closed\n")


def test_closed_stderr_keeps_notes_out_of_stdout() -> None:
    """The seed and errors are not printed in place of the text."""
    expected = shell(COMMAND).stdout
    assert expected
    assert shell(f"{COMMAND} 2>&-").stdout == expected
    failed = shell(f"{COMMAND} --top-p 3 2>&-")
    assert (failed.returncode, failed.stdout) == (2, "")


def test_closed_stdin_is_an_error() -> None:
    """A prompt from stdin that is not there."""
    done = shell(COMMAND.replace(" x ", " - ") + " <&-")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "decoding: error: prompt from stdin: standard input is closed\n"


def test_ctrl_c_during_imports_is_no_traceback() -> None:
    """The exit code is that of an interrupt, and nothing is printed."""
    program = """
import sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "decoding.cli":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
from decoding.__main__ import main
sys.exit(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_stderr_that_takes_nothing_is_no_error() -> None:
    """A full disk behind stderr loses the notes, not the text."""
    expected = shell(COMMAND).stdout
    done = shell(f"{COMMAND} 2>/dev/full")
    assert (done.returncode, done.stdout) == (0, expected)
