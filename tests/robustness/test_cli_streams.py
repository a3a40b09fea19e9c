"""The command with closed streams and with unavailable instruction sets: one line, exit code 2."""

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
    """Run a line in a shell."""
    env = {**os.environ, **environment}
    return subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False, env=env)


@pytest.mark.parametrize("name", ["bogus", "AVX2", "neon", "\udcff", "a\nb"])
def test_an_unavailable_instruction_set(name: str) -> None:
    """A wrong DECODING_ISA gives one line with its value and the sets of this machine."""
    done = shell(COMMAND, DECODING_ISA=name)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("decoding: error: DECODING_ISA=")
    assert done.stderr.count("\n") == 1
    assert "portable" in done.stderr


def test_closed_stdout_is_an_error() -> None:
    """A closed stdout is an error, because the text cannot be printed."""
    done = shell(f"{COMMAND} >&-")
    assert (done.returncode, done.stderr) == (2, "decoding: error: standard output is closed\n")


def test_closed_stderr_keeps_notes_out_of_stdout() -> None:
    """With a closed stderr the seed and errors do not appear on stdout."""
    expected = shell(COMMAND).stdout
    assert expected
    assert shell(f"{COMMAND} 2>&-").stdout == expected
    failed = shell(f"{COMMAND} --top-p 3 2>&-")
    assert (failed.returncode, failed.stdout) == (2, "")


def test_closed_stdin_is_an_error() -> None:
    """A prompt from a closed stdin is an error."""
    done = shell(COMMAND.replace(" x ", " - ") + " <&-")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "decoding: error: prompt from stdin: standard input is closed\n"


def test_ctrl_c_during_imports_is_no_traceback() -> None:
    """Ctrl-C during imports gives exit code 130 and no output."""
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


def test_a_stderr_on_a_full_disk_is_no_error() -> None:
    """With stderr on a full disk, the notes are lost, but the text is printed."""
    expected = shell(COMMAND).stdout
    done = shell(f"{COMMAND} 2>/dev/full")
    assert (done.returncode, done.stdout) == (0, expected)
