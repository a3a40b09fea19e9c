"""The command `decoding`: completions in the terminal.

Exit codes: 0 done, 2 something is wrong with the arguments, the model or the output (one line on stderr says
what), 130 interrupted. Heavy modules are imported by the command that needs them: `--help` answers at once.
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

from decoding.errors import DecodingError, shown
from decoding.params import SamplingParams
from decoding.version import __version__

if TYPE_CHECKING:
    from decoding.engine.outputs import Choice, Logprobs
    from decoding.llm import LLM

DEFAULT_MAX_TOKENS = 128
EXIT_ERROR, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 2, 130, 141


class CommandError(Exception):
    """The command cannot go on; the text is the line that the user sees."""


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
        options.run(options, arguments)
        sys.stdout.flush()
    except (CommandError, DecodingError) as error:
        return _report(str(error))
    except BrokenPipeError:
        _silence_stdout()
        return EXIT_BROKEN_PIPE
    except OSError as error:
        return _report(f"cannot read or write: {error}")
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


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
    _add_bench(commands)
    return parser


def _add_complete(commands: Any) -> None:
    complete = commands.add_parser(
        "complete",
        help="complete a prompt",
        description="Complete a prompt with the bundled model or another one; the text is printed as it is generated.",
        epilog="The prompt is taken as it is, a newline at its end included. The seed that replays the completion"
        " is printed to stderr.",
    )
    complete.add_argument("prompt", nargs="?", metavar="PROMPT", help="the text to complete; - reads it from stdin")
    complete.add_argument("--prompt-file", metavar="FILE", help="read the prompt from a file (UTF-8)")
    complete.add_argument("--model", metavar="PATH", help="folder of a Hugging Face checkpoint (default: bundled)")
    complete.add_argument("--json", action="store_true", help="print the completion object of the Completions API")
    complete.set_defaults(run=_complete)
    sampling = complete.add_argument_group("sampling parameters")
    for name, settings in _FLAGS.items():
        flag = "--" + name.replace("_", "-")
        sampling.add_argument(flag, dest=name, default=argparse.SUPPRESS, **settings)


def _add_bench(commands: Any) -> None:
    bench = commands.add_parser(
        "bench",
        help="measure this machine",
        description="Measure sampling on every instruction set of this CPU, and decoding with the bundled model.",
    )
    bench.add_argument(
        "--vocab", type=_integer, default=151_936, metavar="N", help="logits of a row, 2,000 or more (default: 151936)"
    )
    bench.add_argument("--json", metavar="FILE", help="write all figures to a file, too")
    bench.set_defaults(run=_bench)


def _bench(options: argparse.Namespace, _: list[str]) -> None:
    from decoding.bench import report, table

    found = report(options.vocab)
    print(table(found))
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")


def _complete(options: argparse.Namespace, arguments: list[str]) -> None:
    if hasattr(sys.stdout, "reconfigure"):  # a terminal that cannot show a character shows its number
        sys.stdout.reconfigure(errors="backslashreplace")
    given = {name: value for name, value in vars(options).items() if name in _FLAGS}
    params = SamplingParams(**{"max_tokens": DEFAULT_MAX_TOKENS, **given})
    prompt = _read_prompt(options)
    from decoding.llm import LLM

    llm = LLM(options.model)
    if options.json:
        seed = _print_json(llm, prompt, params)
    elif params.n > 1 or params.ranks_candidates:
        seed = _print_choices(llm, prompt, params)
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


def _print_json(llm: LLM, prompt: str, params: SamplingParams) -> int:
    from decoding.api.schema import completion_object

    result = llm.complete(prompt, params)
    print(json.dumps(completion_object([result], system_fingerprint=llm.system_fingerprint), allow_nan=False))
    return result.choices[0].seed


def _print_choices(llm: LLM, prompt: str, params: SamplingParams) -> int:
    """Several choices, or ranked ones: each is printed when all are finished."""
    choices = llm.complete(prompt, params).choices
    for choice in choices:
        if params.n > 1:
            print(f"--- {_heading(choice)} ---")
        print(choice.text)
        _print_logprobs(choice.logprobs)
    return choices[0].seed


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


def _number(convert: type[int] | type[float], what: str, *, or_none: bool = False) -> Any:
    def parse(text: str) -> int | float | None:
        if or_none and text.lower() == "none":
            return None
        try:
            return convert(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{shown(text)} is not {what}") from None

    return parse


def _token_ids(text: str) -> list[int]:
    return [_integer(part) for part in text.split(",")]


def _logit_bias(text: str) -> list[tuple[int, float]]:
    """`ID=VALUE`, or a JSON object {"ID": VALUE, ...}."""
    if not text.lstrip().startswith("{"):
        token_id, separator, value = text.partition("=")
        if not separator:
            raise argparse.ArgumentTypeError(f"{shown(text)} is neither ID=VALUE nor a JSON object")
        return [(_integer(token_id), _real(value))]
    try:
        pairs = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not valid JSON") from None
    return [(_integer(token_id), value) for token_id, value in pairs]


_integer = _number(int, "an integer")
_real = _number(float, "a number")
_optional_integer = _number(int, "an integer or none", or_none=True)


def _scope(text: str) -> str | int:
    """A word, or the number of last tokens; the parameter's own check knows which of them are right."""
    return int(_integer(text)) if text[:1].isdigit() or text[:1] == "-" else text


