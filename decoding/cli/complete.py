"""`decoding complete`: a completion in the terminal."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from decoding.cli.beams import add_beam_flags, given_beams, print_hypotheses
from decoding.cli.colour import Paint, add_color, coloured_choice, coloured_stream, paint_of, show_scale, with_logprobs
from decoding.cli.console import add_prompt, read_escapes, read_prompt, say, show_all_characters
from decoding.cli.flags import add_sampling_flags, given_parameters
from decoding.cli.model_flags import add_fim_template, add_model, add_profile, load_llm
from decoding.errors import DecodingError, ParameterError
from decoding.params import SamplingParams

if TYPE_CHECKING:
    from decoding.engine.outputs import Choice, CompletionResult, Delta, Logprobs
    from decoding.llm import LLM

DEFAULT_MAX_TOKENS = 128


def add_complete(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "complete",
        help="complete a prompt",
        description="Complete a prompt with the bundled model or another one; the text is printed as it is generated.",
        epilog="The prompt is used as it is, including a newline at its end. The seed that replays the completion"
        " is printed to stderr, before the text.",
    )
    add_prompt(command)
    add_model(command)
    add_profile(command)
    command.add_argument("--json", action="store_true", help="print the completion object of the Completions API")
    add_color(command)
    add_fim_template(command)
    command.add_argument("--capsule", metavar="FILE", help="save a capsule for `decoding replay` at the end")
    command.set_defaults(run=_complete)
    add_beam_flags(command)
    add_sampling_flags(command, max_tokens=DEFAULT_MAX_TOKENS)


def _complete(options: argparse.Namespace, arguments: list[str]) -> None:
    show_all_characters()
    read_escapes(options)
    given = given_parameters(options)
    params = SamplingParams(**{"max_tokens": DEFAULT_MAX_TOKENS, **given})
    beams = given_beams(options, params)
    if beams is not None and options.capsule:
        raise ParameterError.single("--capsule", options.capsule, "must be absent with --beam-width")
    prompt = read_prompt(options)
    paint = _paint(options)
    llm = load_llm(options.model, options)
    if beams is not None:
        beams = beams if paint is None else with_logprobs(beams)
        _print_beams(llm, llm.beam_search(prompt, beams), options, paint)
        return
    llm.engine.requests(prompt, params)  # a bad request is an error before anything else is said
    view = _View(paint, params.logprobs is not None)
    params = _with_seed(params if paint is None else with_logprobs(params), arguments)
    if options.json or options.capsule or params.n > 1 or params.ranks_candidates:
        _print_result(llm, llm.complete(prompt, params), options, params, view)
    else:
        _print_stream(llm, prompt, params, view)
    sys.stdout.flush()


class _View(NamedTuple):
    """The colours of a completion, and True if its log-probabilities are printed, too."""

    paint: Paint | None
    has_logprobs: bool


def _paint(options: argparse.Namespace) -> Paint | None:
    """Return the function that colours the text; None if there are no colours."""
    if options.json and options.color != "never":
        say("note: --color: JSON has no colours")
        return None
    paint = paint_of(options.color)
    if paint is not None:
        show_scale(paint)
    return paint


def _with_seed(params: SamplingParams, arguments: list[str]) -> SamplingParams:
    """Return the parameters with a seed; print it and the command that replays it before anything is generated."""
    if params.seed is None:
        from decoding.engine.request import new_seed

        params = replace(params, seed=new_seed())
        arguments = [arguments[0], f"--seed={params.seed}", *arguments[1:]]
    say(f"seed: {params.seed}\nreplay: {shlex.join(['decoding', *arguments])}")
    return params


def _print_beams(llm: LLM, result: CompletionResult, options: argparse.Namespace, paint: Paint | None) -> None:
    if options.json:
        _print_json(llm, result, echo=False)
    else:
        print_hypotheses(result, paint)


def _print_result(
    llm: LLM, result: CompletionResult, options: argparse.Namespace, params: SamplingParams, view: _View
) -> None:
    """Print all choices once they are finished."""
    if options.capsule:
        llm.capsule(result).save(options.capsule)
    if options.json:
        _print_json(llm, result, params.echo)
    else:
        _print_choices(result, view)


def _print_json(llm: LLM, result: CompletionResult, echo: bool) -> None:
    from decoding.completions_api.schema import completion_object

    answer = completion_object([result], system_fingerprint=llm.system_fingerprint, echo=echo)
    print(json.dumps(answer, allow_nan=False))


def _print_choices(result: CompletionResult, view: _View) -> None:
    for choice in result.choices:
        if len(result.choices) > 1:
            print(f"--- {_heading(choice)} ---")
        print(coloured_choice(choice, view.paint))
        if view.has_logprobs:
            _print_logprobs(choice.logprobs)


def _heading(choice: Choice) -> str:
    mean = "" if choice.mean_logprob is None else f", mean logprob {choice.mean_logprob:.4f}"
    return f"choice {choice.index}: {choice.finish_reason}{mean}"


def _print_stream(llm: LLM, prompt: str, params: SamplingParams, view: _View) -> None:
    """Print the text as it is generated, then its log-probabilities."""
    logprobs: list[Logprobs] = []
    text_of = _coloured_text(llm, prompt, params, view.paint)
    num_pieces = 0
    try:
        for delta in llm.stream(prompt, params):
            sys.stdout.write(text_of(delta))
            sys.stdout.flush()
            num_pieces += 1
            if delta.logprobs is not None and view.has_logprobs:
                logprobs.append(delta.logprobs)
    except (DecodingError, KeyboardInterrupt):
        if num_pieces:  # the message starts on a line of its own
            print()
        raise
    print()
    for columns in logprobs:
        _print_logprobs(columns)


def _coloured_text(llm: LLM, prompt: str, params: SamplingParams, paint: Paint | None) -> Callable[[Delta], str]:
    """Return a function that returns the text of a piece, with its colours if there are any."""
    if paint is None:
        return lambda delta: delta.text
    requests, _ = llm.engine.requests(prompt, params)
    text = coloured_stream(requests[0], paint)
    return lambda delta: text.add(delta.text, delta.logprobs or Logprobs())


def _print_logprobs(logprobs: Logprobs | None) -> None:
    """Write one line per token to stderr: log-probability, rank, token, its alternatives, and the ids asked for."""
    if logprobs is None:
        return
    columns = (logprobs.tokens, logprobs.token_logprobs, logprobs.ranks, logprobs.top_logprobs, logprobs.by_token_id)
    for token, logprob, rank, top, by_id in zip(*columns, strict=True):
        alternatives = "  ".join(f"{text!r} {value:.4f}" for text, value in (top or {}).items() if text != token)
        value = "-" if logprob is None else f"{logprob:.4f}"
        ids = "  ".join(f"{token_id}: {of_id:.4f}" for token_id, of_id in by_id.items())
        say(f"{value:>10} {rank or '-':>6}  {token!r}  {alternatives}  {ids}".rstrip())
