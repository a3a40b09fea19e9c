"""`decoding conformance`: check a server of the Completions API."""

from __future__ import annotations

import argparse
import json
import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from decoding.cli.console import EXIT_FAILED, CommandError, show_all_characters
from decoding.cli.flags import integer
from decoding.errors import ParameterError
from decoding.file_output import write_whole

if TYPE_CHECKING:
    from decoding.conformance import Report


def add_conformance(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "conformance",
        help="check a server of the Completions API",
        description="Check any server of the Completions API, and print for each check: pass, fail with the evidence"
        " and a curl line that shows it again, or not offered. Exit code 1 where a check fails.",
    )
    command.add_argument("url", metavar="URL", nargs="?", help="http://HOST:PORT, with or without /v1")
    command.add_argument("--model", metavar="NAME", help="the model to ask for")
    command.add_argument("--list", action="store_true", help="list the checks and do nothing")
    command.add_argument(
        "--only", action="append", default=[], metavar="ID", help="run these alone: an id or a pattern (stop.*)"
    )
    command.add_argument("--skip", action="append", default=[], metavar="ID", help="leave these out")
    command.add_argument("--prompt", metavar="TEXT", help="what most checks complete (default: one that works)")
    command.add_argument("--json", metavar="FILE", help="write the report as JSON, too")
    command.add_argument("--html", metavar="FILE", help="write the report as one HTML page, too")
    command.add_argument("--api-key-env", metavar="NAME", help="environment variable that holds the server's key")
    _add_load(command)
    command.set_defaults(run=_conformance)


def _add_load(command: argparse.ArgumentParser) -> None:
    """Add the limits on what the server is asked for; a check does not run if it would exceed them."""
    limits = command.add_argument_group("load, never more than this")
    limits.add_argument("--concurrency", type=integer, default=4, metavar="N", help="requests at once (default: 4)")
    limits.add_argument("--max-requests", type=integer, default=1000, metavar="N", help="in all (default: 1000)")
    limits.add_argument(
        "--max-tokens", type=integer, default=100_000, metavar="N", help="tokens asked for in all (default: 100000)"
    )
    limits.add_argument("--timeout", type=float, default=60.0, metavar="S", help="seconds for an answer (default: 60)")
    limits.add_argument("--draws", type=integer, default=400, metavar="N", help="for a statistic (default: 400)")


def _conformance(options: argparse.Namespace, _: list[str]) -> int:
    show_all_characters()
    if options.list:
        print(list_of_checks())
        return 0
    if find_spec("scipy") is None:
        rule = "needs the package scipy: pip install 'decoding-engine[testing]'"
        raise ParameterError.single("conformance", "scipy", rule)
    from decoding.conformance import NoAnswerError

    try:
        report = _run_and_write(options)
    except NoAnswerError as error:
        raise CommandError(f"{options.url}: {error}") from None
    return 0 if report.passed else EXIT_FAILED


def _run_and_write(options: argparse.Namespace) -> Report:
    """Run the checks, print each result as it comes, and write the files that were asked for."""
    from decoding.conformance import Load, html_page, json_object, run_conformance
    from decoding.conformance.report import line

    if options.url is None or options.model is None:
        missing = "url" if options.url is None else "model"
        raise ParameterError.single(missing, None, "must be given: decoding conformance URL --model NAME")
    load = Load(
        concurrency=options.concurrency,
        max_requests=options.max_requests,
        max_tokens=options.max_tokens,
        timeout=options.timeout,
    )
    report = run_conformance(
        options.url,
        options.model,
        only=options.only,
        skip=options.skip,
        api_key=_api_key(options.api_key_env),
        prompt=options.prompt,
        num_draws=options.draws,
        load=load,
        on_result=lambda result: print(line(result), flush=True),
    )
    print(report.summary, flush=True)
    if options.json:
        write_whole(options.json, json.dumps(json_object(report), indent=1) + "\n")
    if options.html:
        write_whole(options.html, html_page(report))
    return report


def list_of_checks() -> str:
    """Return every check: id, sentence, reason."""
    from decoding.conformance import CHECKS

    return "\n".join(f"{check.id:<25}{check.sentence}\n{'':<25}why: {check.reason}" for check in CHECKS)


def _api_key(variable: str | None) -> str | None:
    if variable is None:
        return None
    if variable not in os.environ:
        raise ParameterError.single("--api-key-env", variable, "must name an environment variable that is set")
    return os.environ[variable]
