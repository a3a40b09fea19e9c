"""`decoding replay`: run a completion again from its capsule and compare it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from decoding.cli.console import EXIT_DIFFERENT, CommandError
from decoding.cli.model_flags import add_model, load_llm
from decoding.errors import shown

if TYPE_CHECKING:
    from decoding.engine.outputs import CompletionResult


def add_replay(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "replay",
        help="run a completion again and compare it",
        description="Run the request of a replay capsule again (`decoding complete --capsule FILE` saves one) and print"
        f" where the outcome first differs, to the bit. The exit code is {EXIT_DIFFERENT} if it does.",
    )
    command.add_argument("file", metavar="FILE", help="the capsule")
    command.add_argument("--force", action="store_true", help="use the capsule's tokens, and show their logprobs here")
    add_model(command)
    command.set_defaults(run=_replay)


def _replay(options: argparse.Namespace, _: list[str]) -> int:
    from decoding.engine.replay import Capsule
    from decoding.model_loading import BUNDLED_NAME

    capsule = Capsule.load(options.file)
    if options.model is None and capsule.model != BUNDLED_NAME:
        ran, usual = shown(capsule.model), shown(BUNDLED_NAME)
        raise CommandError(f"--model PATH is needed: the capsule is of the model {ran}, without it {usual} would run")
    replay = load_llm(options.model, options).replay(capsule, force=options.force)
    if options.force:
        _print_tokens(replay.result)
    print(replay)
    return 0 if replay.is_same else EXIT_DIFFERENT


def _print_tokens(result: CompletionResult) -> None:
    """Print one line per token: choice, token id, log-probability."""
    for choice in result.choices:
        logprobs = [] if choice.logprobs is None else choice.logprobs.token_logprobs
        for token_id, logprob in zip(choice.token_ids, logprobs, strict=True):
            print(f"{choice.index} {token_id:>7} {'-' if logprob is None else repr(logprob)}")
