"""The scale of colours for probabilities: one hue, the stronger the less likely a token is.

Notebooks and pages lay the hue over the background that is there, light or dark, so the text keeps its own colour. A
terminal's background is unknown, so there the scale goes from grey to the hue under white text.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

Rgb: TypeAlias = tuple[int, int, int]
"""Red, green and blue of sRGB, 0 to 255."""

HUE: Rgb = (180, 60, 10)
GREY: Rgb = (112, 112, 112)
WHITE: Rgb = (255, 255, 255)
MAX_OPACITY = 0.6
"""Maximum opacity of the hue over a page's background, on which light and dark pages' text stays readable."""


class Level(NamedTuple):
    """A step of the scale.

    minimum: the smallest probability of the step.
    strength: of the hue, from 0 (no colour at all) to 1.
    """

    minimum: float
    strength: float

    @property
    def label(self) -> str:
        """The step's rule, for a legend: ">= 0.5"."""
        return f">= {self.minimum:g}" if self.minimum else f"< {LEVELS[-2].minimum:g}"

    @property
    def css(self) -> str:
        """The background as a CSS colour; "" without colour."""
        if not self.strength:
            return ""
        red, green, blue = HUE
        return f"rgba({red},{green},{blue},{MAX_OPACITY * self.strength:.2f})"

    @property
    def terminal_background(self) -> Rgb | None:
        """The background on a terminal, under white text; None without colour."""
        if not self.strength:
            return None
        red, green, blue = (round(grey + (hue - grey) * self.strength) for grey, hue in zip(GREY, HUE, strict=True))
        return red, green, blue

    @property
    def terminal_name(self) -> str:
        """The background by name, on a terminal with 16 colours; "" without colour."""
        if not self.strength:
            return ""
        return "bright_black" if self.strength < 0.5 else "red"


LEVELS = (Level(0.9, 0.0), Level(0.5, 0.2), Level(0.2, 0.4), Level(0.05, 0.6), Level(0.01, 0.8), Level(0.0, 1.0))
"""Steps of the scale, from likely to unlikely."""


def level_of(probability: float) -> Level:
    """Return the step that a probability belongs to."""
    return next((level for level in LEVELS if probability >= level.minimum), LEVELS[-1])