def _flag(kind: Any, metavar: str, help_text: str) -> dict[str, Any]:
    return {"type": kind, "metavar": metavar, "help": help_text}


def _list_flag(kind: Any, metavar: str, help_text: str) -> dict[str, Any]:
    return {"type": kind, "metavar": metavar, "action": "extend", "help": f"{help_text}; may be given several times"}


def _switch(help_text: str) -> dict[str, Any]:
    return {"action": argparse.BooleanOptionalAction, "help": help_text}


_FLAGS: dict[str, dict[str, Any]] = {
    "max_tokens": _flag(
        _optional_integer,
        "N",
        f"tokens to generate at most; none: to the context's end (default: {DEFAULT_MAX_TOKENS})",
    ),
    "min_tokens": _flag(_integer, "N", "tokens before which nothing ends the text (default: 0)"),
    "n": _flag(_integer, "N", "completions to print (default: 1)"),
    "best_of": _flag(
        _optional_integer, "N", "candidates to generate; the n likeliest per token are printed (default: n)"
    ),
    "seed": _flag(_integer, "SEED", "signed 64-bit integer; same seed, same text (default: from the system)"),
    "temperature": _flag(_real, "T", "0 is greedy (default: 1)"),
    "top_k": _flag(_optional_integer, "K", "keep the K likeliest tokens (default: off)"),
    "top_p": _flag(_real, "P", "keep the likeliest tokens up to this mass, 0 to 1 (default: 1, off)"),
    "min_p": _flag(_real, "P", "keep tokens at least P times as likely as the likeliest (default: 0, off)"),
    "repetition_penalty": _flag(_real, "R", "multiplicative, > 0, for tokens seen before (default: 1, off)"),
    "repetition_penalty_scope": _flag(
        _scope, "SCOPE", "where it looks: prompt+output, output, or the last so many tokens (default: prompt+output)"
    ),
    "frequency_penalty": _flag(_real, "F", "per occurrence in the output (default: 0)"),
    "presence_penalty": _flag(_real, "F", "once for tokens in the output (default: 0)"),
    "context_frequency_penalty": _flag(_real, "F", "per occurrence in prompt and output (default: 0)"),
    "logit_bias": _list_flag(
        _logit_bias, "ID=VALUE", "add VALUE to a token's logit; or a JSON object of ids to values"
    ),
    "allowed_token_ids": _list_flag(_token_ids, "ID,...", "the only tokens that may be drawn"),
    "banned_token_ids": _list_flag(_token_ids, "ID,...", "tokens that are never drawn"),
    "stop": {
        "action": "append",
        "metavar": "TEXT",
        "help": "end before this text, taken as it is ($'\\n' in bash is a newline); may be given several times",
    },
    "stop_token_ids": _list_flag(_token_ids, "ID,...", "end at these tokens"),
    "include_stop_str_in_output": _switch("keep the stop text"),
    "ignore_eos": _switch("go on after the model's end-of-sequence token"),
    "logprobs": _flag(
        _optional_integer, "N", "log-probabilities of tokens and their N likeliest rivals (on stderr, without --json)"
    ),
    "logprobs_mode": _flag(str, "MODE", "raw, penalized, scaled or final (default: raw)"),
    "echo": _switch("print the prompt first"),
    "suffix": _flag(str, "TEXT", "what follows the completion: fill in the middle"),
    "skip_special_tokens": _switch("leave special tokens out of the text (default: yes)"),
}
"""How argparse reads each field of SamplingParams; ranges are SamplingParams' own business."""
