"""`decoding batch`: a file of requests in, a file of answers out."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decoding.cli.console import say
from decoding.cli.model_flags import MODEL_HELP, add_chat_template, add_engine, load_llm, set_chat_template

if TYPE_CHECKING:
    from decoding.completions_api.batch_run import BatchCounts


def add_batch(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "batch",
        help="run a file of requests",
        description="Run an OpenAI batch file: one JSON object per line (custom_id, method POST, url /v1/completions"
        " or /v1/chat/completions, body), one answer per line. Answers are written as they finish. If it is started"
        " again, it continues where it was interrupted.",
    )
    command.add_argument("input", metavar="IN.jsonl", help="the requests")
    command.add_argument("output", metavar="OUT.jsonl", help="their answers; a request that has one is not run again")
    command.add_argument("--model", metavar="PATH", help=MODEL_HELP)
    add_chat_template(command)
    add_engine(command.add_argument_group("the engine"))
    command.set_defaults(run=_batch)


def _batch(options: argparse.Namespace, _: list[str]) -> None:
    from decoding.completions_api.batch_run import BatchRun

    bar = _Bar()
    try:
        llm = load_llm(options.model, options)
        set_chat_template(llm, options)
        run = BatchRun(llm, Path(options.input), Path(options.output))
        counts = run.run(bar)
    finally:
        bar.end()
    skipped = f", {counts.num_skipped} were there already" if counts.num_skipped else ""
    failed = f", {counts.num_failed} of them errors" if counts.num_failed else ""
    say(f"{counts.num_answered} answers{failed}{skipped}: {options.output}")


class _Bar:
    """A progress bar on a terminal; nothing elsewhere."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._begin = self._last = time.monotonic()

    def __call__(self, counts: BatchCounts) -> None:
        now = time.monotonic()
        done = counts.num_answered + counts.num_skipped
        if not self._shown or (now - self._last < 0.1 and done < counts.num_lines):
            return
        self._last = now
        width = 30 * done // max(1, counts.num_lines)
        pace = counts.num_tokens / max(1e-9, now - self._begin)
        sys.stderr.write(f"\r[{'#' * width:<30}] {done}/{counts.num_lines}, {pace:,.0f} tokens/s\x1b[K")
        sys.stderr.flush()

    def end(self) -> None:
        """End the bar's line, if there is one."""
        if self._shown and self._last > self._begin:
            sys.stderr.write("\n")
