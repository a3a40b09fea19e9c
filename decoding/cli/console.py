"""Parts that all commands share: exit codes, errors of one line, the prompt, output to a terminal."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

EXIT_DIFFERENT, EXIT_FAILED, EXIT_ERROR, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 1, 1, 2, 130, 141


class CommandError(Exception):
    """The command cannot go on. The text is the line that the user sees."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raise CommandError instead of printing the usage."""
        raise CommandError(message)


def occupy_streams() -> None:
    """Open nothing in the place of a stream that is closed, so that no file or socket takes its number.

    What is written to a closed stderr is discarded.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - it lives as long as the process


def require_stdout() -> None:
    """Raise CommandError if stdout is closed."""
    if sys.stdout is None:
        raise CommandError("standard output is closed")


def say(line: str) -> None:
    """Write a line to stderr, where everything goes that is not the command's output. A full disk is no error."""
    with suppress(OSError):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def progress_line() -> Callable[[int, int], None] | None:
    """Return a function (done, total) that shows on a terminal how far loading is; None if stderr is no terminal."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        text = f"loading weights: {100 * done // total:3d} %"
        sys.stderr.write(f"\r{text}" if done < total else f"\r{' ' * len(text)}\r")
        sys.stderr.flush()

    return show


def report_error(message: str) -> int:
    """Write an error as one line, and return the exit code."""
    say(f"decoding: error: {' '.join(message.split())}")
    return EXIT_ERROR


def silence_stdout() -> None:
    """Discard the rest of stdout after its reader has gone, so that flushing it at exit does not raise again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show_all_characters() -> None:
    """Write a character that the terminal cannot show as its escape."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def add_prompt(command: argparse.ArgumentParser) -> None:
    """Add the arguments for a prompt; see `read_prompt`."""
    command.add_argument("prompt", nargs="?", metavar="PROMPT", help="the text to complete; - reads it from stdin")
    command.add_argument("--prompt-file", metavar="FILE", help="read the prompt from a file (UTF-8)")


def read_prompt(options: argparse.Namespace) -> str:
    """Return the prompt from the argument, the file or stdin. Raise CommandError if it is not UTF-8, or not given."""
    if (options.prompt is None) == (options.prompt_file is None):
        raise CommandError("give the prompt either as PROMPT (- for stdin) or with --prompt-file")
    if options.prompt is not None and options.prompt != "-":
        return str(options.prompt)
    source = "stdin" if options.prompt_file is None else options.prompt_file
    if options.prompt_file is None and sys.stdin is None:
        raise CommandError("prompt from stdin: standard input is closed")
    try:
        raw: Any = sys.stdin.buffer.read() if options.prompt_file is None else Path(source).read_bytes()
        text: str = raw.decode()
        return text
    except UnicodeDecodeError as error:
        raise CommandError(f"prompt from {source}: must be UTF-8 (byte {error.start} is not)") from None
    except OSError as error:
        raise CommandError(f"prompt from {source}: cannot be read ({error.strerror})") from None
