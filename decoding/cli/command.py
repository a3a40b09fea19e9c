"""The command `decoding`: completions in the terminal.

Exit codes: 0 done, 1 a check of `decoding conformance` failed or a replay differs, 2 something is wrong with the
arguments, the model or the output (one line on stderr says what), 130 interrupted. Heavy modules are imported by the
command that needs them: `--help` answers at once.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from decoding.cli.batch import add_batch, add_replay
from decoding.cli.conformance import add_conformance, list_of_checks, run_and_write
from decoding.cli.flags import (
    add_sampling_flags,
    given_parameters,
    integer,
    token_ids,
)
from decoding.cli.serve import add_serve
from decoding.errors import DecodingError
from decoding.params import SamplingParams
from decoding.version import __version__

if TYPE_CHECKING:
    from decoding.engine.outputs import Choice, CompletionResult, Logprobs
    from decoding.llm import LLM

DEFAULT_MAX_TOKENS, EXPLAIN_MAX_TOKENS = 128, 8

EXIT_FAILED, EXIT_ERROR, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 1, 2, 130, 141


class CommandError(Exception):
    """The command cannot go on; the text is the line that the user sees."""


class ChecksFailedError(Exception):
    """The command has done its work, and what it looked at is not as it must be."""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise CommandError(message)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        _check_streams()
        options = _parser().parse_args(arguments)
        code = options.run(options, arguments)
        sys.stdout.flush()
    except (CommandError, DecodingError) as error:
        return _report(str(error))
    except ChecksFailedError:
        return EXIT_FAILED
    except BrokenPipeError:
        _silence_stdout()
        return EXIT_BROKEN_PIPE
    except OSError as error:
        return _report(f"cannot read or write: {error}")
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return EXIT_INTERRUPTED
    return code or 0


def _check_streams() -> None:
    """A closed stdout cannot take the text; a closed stderr must not send our notes to stdout instead."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - it lives as long as the process
    if sys.stdout is None:
        raise CommandError("standard output is closed")


def _report(message: str) -> int:
    one_line = " ".join(message.split())
    print(f"decoding: error: {one_line}", file=sys.stderr)
    return EXIT_ERROR


def _silence_stdout() -> None:
    """The reader has gone: what is still buffered must not raise once more when the interpreter exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="decoding", description="A sampling and decoding engine for language models.")
    parser.add_argument("--version", action="version", version=f"decoding {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_complete(commands)
    _add_explain(commands)
    add_replay(commands)
    add_batch(commands)
    _add_bench(commands)
    add_serve(commands)
    add_conformance(commands, _conformance)
    return parser


def _add_complete(commands: Any) -> None:
    complete = commands.add_parser(
        "complete",
        help="complete a prompt",
        description="Complete a prompt with the bundled model or another one; the text is printed as it is generated.",
        epilog="The prompt is taken as it is, a newline at its end included. The seed that replays the completion"
        " is printed to stderr.",
    )
    _add_prompt(complete)
    complete.add_argument("--json", action="store_true", help="print the completion object of the Completions API")
    complete.add_argument(
        "--fim-template",
        metavar="TEMPLATE",
        help="how --suffix is put into the prompt: '<PRE>{prefix}<SUF>{suffix}<MID>', say (default: the model's way)",
    )
    complete.add_argument("--capsule", metavar="FILE", help="save what `decoding replay` needs, when all is done")
    complete.set_defaults(run=_complete)
    add_sampling_flags(complete, max_tokens=DEFAULT_MAX_TOKENS)


def _add_explain(commands: Any) -> None:
    explain = commands.add_parser(
        "explain",
        help="show what each stage of sampling does",
        description="Complete a prompt and print a table for each token: what every stage of the pipeline keeps, how"
        " much of the mass it removes, the entropy that is left, and the most likely tokens.",
    )
    _add_prompt(explain)
    explain.add_argument("--top", type=integer, default=5, metavar="N", help="most likely tokens to show (default: 5)")
    explain.add_argument(
        "--why-not", type=token_ids, default=[], metavar="ID,...", help="say why these tokens could not be drawn"
    )
    explain.set_defaults(run=_explain)
    add_sampling_flags(explain, max_tokens=EXPLAIN_MAX_TOKENS)


def _add_prompt(command: argparse.ArgumentParser) -> None:
    command.add_argument("prompt", nargs="?", metavar="PROMPT", help="the text to complete; - reads it from stdin")
    command.add_argument("--prompt-file", metavar="FILE", help="read the prompt from a file (UTF-8)")
    command.add_argument("--model", metavar="PATH", help="folder of a Hugging Face checkpoint (default: bundled)")


def _add_bench(commands: Any) -> None:
    bench = commands.add_parser(
        "bench",
        help="measure this machine",
        description="Measure sampling on every instruction set of this CPU, and decoding with the bundled model.",
    )
    bench.add_argument(
        "--vocab", type=integer, default=151_936, metavar="N", help="logits of a row, 2,000 or more (default: 151936)"
    )
    bench.add_argument("--json", metavar="FILE", help="write all figures to a file, too")
    bench.set_defaults(run=_bench)


def _bench(options: argparse.Namespace, _: list[str]) -> None:
    from decoding.cli.bench import report, table

    found = report(options.vocab)
    print(table(found))
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")


def _conformance(options: argparse.Namespace, _: list[str]) -> None:
    _show_all_characters()
    if options.list:
        print(list_of_checks())
        return
    from decoding.conformance import NoAnswerError

    try:
        report = run_and_write(options, lambda text: print(text, flush=True))
    except NoAnswerError as error:
        raise CommandError(f"{options.url}: {error}") from None
    if not report.passed:
        raise ChecksFailedError


def _explain(options: argparse.Namespace, _: list[str]) -> None:
    _show_all_characters()
    params = SamplingParams(**{"max_tokens": EXPLAIN_MAX_TOKENS, **given_parameters(options)})
    prompt = _read_prompt(options)
    from decoding.cli.explain import explained
    from decoding.llm import LLM

    for lines in explained(LLM(options.model), prompt, params, options.top, options.why_not):
        print(lines, flush=True)


def _show_all_characters() -> None:
    """A terminal that cannot show a character shows its number."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def _complete(options: argparse.Namespace, arguments: list[str]) -> None:
    _show_all_characters()
    given = given_parameters(options)
    params = SamplingParams(**{"max_tokens": DEFAULT_MAX_TOKENS, **given})
    prompt = _read_prompt(options)
    from decoding.llm import LLM

    llm = LLM(options.model, fim_template=options.fim_template)
    if options.json or options.capsule or params.n > 1 or params.ranks_candidates:
        result = llm.complete(prompt, params)
        if options.capsule:
            llm.capsule(result).save(options.capsule)
        if options.json:
            _print_json(llm, result, params.echo)
        else:
            _print_choices(llm, result)
        seed = result.choices[0].seed
    else:
        seed = _print_stream(llm, prompt, params)
    sys.stdout.flush()
    command = arguments if "seed" in given else [arguments[0], f"--seed={seed}", *arguments[1:]]
    print(f"seed: {seed}\nreplay: {shlex.join(['decoding', *command])}", file=sys.stderr)


