"""Rotary position embeddings (Su et al. 2021) and the ways in which checkpoints stretch them.

Frequencies are rounded to float32 where transformers rounds them, because models were trained so. Their bits are the
same on every machine: powers and logarithms are those of `real_functions`, the rest is arithmetic that IEEE 754 rounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from decoding.models.real_functions import log, powers

Frequencies: TypeAlias = NDArray[np.float32]

_ONE = np.float32(1.0)
_MAX_CONTEXT = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """rope_type "default": pair j of a head is rotated by theta^(-2j/dim) per position.

    dim: the number of the head's elements that are rotated, from the first (rounded up to pairs).
    attention_factor: factor of the rotated elements.
    """

    theta: float
    dim: int
    attention_factor: float = 1.0

    @property
    def num_pairs(self) -> int:
        """Number of pairs that are rotated."""
        return (self.dim + 1) // 2

    @property
    def border(self) -> int | None:
        """The length beyond which the keys of all earlier tokens must be computed again; None if there is none."""
        return None

    def regime(self, length: int) -> int:
        """Return a number for sequences of this length: those with the same number have the same frequencies.

        0 is for the frequencies of short sequences.
        """
        return 0

    def frequencies(self, regime: int) -> Frequencies:
        """Return radians per position, float32 [num_pairs]."""
        return _ONE / self.periods(self.theta)

    def context(self, max_position_embeddings: int) -> int:
        """Return the maximum length of a sequence, given the config's `max_position_embeddings`."""
        return max_position_embeddings

    def periods(self, theta: float) -> Frequencies:
        """Return theta^(2j/dim), float32 [num_pairs]."""
        exponents = np.arange(0, self.dim, 2, dtype=np.float32) / np.float32(self.dim)
        return np.array(powers(float(np.float32(theta)), exponents.tolist()), np.float64).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearRope(Rope):
    """rope_type "linear" (Chen et al. 2023): all positions divided by `factor`."""

    factor: float

    def frequencies(self, regime: int) -> Frequencies:
        """Return the frequencies of Rope, divided by factor."""
        return _ONE / self.periods(self.theta) / np.float32(self.factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicRope(Rope):
    """rope_type "dynamic": beyond `trained` tokens theta grows with the length (NTK-aware scaling).

    The keys of earlier tokens stay as they were turned when they came, as in transformers: a prompt has the frequencies
    of its length, each later token those of the length that its sequence then has.
    """

    factor: float
    trained: int

    def regime(self, length: int) -> int:
        """Return 0 up to `trained`, the length itself beyond."""
        return length if length > self.trained else 0

    def frequencies(self, regime: int) -> Frequencies:
        """Return the frequencies of Rope, with the theta of that length."""
        length = max(regime, self.trained)
        stretch = np.float32(self.factor * length / self.trained) - np.float32(self.factor - 1.0)
        (growth,) = powers(float(stretch), [float(np.float32(self.dim / (self.dim - 2)))])
        return _ONE / self.periods(float(np.float32(self.theta) * np.float32(growth)))

    def context(self, max_position_embeddings: int) -> int:
        """Return `factor` times the config's value, which is the trained length."""
        return max(max_position_embeddings, _stretched(max_position_embeddings, self.factor))


@dataclass(frozen=True, slots=True, kw_only=True)
class YarnRope(Rope):
    """rope_type "yarn" (Peng et al. 2023): positions are divided by `factor` for slow pairs, not for fast ones.

    A pair with more than beta_fast turns within `trained` positions is fast, with fewer than beta_slow slow;
    between the two the divisor grows linearly with the pair's number, from whole numbers if `truncate`.
    """

    factor: float
    trained: int
    beta_fast: float
    beta_slow: float
    truncate: bool

    def frequencies(self, regime: int) -> Frequencies:
        """Return a mixture of the frequencies of Rope and LinearRope."""
        low, high = self._pair_of(self.beta_fast), self._pair_of(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, self.dim - 1)
        ramp = (np.arange(self.num_pairs, dtype=np.float32) - low) / ((high - low) or 0.001)
        keep = _ONE - np.clip(ramp, 0, 1, dtype=np.float32)
        periods = self.periods(self.theta)
        squeezed = _ONE / (np.float32(self.factor) * periods)
        mixed: Frequencies = squeezed * (_ONE - keep) + _ONE / periods * keep
        return mixed

    def _pair_of(self, turns: float) -> float:
        """Return the number of the pair, not rounded, with so many turns within `trained` positions."""
        return self.dim * log(self.trained / (turns * 2 * math.pi)) / (2 * log(self.theta))

    def context(self, max_position_embeddings: int) -> int:
        """Return the config's value, or `factor` times the trained length if that is more."""
        return max(max_position_embeddings, _stretched(self.trained, self.factor))


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Rope(Rope):
    """rope_type "llama3": like "yarn", with bounds on the wavelengths: `trained` divided by each of two factors."""

    factor: float
    trained: int
    low_freq_factor: float
    high_freq_factor: float

    def frequencies(self, regime: int) -> Frequencies:
        """Return the frequencies of Rope for short waves, divided by factor for long ones, and a mixture in between."""
        plain = _ONE / self.periods(self.theta)
        waves = np.float32(2 * math.pi) / plain  # positions of one full turn
        low, high, factor = map(np.float32, (self.low_freq_factor, self.high_freq_factor, self.factor))
        smooth = (np.float32(self.trained) / waves - low) / (high - low)
        mixed = (_ONE - smooth) * plain / factor + smooth * plain
        long, short = waves > self.trained / self.low_freq_factor, waves < self.trained / self.high_freq_factor
        return np.where(long, plain / factor, np.where(short, plain, mixed))


@dataclass(frozen=True, slots=True, kw_only=True)
class LongRope(Rope):
    """rope_type "longrope" (Ding et al. 2024): a factor for each pair, with other factors beyond `trained` tokens.

    A sequence that outgrows `trained` must be computed again from its first token, as in transformers' `generate` for
    Phi-3.
    """

    trained: int
    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]

    @property
    def border(self) -> int | None:
        """Return the trained length."""
        return self.trained

    def regime(self, length: int) -> int:
        """Return 0 up to `trained`, 1 beyond."""
        return 1 if length > self.trained else 0

    def frequencies(self, regime: int) -> Frequencies:
        """Return the frequencies of Rope, divided by the factors for that length."""
        factors = np.array(self.long_factor if regime else self.short_factor, np.float32)
        return _ONE / (factors * self.periods(self.theta))


def _stretched(length: int, factor: float) -> int:
    return max(1, int(min(length * factor, _MAX_CONTEXT)))
