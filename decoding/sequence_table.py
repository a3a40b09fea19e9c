"""SequenceTable: checked sequences of token ids, in C's layout."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any


class SequenceTable(Sequence[tuple[int, ...]]):
    """An immutable list of sequences of token ids: all ids one after another, and the length of each sequence.

    A vocabulary of 150,000 tokens takes 1.2 MB, as tuples 12 MB. `SamplingParams` keeps a table unchanged.

    ids, lengths: int32, to be read only.
    max_id: the largest id; -1 if there is none.
    """

    __slots__ = ("ids", "lengths", "max_id")

    def __init__(self, sequences: Iterable[Sequence[int]], single_ids: Iterable[int] = ()) -> None:
        """sequences: token ids from 0 to 2**31 - 1, none empty. single_ids: sequences of one id, put first."""
        sequences = list(sequences)
        self.ids = array("i", single_ids)
        self.lengths = array("i", [1]) * len(self.ids)
        self.ids.extend(chain.from_iterable(sequences))
        self.lengths.extend(map(len, sequences))
        self.max_id = max(self.ids, default=-1)

    def __len__(self) -> int:
        """Return the number of sequences."""
        return len(self.lengths)

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        """Iterate over the sequences as tuples."""
        ids = iter(self.ids)
        return (tuple(islice(ids, length)) for length in self.lengths)

    def __getitem__(self, index: Any) -> Any:
        """Return a sequence, or a tuple of them for a slice; takes time linear in the table."""
        return tuple(self)[index]

    def __eq__(self, other: object) -> bool:
        """Return True for a table of the same sequences in the same order."""
        if not isinstance(other, SequenceTable):
            return NotImplemented
        return self.ids == other.ids and self.lengths == other.lengths

    def __hash__(self) -> int:
        """Return a hash of the contents."""
        return hash((self.ids.tobytes(), self.lengths.tobytes()))

    def __repr__(self) -> str:
        """Show the sequences as a tuple."""
        return repr(tuple(self))
