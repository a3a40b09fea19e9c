"""BlockTable: the blocks of the KV cache that hold one sequence."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class BlockTable:
    """Block numbers in the order of the sequence: `blocks` for the policy, `array` for the forward pass."""

    __slots__ = ("_array", "blocks")

    def __init__(self, blocks: list[int] | None = None) -> None:
        self.blocks: list[int] = [] if blocks is None else blocks
        self._array: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        """Return the number of blocks."""
        return len(self.blocks)

    @property
    def array(self) -> NDArray[np.int32]:
        """The block numbers as int32; rebuilt only after a change."""
        if self._array is None:
            self._array = np.array(self.blocks, np.int32)
        return self._array

    def append(self, block: int) -> None:
        """Add a block at the end."""
        self.blocks.append(block)
        self._array = None

    def replace(self, index: int, block: int) -> None:
        """Put another block at `index`."""
        self.blocks[index] = block
        self._array = None

    def cut(self, num_blocks: int) -> list[int]:
        """Keep the first `num_blocks` blocks and return the others."""
        removed = self.blocks[num_blocks:]
        if removed:
            del self.blocks[num_blocks:]
            self._array = None
        return removed
