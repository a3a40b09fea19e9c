"""BlockManager: hands out the blocks of the KV cache, shares them, and remembers what is in them.

Plain integers: a block is a number, and nothing here knows a model. Sequences that begin alike share blocks, counted
by references. A block with several references is copied before one of its holders writes to it (copy on write). A
full block is known by a digest of its tokens and all tokens before it (prefix cache); once no sequence refers to it
any more it stays cached until the memory is needed, least recently used first.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Sequence

from decoding.engine.block_table import BlockTable


class BlockManager:
    """The blocks of one KV cache.

    num_blocks: blocks of the cache, >= 1.
    block_size: tokens per block.
    copy_block: copies the keys and values of one block to another, (source, target).
    prefix_cache: keep full blocks for later sequences that begin alike.
    """

    def __init__(
        self, num_blocks: int, block_size: int, copy_block: Callable[[int, int], None], *, prefix_cache: bool = True
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.prefix_cache = prefix_cache
        self._copy_block = copy_block
        self._references = [0] * num_blocks
        self._digests: list[bytes | None] = [None] * num_blocks
        self._block_of: dict[bytes, int] = {}
        self._unused = list(range(num_blocks - 1, -1, -1))  # a stack: low numbers first, so little memory is touched
        self._cached: dict[int, None] = {}  # blocks without references that keep their content, oldest first

    @property
    def num_free(self) -> int:
        """Blocks that can be allocated now; cached ones that no sequence refers to are among them."""
        return len(self._unused) + len(self._cached)

    @property
    def num_live(self) -> int:
        """Blocks that sequences refer to."""
        return self.num_blocks - self.num_free

    @property
    def num_used(self) -> int:
        """Blocks that sequences refer to or that are cached."""
        return self.num_blocks - len(self._unused)

    def num_blocks_of(self, num_tokens: int) -> int:
        """Return the number of blocks that hold `num_tokens` tokens."""
        return -(-num_tokens // self.block_size)

    def find(self, digests: Iterable[bytes]) -> list[int]:
        """Return the cached blocks of the longest prefix, given the digests of a sequence's full blocks."""
        found = []
        for digest in digests:
            block = self._block_of.get(digest)
            if block is None:
                break
            found.append(block)
        return found

    def num_needed(self, shared: Sequence[int], num_shared_tokens: int, num_tokens: int) -> int:
        """Return the free blocks that a sequence of `num_tokens` takes if it begins with the blocks `shared`.

        Cached blocks without references are free blocks, too. A shared block that is filled in part will be copied.
        """
        revived = sum(self._references[block] == 0 for block in shared)
        copied = num_shared_tokens % self.block_size > 0
        return revived + copied + self.num_blocks_of(num_tokens) - len(shared)

    def share(self, blocks: Sequence[int]) -> BlockTable:
        """Return a block table that begins with blocks of other sequences, or cached ones."""
        for block in blocks:
            self._cached.pop(block, None)
            self._references[block] += 1
        return BlockTable(list(blocks))

    def fork(self, table: BlockTable, num_tokens: int) -> BlockTable:
        """Return a block table that shares the blocks of the first `num_tokens` tokens of `table`."""
        return self.share(table.blocks[: self.num_blocks_of(num_tokens)])

    def reserve(self, table: BlockTable, start: int, end: int) -> bool:
        """Make tokens `start` to `end - 1` writable: allocate the missing blocks, copy the one that is shared.

        Return False, with nothing changed, if there are not enough free blocks.
        """
        blocks = table.blocks
        first = start // self.block_size
        missing = -(-end // self.block_size) - len(blocks)
        is_shared = first < len(blocks) and start < end and self._references[blocks[first]] > 1
        if missing <= 0 and not is_shared:
            return True
        if max(0, missing) + is_shared > self.num_free:
            return False
        if is_shared:
            source, target = blocks[first], self._take()
            self._copy_block(source, target)
            table.replace(first, target)
            self._release(source)
        for _ in range(missing):
            table.append(self._take())
        return True

    def register(self, table: BlockTable, digests: Sequence[bytes], first: int) -> None:
        """Make blocks `first` and later of a table findable: they are full, and digests[i] is that of block i."""
        if not self.prefix_cache:
            return
        for block, digest in zip(table.blocks[first:], digests[first:], strict=False):
            if self._digests[block] is None and digest not in self._block_of:
                self._block_of[digest] = block
                self._digests[block] = digest

    def truncate(self, table: BlockTable, num_tokens: int) -> None:
        """Release the blocks behind the first `num_tokens` tokens."""
        for block in reversed(table.cut(self.num_blocks_of(num_tokens))):
            self._release(block)

    def reopen(self, table: BlockTable, num_tokens: int) -> None:
        """Release the blocks behind the first tokens; the last block that stays is going to be written again.

        It cannot be found any more, unless it is shared: then it is copied before it is written.
        """
        self.truncate(table, num_tokens)
        if num_tokens % self.block_size and self._references[table.blocks[-1]] == 1:
            self._forget(table.blocks[-1])

    def free(self, table: BlockTable, *, forget: bool = False) -> None:
        """Release all blocks of a table, the last one first: a sequence's end is evicted before its beginning.

        forget: also remove them from the prefix cache, because their content may be wrong.
        """
        if forget:
            for block in table.blocks:
                self._forget(block)
        self.truncate(table, 0)

    def _take(self) -> int:
        if self._unused:
            block = self._unused.pop()
        else:
            block = next(iter(self._cached))  # the least recently used
            del self._cached[block]
            self._forget(block)
        self._references[block] = 1
        return block

    def _release(self, block: int) -> None:
        self._references[block] -= 1
        if self._references[block]:
            return
        if self._digests[block] is None:
            self._unused.append(block)
        else:
            self._cached[block] = None

    def _forget(self, block: int) -> None:
        digest = self._digests[block]
        if digest is not None:
            del self._block_of[digest]
            self._digests[block] = None


def block_digest(before: bytes, token_ids: Sequence[int], rope_regime: int) -> bytes:
    """Return the digest of a full block, chained to that of the block before.

    before: digest of the block before; for the first block b"", or a salt of at most 64 bytes: blocks with
        different salts are never shared.
    rope_regime: the rotary factors of the block's first token; keys with different rotary factors are not shared.
    """
    content = array("q", [*token_ids, rope_regime]).tobytes()
    return hashlib.blake2b(content, digest_size=16, key=before).digest()
