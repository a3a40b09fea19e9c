"""Flags of a beam search, and its hypotheses in the terminal."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from decoding.cli.colour import Paint, coloured_choice
from decoding.cli.flags import integer, real
from decoding.engine.beam_params import OWN, BeamSearchParams, beams_of
from decoding.errors import ParameterError, shown
from decoding.params import SamplingParams

if TYPE_CHECKING:
    from decoding.engine.outputs import CompletionResult


def add_beam_flags(command: argparse.ArgumentParser) -> None:
    """Add the flags; those that are not given are not in the namespace."""
    group = command.add_argument_group("beam search")
    given: dict[str, Any] = {"default": argparse.SUPPRESS, "metavar": "N"}
    group.add_argument("--beam-width", type=integer, help="return the n best hypotheses of so many beams", **given)
    group.add_argument("--length-penalty", type=real, help="divide a score by this power of the length", **given)
    group.add_argument(
        "--early-stopping",
        type=_early_stopping,
        default=argparse.SUPPRESS,
        metavar="WORD",
        help="true, false or never: when the finished hypotheses are enough (default: false)",
    )
    group.add_argument("--num-beam-groups", type=integer, help="groups of beams that are to differ", **given)
    group.add_argument("--diversity-penalty", type=real, help="the cost of a token of an earlier group", **given)


def given_beams(options: argparse.Namespace, params: SamplingParams) -> BeamSearchParams | None:
    """Return the arguments of the beam search that the flags ask for, or None if they ask for none."""
    own = {name: getattr(options, name) for name in OWN if hasattr(options, name)}
    if hasattr(options, "beam_width"):
        return beams_of(params, {**own, "beam_width": options.beam_width})
    for name, value in own.items():
        raise ParameterError.single(name, value, "must come with --beam-width")
    return None


def print_hypotheses(result: CompletionResult, paint: Paint | None = None) -> None:
    """Print the text of each hypothesis under a line with its score."""
    for choice in result.choices:
        print(f"--- hypothesis {choice.index}: {choice.finish_reason}, score {choice.beam_score:.6f} ---")
        print(coloured_choice(choice, paint))


def _early_stopping(word: str) -> bool | str:
    words: dict[str, bool | str] = {"true": True, "false": False, "never": "never"}
    if word not in words:
        raise argparse.ArgumentTypeError(f"{shown(word)} is none of {', '.join(words)}")
    return words[word]
