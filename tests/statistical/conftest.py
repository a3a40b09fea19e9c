"""Tests of goodness of fit, without scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest


def chi_square_survival(statistic, degrees):
    """P(X >= statistic) for chi-square with `degrees` of freedom: the regularised upper incomplete gamma function.

    Q(a, x) with a = degrees / 2, x = statistic / 2: one minus the series of P below a + 1, Lentz's continued fraction
    above (Press et al., "Numerical Recipes", section 6.2).
    """
    a, x = degrees / 2, statistic / 2
    if x <= 0:
        return 1.0
    front = math.exp(a * math.log(x) - x - math.lgamma(a))
    return 1 - front * _series(a, x) if x < a + 1 else front * _fraction(a, x)


def _series(a, x):
    term = total = 1 / a
    k = a
    while term > total * 1e-16:
        k += 1
        term *= x / k
        total += term
    return total


def _fraction(a, x):
    b = x + 1 - a
    c, d = 1e300, 1 / b
    value = d
    for i in range(1, 10_000):
        b += 2
        d = 1 / (b - i * (i - a) * d)
        c = b - i * (i - a) / c
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value


def g_test(counts, probabilities, *, smallest_expected=10.0):
    """p-value of the G-test (likelihood ratio, Sokal & Rohlf) that `counts` were drawn from `probabilities`.

    Cells are pooled, from the least likely up, until each expects at least `smallest_expected` draws.
    """
    order = np.argsort(probabilities)
    expected, observed = [0.0], [0]
    for cell in order:
        if expected[-1] >= smallest_expected:
            expected.append(0.0)
            observed.append(0)
        expected[-1] += probabilities[cell] * counts.sum()
        observed[-1] += int(counts[cell])
    pairs = zip(observed, expected, strict=True)
    g = 2 * sum(o * math.log(o / e) for o, e in pairs if o)
    return chi_square_survival(g, len(expected) - 1) if len(expected) > 1 else 1.0


@pytest.fixture(name="g_test", scope="session")
def g_test_fixture():
    """The function `g_test(counts, probabilities) -> p-value`."""
    return g_test


@pytest.fixture(name="chi_square_survival", scope="session")
def chi_square_survival_fixture():
    """The function `chi_square_survival(statistic, degrees) -> probability`."""
    return chi_square_survival
