"""`--color`: the text on a terminal, its tokens coloured by their probability."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from decoding.cli.console import CommandError, say
from decoding.engine.beam_params import BeamSearchParams
from decoding.engine.text_spans import Span, TextSpans, num_skipped, probability_of
from decoding.params import SamplingParams
from decoding.presentation.scale import LEVELS, WHITE, Level, level_of

if TYPE_CHECKING:
    from decoding.engine.outputs import Choice, Logprobs
    from decoding.engine.request import Request

Params = TypeVar("Params", SamplingParams, BeamSearchParams)

Paint: TypeAlias = Callable[[str, Level], str]
"""Returns a text with the escape sequences that give it the colours of a level."""

WHEN = ("auto", "always", "never")


class _When(argparse.Action):
    """The flag with its value behind "=" only, as `ls --color` has it: a prompt may follow the flag."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        namespace.color = (option_string or "").partition("=")[2] or WHEN[0]


def add_color(command: argparse.ArgumentParser) -> None:
    """Add the flag."""
    command.add_argument(
        "--color",
        *(f"--color={when}" for when in WHEN),
        nargs=0,
        action=_When,
        dest="color",
        default="never",
        help="colour each token by its probability; alone or with auto, only if standard output is a terminal and"
        " NO_COLOR is not set (default: never; needs the extra `color`)",
    )


def paint_of(when: str) -> Paint | None:
    """Return the function that colours text; None without colours, which a note explains if they were asked for."""
    if when == "never":
        return None
    why_not = _why_not() if when == "auto" else None
    if why_not is not None:
        say(f"note: --color: {why_not}, so the text has no colours; --color=always colours it")
        return None
    try:
        from rich.color import Color, ColorSystem
        from rich.console import Console
        from rich.style import Style
    except ModuleNotFoundError:
        raise CommandError("--color: needs the package rich: pip install 'decoding-engine[color]'") from None
    name = Console(file=sys.stdout, force_terminal=True).color_system or "256"
    system = {"truecolor": ColorSystem.TRUECOLOR, "256": ColorSystem.EIGHT_BIT}.get(name, ColorSystem.STANDARD)
    styles = {}
    for level in LEVELS:
        if level.terminal_background is not None:
            exact, named = Color.from_rgb(*level.terminal_background), Color.parse(level.terminal_name)
            background = named if system == ColorSystem.STANDARD else exact
            styles[level] = Style.from_color(Color.from_rgb(*WHITE), background)

    def paint(text: str, level: Level) -> str:
        style = styles.get(level)
        if style is None:
            return text
        # A coloured line end would colour the rest of its line.
        return "\n".join(style.render(line, color_system=system) if line else "" for line in text.split("\n"))

    return paint


def _why_not() -> str | None:
    """Return why colours are off on this standard output; None if they are on."""
    if not sys.stdout.isatty():
        return "standard output is not a terminal"
    if os.environ.get("NO_COLOR"):
        return "NO_COLOR is set"
    if os.environ.get("TERM") == "dumb":
        return "TERM=dumb has none"
    return None


def with_logprobs(params: Params) -> Params:
    """Return parameters with the log-probabilities that colours need; they change no token."""
    return params if params.logprobs is not None else replace(params, logprobs=0)


def show_scale(paint: Paint) -> None:
    """Write the scale of colours to stderr if it is a terminal."""
    if sys.stderr.isatty():
        say("probability: " + " ".join(paint(f" {level.label} ", level) for level in LEVELS))


class ColouredText:
    """Colours a text that arrives in pieces."""

    def __init__(self, paint: Paint, num_skipped: int = 0) -> None:
        """num_skipped: as of `TextSpans`."""
        self._paint = paint
        self._spans = TextSpans(num_skipped)
        self._token_logprobs: list[float | None] = []

    def add(self, text: str, logprobs: Logprobs) -> str:
        """Return the next piece with its colours. logprobs: of the tokens that come with the piece."""
        self._token_logprobs += logprobs.token_logprobs
        return "".join(map(self._painted, self._spans.add(text, logprobs.text_offset)))

    def _painted(self, span: Span) -> str:
        probability = probability_of(span, self._token_logprobs)
        return span.text if probability is None else self._paint(span.text, level_of(probability))


def coloured_stream(request: Request, paint: Paint) -> ColouredText:
    """Return the text of a request that is streamed, to colour it."""
    if request.remainder is None or request.params.echo:
        return ColouredText(paint)
    return ColouredText(paint, len(request.remainder.data.decode("utf-8", "replace")))


def coloured_choice(choice: Choice, paint: Paint | None) -> str:
    """Return the text of a choice, with its colours if there are any."""
    if paint is None or choice.logprobs is None:
        return choice.text
    return ColouredText(paint, num_skipped(choice.text, choice.logprobs)).add(choice.text, choice.logprobs)
