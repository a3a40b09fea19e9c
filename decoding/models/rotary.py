"""Rows of rotary tables for the tokens of a batch, with the frequencies for the length of each token's sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from decoding.errors import UnsupportedModelError
from decoding.models.batch import ForwardBatch, Indices
from decoding.models.config import ModelConfig
from decoding.models.rope import Frequencies, Rope

Table: TypeAlias = NDArray[np.float32]
Compute: TypeAlias = Callable[[Frequencies, float, int, int], Table]
"""(frequencies, attention_factor, first position, number of positions) -> rows [positions, 2 * pairs]."""

_FIRST_POSITIONS = 256


class Rows(NamedTuple):
    """The rows of some tokens: token i of `tokens` has table[offsets[i]]."""

    tokens: slice | NDArray[np.bool_]
    table: Table
    offsets: Indices


class RotaryTables:
    """Tables of the rotary embeddings of a model, computed when positions are first needed and kept.

    ropes: the different embeddings of the layers, in the order of their numbers.
    border: as `batch.Model.rope_border`.
    """

    def __init__(self, config: ModelConfig, compute: Compute) -> None:
        """Take the ropes of `config`; UnsupportedModelError if two of them change at different lengths."""
        self.ropes: tuple[Rope, ...] = tuple(dict.fromkeys(layer.rope for layer in config.layers if layer.rope))
        borders = {rope.border for rope in self.ropes} - {None}
        if len(borders) > 1:
            lengths = ", ".join(map(str, sorted(filter(None, borders))))
            raise UnsupportedModelError(f"rotary embeddings that change their factors at different lengths: {lengths}")
        self.border = next(iter(borders), None)
        self._tables = [_Tables(rope, compute) for rope in self.ropes]
        self._by_length = [rope for rope in self.ropes if type(rope).regime is not Rope.regime]

    def index(self, rope: Rope | None) -> int | None:
        """Return the number of a layer's rotary embedding."""
        return None if rope is None else self.ropes.index(rope)

    def regime(self, length: int) -> int:
        """Return a number that is equal for two lengths if and only if all embeddings have the same frequencies."""
        return max((rope.regime(length) for rope in self._by_length), default=0)

    @property
    def depends_on_length(self) -> bool:
        """True if the rows of a position are not the same in every sequence."""
        return bool(self._by_length)

    def rows(self, batch: ForwardBatch) -> Iterator[Sequence[Rows]]:
        """Yield, for each rotary embedding, the rows of all new tokens, in one piece or in several."""
        for tables in self._tables:
            yield tables.rows(batch)


class _Tables:
    """The tables of one rotary embedding: one for short sequences, and one for each other regime in use."""

    def __init__(self, rope: Rope, compute: Compute) -> None:
        self._rope = rope
        self._compute = compute
        self._kept: dict[int, Table] = {}
        self._depends_on_length = type(rope).regime is not Rope.regime
        self._frequencies = lru_cache(maxsize=64)(self._compute_frequencies)

    def rows(self, batch: ForwardBatch) -> Sequence[Rows]:
        """Return the rows of all new tokens."""
        if not self._depends_on_length:
            return [Rows(slice(None), self._table(0, max(batch.ends)), batch.positions)]
        regimes = np.array([self._rope.regime(length) for length in batch.token_lengths.tolist()])
        return [self._rows(regimes == regime, regime, batch.positions) for regime in np.unique(regimes).tolist()]

    def _rows(self, tokens: NDArray[np.bool_], regime: int, positions: Indices) -> Rows:
        positions = positions[tokens]
        first, after = int(positions.min()), int(positions.max()) + 1
        if regime <= 1:
            return Rows(tokens, self._table(regime, after), positions)
        table = self._run(regime, first, after - first)  # a length of its own, which will not come back
        return Rows(tokens, table, positions - first)

    def _table(self, regime: int, num_positions: int) -> Table:
        """Return the table of a regime, for at least so many positions."""
        table = self._kept.get(regime)
        if table is None or num_positions > len(table):
            known = _FIRST_POSITIONS if table is None else 2 * len(table)
            table = self._kept[regime] = self._run(regime, 0, max(num_positions, known))
        return table

    def _run(self, regime: int, first: int, num_positions: int) -> Table:
        return self._compute(self._frequencies(regime), self._rope.attention_factor, first, num_positions)

    def _compute_frequencies(self, regime: int) -> Frequencies:
        with np.errstate(all="ignore"):  # what comes of an absurd factor shows in the logits
            return self._rope.frequencies(regime)