def _read_prompt(options: argparse.Namespace) -> str:
    """The prompt from where the user said that it is; exactly one place."""
    if (options.prompt is None) == (options.prompt_file is None):
        raise CommandError("give the prompt either as PROMPT (- for stdin) or with --prompt-file")
    if options.prompt is not None and options.prompt != "-":
        return str(options.prompt)
    source = "stdin" if options.prompt_file is None else options.prompt_file
    if options.prompt_file is None and sys.stdin is None:
        raise CommandError("prompt from stdin: standard input is closed")
    try:
        raw = sys.stdin.buffer.read() if options.prompt_file is None else Path(source).read_bytes()
        return raw.decode()
    except UnicodeDecodeError as error:
        raise CommandError(f"prompt from {source}: must be UTF-8 (byte {error.start} is not)") from None
    except OSError as error:
        raise CommandError(f"prompt from {source}: cannot be read ({error.strerror})") from None


def _print_json(llm: LLM, result: CompletionResult, echo: bool) -> None:
    from decoding.completions_api.schema import completion_object

    answer = completion_object([result], system_fingerprint=llm.system_fingerprint, echo=echo)
    print(json.dumps(answer, allow_nan=False))


def _print_choices(_: LLM, result: CompletionResult) -> None:
    """Several choices, or ranked ones: each is printed when all are finished."""
    for choice in result.choices:
        if len(result.choices) > 1:
            print(f"--- {_heading(choice)} ---")
        print(choice.text)
        _print_logprobs(choice.logprobs)


def _heading(choice: Choice) -> str:
    mean = "" if choice.mean_logprob is None else f", mean logprob {choice.mean_logprob:.4f}"
    return f"choice {choice.index}: {choice.finish_reason}{mean}"


def _print_stream(llm: LLM, prompt: str, params: SamplingParams) -> int:
    logprobs: list[Logprobs | None] = []
    seed = 0
    try:
        for delta in llm.stream(prompt, params):
            sys.stdout.write(delta.text)
            sys.stdout.flush()
            logprobs.append(delta.logprobs)
            seed = delta.seed
    except (DecodingError, KeyboardInterrupt):
        if logprobs:  # what follows starts on a line of its own
            print()
        raise
    print()
    for some in logprobs:
        _print_logprobs(some)
    return seed


def _print_logprobs(logprobs: Logprobs | None) -> None:
    """One line a token on stderr: log-probability, rank, token, and its most likely rivals."""
    if logprobs is None:
        return
    columns = (logprobs.tokens, logprobs.token_logprobs, logprobs.ranks, logprobs.top_logprobs)
    for token, logprob, rank, top in zip(*columns, strict=True):
        rivals = "  ".join(f"{text!r} {value:.4f}" for text, value in (top or {}).items() if text != token)
        value = "-" if logprob is None else f"{logprob:.4f}"
        print(f"{value:>10} {rank or '-':>6}  {token!r}  {rivals}".rstrip(), file=sys.stderr)
