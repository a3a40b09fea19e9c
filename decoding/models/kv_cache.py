"""NativeKVCache: keys and values of tokens, in blocks as the native forward pass lays them out."""

from __future__ import annotations

import numpy as np

from decoding.errors import ParameterError
from decoding.models.batch import check_num_blocks

_ALIGNMENT = 64


class NativeKVCache:
    """`num_blocks` blocks of `block_bytes` bytes, in one allocation of address space.

    The system gives memory for a block when it is first written. What an unwritten token holds is never read into a
    result.
    """

    def __init__(self, num_blocks: int, block_bytes: int) -> None:
        """Reserve the address space; ParameterError if the system refuses it."""
        self.num_blocks = check_num_blocks(num_blocks)
        self.block_bytes = block_bytes
        try:
            memory = np.empty(num_blocks * block_bytes + _ALIGNMENT, np.uint8)
        except MemoryError:
            rule = f"needs {num_blocks * block_bytes:,} bytes, which the system refuses"
            raise ParameterError.single("num_blocks", num_blocks, rule) from None
        begin = -memory.ctypes.data % _ALIGNMENT
        self._blocks = memory[begin : begin + num_blocks * block_bytes].reshape(num_blocks, block_bytes)
        self.address: int = self._blocks.ctypes.data

    def copy_block(self, source: int, target: int) -> None:
        """Make block `target` equal to block `source`."""
        self._blocks[target] = self._blocks[source]
