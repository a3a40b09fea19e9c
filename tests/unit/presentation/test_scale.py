"""The scale of colours: text stays readable on every level, and the steps are those of the table."""

import pytest

from decoding.presentation.scale import HUE, LEVELS, MAX_OPACITY, WHITE, level_of

PAGES = {"white": (WHITE, (33, 33, 33)), "dark": ((17, 17, 17), (221, 221, 221)), "grey": ((48, 48, 48), WHITE)}
"""Backgrounds and text colours of notebooks."""

READABLE = 4.5
"""The contrast that WCAG 2.2 asks for (level AA)."""


def luminance(rgb):
    """Return the relative luminance of WCAG 2.2."""
    linear = [c / 12.92 if (c := value / 255) <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for value in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    """Return the contrast ratio of WCAG 2.2."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("level", LEVELS)
def test_text_of_a_page_is_readable(level, page):
    """The hue lies over a light or a dark background, and the page's own text on it has enough contrast."""
    background, text = PAGES[page]
    opacity = MAX_OPACITY * level.strength
    mixed = [hue * opacity + under * (1 - opacity) for hue, under in zip(HUE, background, strict=True)]
    assert contrast(mixed, text) >= READABLE
    assert level.css == (f"rgba({HUE[0]},{HUE[1]},{HUE[2]},{opacity:.2f})" if level.strength else "")


@pytest.mark.parametrize("level", LEVELS[1:])
def test_text_on_a_terminal_is_readable(level):
    """White text has enough contrast on each background, whatever the terminal's own colours are."""
    assert contrast(level.terminal_background, WHITE) >= READABLE


def test_levels_follow_the_probability():
    """A smaller probability never has a weaker colour, the smallest one of a level belongs to it, 0 has the last."""
    strengths = [level_of(step / 1000).strength for step in range(1001)]
    assert strengths == sorted(strengths, reverse=True)
    assert {level_of(level.minimum) for level in LEVELS} == set(LEVELS)
    assert (level_of(0.0), level_of(1.0)) == (LEVELS[-1], LEVELS[0])
    assert (LEVELS[0].css, LEVELS[0].terminal_background, LEVELS[0].terminal_name) == ("", None, "")
    assert [level.label for level in (LEVELS[0], LEVELS[-1])] == [">= 0.9", "< 0.01"]
