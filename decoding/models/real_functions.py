"""Powers and logarithms with the same bits on every machine.

The functions of numpy and of the C library differ in the last bit between machines, and with them the angles of rotary
embeddings and the logits. These are computed in decimal, to more digits than a float64 has, and rounded once.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Context, Decimal

_CONTEXT = Context(prec=30, traps=[])  # infinite and undefined results are numbers, as in numpy


def log(x: float) -> float:
    """Return the natural logarithm of x > 0."""
    return float(_CONTEXT.ln(Decimal(x)))


def powers(base: float, exponents: Iterable[float]) -> list[float]:
    """Return base^e for each exponent, base > 0; some 10 us each."""
    logarithm = _CONTEXT.ln(Decimal(base))
    return [float(_CONTEXT.exp(_CONTEXT.multiply(logarithm, Decimal(e)))) if e else 1.0 for e in exponents]
