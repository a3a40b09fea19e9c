"""Parts that all commands share: exit codes, errors of one line, the prompt, output to a terminal."""

from __future__ import annotations

import argparse
import codecs
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
    """Open /dev/null in place of each closed standard stream, so that no file or socket takes its number.

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
    """Write a line that is not the command's output, to stderr. Failures to write it are ignored."""
    with suppress(OSError):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


class _Warnings(logging.Handler):
    """Writes the warnings of the library to stderr, a line each."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one warning."""
        say(f"warning: {record.getMessage()}")


def show_warnings() -> None:
    """Show the library's warnings from now on, such as a disagreement between a model's files."""
    logger = logging.getLogger("decoding")
    if not logger.handlers:  # a server has a log of its own
        logger.addHandler(_Warnings(logging.WARNING))


@contextmanager
def loading_line(name: str) -> Iterator[None]:
    """Show on a terminal that a model is being loaded; the line goes away at the end."""
    if not sys.stderr.isatty():
        yield
        return
    text = f"loading {name} ..."
    sys.stderr.write(text)
    sys.stderr.flush()
    try:
        yield
    finally:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


def progress_line() -> Callable[[int, int], None] | None:
    """Return a function (done, total) that shows on a terminal how far loading is; None if stderr is no terminal."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        text = f"loading weights: {100 * done // total:3d} %" if done < total else ""
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()

    return show


def report_error(message: str) -> int:
    """Write an error as one line, and return the exit code."""
    say(f"decoding: error: {' '.join(message.split())}")
    return EXIT_ERROR


def silence_stdout() -> None:
    """Discard the rest of stdout after its reader has gone, so that flushing it at exit does not raise again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_ESCAPES = "decoding.escapes"


def show_all_characters() -> None:
    """Write a character that stdout cannot encode as its escape, with a warning at the first."""
    warned: list[UnicodeError] = []

    def escaped(error: UnicodeError) -> tuple[str | bytes, int]:
        if not warned:
            warned.append(error)
            say(
                f"warning: the encoding of standard output, {sys.stdout.encoding}, lacks characters of the text, which"
                " are written as escapes such as \\u6f22 (PYTHONIOENCODING=utf-8 writes them as they are)"
            )
        return codecs.backslashreplace_errors(error)

    if hasattr(sys.stdout, "reconfigure"):
        codecs.register_error(_ESCAPES, escaped)
        sys.stdout.reconfigure(errors=_ESCAPES)


def add_prompt(command: argparse.ArgumentParser) -> None:
    """Add the arguments for a prompt; see `read_prompt`."""
    command.add_argument("prompt", nargs="?", metavar="PROMPT", help="the text to complete; - reads it from stdin")
    command.add_argument(
        "--prompt-file",
        metavar="FILE",
        help="read the prompt from a file (UTF-8; a byte order mark at its start is left out)",
    )
    command.add_argument(
        "--escape",
        action="store_true",
        help=r"read \n, \t, \r, \\, \xHH, \uHHHH and \UHHHHHHHH in PROMPT, --suffix and --stop as escapes; without it"
        " a shell's '\\n' is a backslash and an n",
    )


_ESCAPE = re.compile(r"\\(x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.?)", re.DOTALL)
_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'"}


def unescaped(name: str, text: str) -> str:
    """Return a text with its escapes read. Raise CommandError for one that is unknown."""

    def character(found: re.Match[str]) -> str:
        code = found[1]
        try:
            return chr(int(code[1:], 16)) if len(code) > 1 else _LETTERS[code]
        except (KeyError, ValueError, OverflowError):
            raise CommandError(f"{name}: {found[0]!r} is not an escape that --escape reads") from None

    return _ESCAPE.sub(character, text)


def read_escapes(options: argparse.Namespace) -> None:
    """With --escape, replace the escapes in the texts of a command line."""
    if not options.escape:
        return
    if options.prompt is not None:
        options.prompt = unescaped("PROMPT", options.prompt)
    if hasattr(options, "suffix"):
        options.suffix = unescaped("--suffix", options.suffix)
    if hasattr(options, "stop"):
        options.stop = [unescaped("--stop", text) for text in options.stop]


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
        text: str = raw.removeprefix(codecs.BOM_UTF8).decode()
        return text
    except UnicodeDecodeError as error:
        hint = "; it begins as UTF-16 does" if raw[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else ""
        raise CommandError(f"prompt from {source}: must be UTF-8 (byte {error.start} is not{hint})") from None
    except OSError as error:
        raise CommandError(f"prompt from {source}: cannot be read ({error.strerror})") from None
