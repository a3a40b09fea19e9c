"""Rotary position embeddings (Su et al. 2021) and the ways in which checkpoints stretch them.

Frequencies and angles are rounded to float32 where transformers rounds them, because so they were in training:
at position 100,000 an angle in float64 would differ by up to 0.004.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

Frequencies: TypeAlias = NDArray[np.float32]
Positions: TypeAlias = NDArray[np.intp]
Rotation: TypeAlias = NDArray[np.complex64]

_ONE = np.float32(1.0)
_MAX_CONTEXT = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """rope_type "default": pair j of a head turns by theta^(-2j/dim) for each position.

    dim: how many of the head's numbers turn, from the first (rounded up to pairs). attention_factor: what the
    turned numbers are multiplied with.
    """

    theta: float
    dim: int
    attention_factor: float = 1.0

    recomputes_past: ClassVar[bool] = False
    """Whether keys in the cache must be computed again when their sequence gets another regime."""

    @property
    def num_pairs(self) -> int:
        """Pairs of numbers that turn."""
        return (self.dim + 1) // 2

    def regimes(self, lengths: Positions) -> Positions:
        """For sequences of these lengths, numbers that `frequencies` takes; the same, where those are the same."""
        return np.zeros(len(lengths), np.intp)

    def frequencies(self, regime: int) -> Frequencies:
        """Radians per position, float32 [num_pairs]."""
        return _ONE / self.periods(self.theta)

    def context(self, max_position_embeddings: int) -> int:
        """How many tokens a sequence may have, where the config says `max_position_embeddings`."""
        return max_position_embeddings

    def periods(self, theta: float) -> Frequencies:
        """theta^(2j/dim)."""
        exponents = np.arange(0, self.dim, 2, dtype=np.float32) / np.float32(self.dim)
        return (np.float64(np.float32(theta)) ** exponents.astype(np.float64)).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearRope(Rope):
    """rope_type "linear" (Chen et al. 2023): all positions squeezed by `factor`."""

    factor: float

    def frequencies(self, regime: int) -> Frequencies:
        """As Rope's, divided by factor."""
        return _ONE / self.periods(self.theta) / np.float32(self.factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicRope(Rope):
    """rope_type "dynamic": beyond `trained` tokens theta grows with the length (NTK-aware scaling).

    The keys of earlier tokens stay as they were turned when they came, as in transformers: each forward pass
    takes the frequencies of the length that the sequence has at its end.
    """

    factor: float
    trained: int

    def regimes(self, lengths: Positions) -> Positions:
        """0 up to `trained`, the length itself beyond."""
        return np.where(lengths > self.trained, lengths, 0)

    def frequencies(self, regime: int) -> Frequencies:
        """As Rope's, with the theta of that length."""
        length = max(regime, self.trained)
        stretch = np.float32(self.factor * length / self.trained) - np.float32(self.factor - 1.0)
        theta = np.float32(self.theta) * stretch ** np.float32(self.dim / (self.dim - 2))
        return _ONE / self.periods(float(theta))

    def context(self, max_position_embeddings: int) -> int:
        """`factor` times what the config says, which is the trained length."""
        return max(max_position_embeddings, _stretched(max_position_embeddings, self.factor))


@dataclass(frozen=True, slots=True, kw_only=True)
class YarnRope(Rope):
    """rope_type "yarn" (Peng et al. 2023): slow pairs are squeezed by `factor`, fast ones are not.

    A pair that turns more than beta_fast times within `trained` positions is fast, fewer than beta_slow: slow;
    between the two the squeeze grows linearly with the pair's number, from whole numbers if `truncate`.
    """

    factor: float
    trained: int
    beta_fast: float
    beta_slow: float
    truncate: bool

    def frequencies(self, regime: int) -> Frequencies:
        """A mixture of Rope's and LinearRope's."""
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
        """The pair, as a real number, that turns that often within `trained` positions."""
        return self.dim * math.log(self.trained / (turns * 2 * math.pi)) / (2 * math.log(self.theta))

    def context(self, max_position_embeddings: int) -> int:
        """What the config says, or `factor` times the trained length, whichever is more."""
        return max(max_position_embeddings, _stretched(self.trained, self.factor))


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Rope(Rope):
    """rope_type "llama3": yarn's idea, with the bounds given as wavelengths, `trained` divided by two factors."""

    factor: float
    trained: int
    low_freq_factor: float
    high_freq_factor: float

    def frequencies(self, regime: int) -> Frequencies:
        """Rope's for short waves, divided by factor for long ones, in between a mixture of both."""
        plain = _ONE / self.periods(self.theta)
        waves = np.float32(2 * math.pi) / plain  # positions of one full turn
        low, high, factor = map(np.float32, (self.low_freq_factor, self.high_freq_factor, self.factor))
        smooth = (np.float32(self.trained) / waves - low) / (high - low)
        mixed = (_ONE - smooth) * plain / factor + smooth * plain
        long, short = waves > self.trained / self.low_freq_factor, waves < self.trained / self.high_freq_factor
        return np.where(long, plain / factor, np.where(short, plain, mixed))


@dataclass(frozen=True, slots=True, kw_only=True)
class LongRope(Rope):
    """rope_type "longrope" (Ding et al. 2024): a factor for each pair, other ones beyond `trained` tokens.

    A sequence that outgrows `trained` is computed again from its first token, as in transformers' `generate` for Phi-3.
    """

    trained: int
    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]

    recomputes_past: ClassVar[bool] = True

    def regimes(self, lengths: Positions) -> Positions:
        """0 up to `trained`, 1 beyond."""
        return (lengths > self.trained).astype(np.intp)

    def frequencies(self, regime: int) -> Frequencies:
        """Rope's, divided by the factors for such lengths."""
        factors = np.array(self.long_factor if regime else self.short_factor, np.float32)
        return _ONE / (factors * self.periods(self.theta))


