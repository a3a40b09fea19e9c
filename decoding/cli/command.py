"""The command `decoding`: its parser, and the exit code of every way in which a command ends.

Exit codes: 0 done; 1 a check of `decoding conformance` or a line of a batch failed, or a replay differs; 2 the
arguments, the model or the output are wrong, as one line on stderr explains; 130 interrupted; 141 the reader of the
output has gone. Heavy modules are imported by the command that needs them, so that `--help` is instant.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from decoding.cli.batch import add_batch
from decoding.cli.bench import add_bench
from decoding.cli.chat import add_chat
from decoding.cli.complete import add_complete
from decoding.cli.conformance import add_conformance
from decoding.cli.console import (
    EXIT_BROKEN_PIPE,
    EXIT_INTERRUPTED,
    CommandError,
    Parser,
    occupy_streams,
    report_error,
    require_stdout,
    say,
    silence_stdout,
)
from decoding.cli.explain import add_explain
from decoding.cli.replay import add_replay
from decoding.cli.serve import add_serve
from decoding.errors import DecodingError, FimTemplateError
from decoding.version import __version__

COMMANDS = (add_complete, add_chat, add_explain, add_replay, add_batch, add_bench, add_serve, add_conformance)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        occupy_streams()
        options = make_parser().parse_args(arguments)
        if getattr(options, "needs_stdout", True):
            require_stdout()
        code: int | None = options.run(options, arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except FimTemplateError as error:
        error.option = "--fim-template"
        return report_error(str(error))
    except (CommandError, DecodingError) as error:
        return report_error(str(error))
    except BrokenPipeError:
        silence_stdout()
        return EXIT_BROKEN_PIPE
    except OSError as error:
        return report_error(f"cannot read or write: {error}")
    except KeyboardInterrupt:
        say("")
        return EXIT_INTERRUPTED
    return code or 0


def make_parser() -> argparse.ArgumentParser:
    """Return the parser with all commands; `options.run(options, arguments)` runs the chosen one."""
    parser = Parser(prog="decoding", description="A sampling and decoding engine for language models.")
    parser.add_argument("--version", action="version", version=f"decoding {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add_command in COMMANDS:
        add_command(commands)
    return parser
