"""`decoding batch` and `decoding replay`: files in, files out."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decoding.completions_api.batch_run import BatchCounts

EXIT_DIFFERENT = 1


def add_batch(commands: Any) -> None:
    """Put the command among the others."""
    batch = commands.add_parser(
        "batch",
        help="run a file of requests",
        description="Run an OpenAI batch file: a JSON object a line in (custom_id, method POST, url /v1/completions,"
        " body), one out. Answers are written as they finish. Started again, it goes on where it was interrupted.",
    )
    batch.add_argument("input", metavar="IN.jsonl", help="the requests")
    batch.add_argument("output", metavar="OUT.jsonl", help="their answers; what is there already is not run again")
    _add_model(batch)
    batch.set_defaults(run=_batch)


def add_replay(commands: Any) -> None:
    """Put the command among the others."""
    replay = commands.add_parser(
        "replay",
        help="run a completion again and compare it",
        description="Run the request of a replay capsule again (`decoding complete --capsule FILE` saves one) and say"
        f" where the outcome first differs, to the bit. The exit code is {EXIT_DIFFERENT} where it does.",
    )
    replay.add_argument("file", metavar="FILE", help="the capsule")
    replay.add_argument("--force", action="store_true", help="take the capsule's tokens, and show their logprobs here")
    _add_model(replay)
    replay.set_defaults(run=_replay)


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", metavar="PATH", help="folder of a Hugging Face checkpoint (default: bundled)")


def _batch(options: argparse.Namespace, _: list[str]) -> None:
    from decoding.completions_api.batch_run import BatchRun
    from decoding.llm import LLM

    bar = _Bar()
    try:
        counts = BatchRun(LLM(options.model), Path(options.input), Path(options.output)).run(bar)
    finally:
        bar.end()
    skipped = f", {counts.num_skipped} were there already" if counts.num_skipped else ""
    failed = f", {counts.num_failed} of them errors" if counts.num_failed else ""
    sys.stderr.write(f"{counts.num_answered} answers{failed}{skipped}: {options.output}\n")


class _Bar:
    """A line on a terminal that says how far the batch is; nothing elsewhere."""

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
        """What follows starts on a line of its own."""
        if self._shown and self._last > self._begin:
            sys.stderr.write("\n")


def _replay(options: argparse.Namespace, _: list[str]) -> int:
    from decoding.engine.replay import Capsule
    from decoding.llm import LLM

    capsule = Capsule.load(options.file)
    replay = LLM(options.model).replay(capsule, force=options.force)
    if options.force:
        for choice in replay.result.choices:
            logprobs = [] if choice.logprobs is None else choice.logprobs.token_logprobs
            for token_id, logprob in zip(choice.token_ids, logprobs, strict=True):
                sys.stdout.write(f"{choice.index} {token_id:>7} {'-' if logprob is None else repr(logprob)}\n")
    sys.stdout.write(f"{replay}\n")
    return 0 if replay.is_same else EXIT_DIFFERENT