def _stretched(length: int, factor: float) -> int:
    return max(1, int(min(length * factor, _MAX_CONTEXT)))


class RotaryTable:
    """exp(i * angle) for the pairs of a head, by position; computed when first asked for.

    Pairs that do not turn have 1, so that `layers.rotate` is the same for whole and partial rotary embeddings.
    """

    def __init__(self, rope: Rope, head_dim: int) -> None:
        self._rope = rope
        self._width = head_dim // 2
        self._tables: dict[int, Rotation] = {}

    def at(self, positions: Positions, lengths: Positions) -> Rotation:
        """[tokens] -> [tokens, head_dim/2]; lengths: of the sequences that the tokens belong to, after this pass."""
        regimes = self._rope.regimes(lengths)
        several = sorted(set(regimes.tolist()))
        if len(several) == 1:
            return self._rows(several[0], positions)
        rows = np.empty((len(positions), self._width), np.complex64)
        for regime in several:
            chosen = regimes == regime
            rows[chosen] = self._rows(regime, positions[chosen])
        return rows

    def _rows(self, regime: int, positions: Positions) -> Rotation:
        if regime > 1:  # a length of its own, which will not come back
            return self._turns(regime, positions)
        table = self._tables.get(regime)
        end = max(positions.tolist()) + 1
        if table is None or end > len(table):
            table = self._turns(regime, np.arange(max(end, 0 if table is None else 2 * len(table))))
            self._tables[regime] = table
        return table[positions]

    def _turns(self, regime: int, positions: Positions) -> Rotation:
        turns = np.ones((len(positions), self._width), np.complex64)
        with np.errstate(all="ignore"):  # what comes of an absurd factor shows in the logits
            angles = positions[:, None].astype(np.float32) * self._rope.frequencies(regime)
            turns[:, : self._rope.num_pairs] = np.exp(1j * angles.astype(np.float64)) * self._rope.attention_factor
        return turns
