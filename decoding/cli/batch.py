"""`decoding batch`: a file of requests in, a file of answers out."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decoding.cli.api_flags import add_api, add_limits, add_models, api_settings, model_folders
from decoding.cli.console import EXIT_FAILED, say
from decoding.cli.model_flags import add_chat_template, add_engine, load_llm, set_chat_template

if TYPE_CHECKING:
    from decoding.completions_api.batch_run import BatchCounts


def add_batch(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "batch",
        help="run a file of requests",
        description="Run an OpenAI batch file: one JSON object per line (custom_id, method POST, url /v1/completions"
        " or /v1/chat/completions, body), one answer per line. Answers are written as they finish. If it is started"
        " again, it continues where it was interrupted."
        f" The exit code is {EXIT_FAILED} if a line failed, in this run or an earlier one.",
    )
    command.add_argument("input", metavar="IN.jsonl", help="the requests")
    command.add_argument("output", metavar="OUT.jsonl", help="their answers; a request that has one is not run again")
    add_models(command)
    add_api(command)
    add_chat_template(command)
    add_engine(command.add_argument_group("the engine of each model"))
    add_limits(command.add_argument_group("limits on a request"))
    command.set_defaults(run=_batch)


def _batch(options: argparse.Namespace, _: list[str]) -> int:
    from decoding.completions_api.batch_run import BatchRun

    settings, folders = api_settings(options), model_folders(options)
    bar = _Bar()
    try:
        llms = {name: load_llm(path, options) for name, path in folders.items()}
        for llm in llms.values():
            set_chat_template(llm, options)
        run = BatchRun(llms, Path(options.input), Path(options.output), settings, warn=bar.warn)
        counts = run.run(bar)
    finally:
        bar.end()
    skipped = f", {counts.num_skipped} were there already" if counts.num_skipped else ""
    failed = f"; {counts.num_failed} of {counts.num_lines} lines failed" if counts.num_failed else ""
    say(f"{counts.num_answered} answers{skipped}{failed}: {options.output}")
    return EXIT_FAILED if counts.num_failed else 0


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

    def warn(self, text: str) -> None:
        """Write a warning on a line of its own."""
        clear = "\r\x1b[K" if self._shown else ""
        say(f"{clear}warning: {text}")

    def end(self) -> None:
        """End the bar's line, if there is one."""
        if self._shown and self._last > self._begin:
            sys.stderr.write("\n")
