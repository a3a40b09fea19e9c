"""Tests of BlockManager: reference counts, copy on write, the prefix cache and its eviction, on integers only."""

import pytest

from decoding.engine.block_manager import BlockManager, block_digest

SIZE = 4


class Blocks(BlockManager):
    """A manager of blocks of four tokens that records which blocks it copied."""

    def __init__(self, num_blocks, **settings):
        self.copies = []
        super().__init__(num_blocks, SIZE, lambda source, target: self.copies.append((source, target)), **settings)

    def opened(self, num_tokens):
        """Return a block table with room for `num_tokens` tokens."""
        table = self.share(())
        assert self.reserve(table, 0, num_tokens)
        return table


def digests(token_ids, regime=0, salt=b""):
    """Return the digests of the full blocks of a sequence."""
    chain = [salt]
    for start in range(0, len(token_ids) - SIZE + 1, SIZE):
        chain.append(block_digest(chain[-1], token_ids[start : start + SIZE], regime))
    return chain[1:]


def test_blocks_are_allocated_as_tokens_need_them():
    """One block per four tokens is allocated, low numbers first; a reservation that does not fit changes nothing."""
    blocks = Blocks(3)
    table = blocks.opened(5)
    assert (table.blocks, table.array.tolist(), blocks.num_free) == ([0, 1], [0, 1], 1)
    assert blocks.reserve(table, 5, 8)
    assert not blocks.reserve(table, 5, 13)
    assert (len(table), blocks.num_free) == (2, 1)
    assert blocks.reserve(table, 5, 9)
    assert table.array.tolist() == [0, 1, 2]
    blocks.free(table)
    assert (len(table), blocks.num_free, blocks.num_used) == (0, 3, 0)


def test_a_fork_shares_and_a_write_copies():
    """A fork shares the full blocks; the partly filled block is copied once, for the first table that writes to it."""
    blocks = Blocks(6)
    table = blocks.opened(6)
    fork = blocks.fork(table, 6)
    assert fork.blocks == table.blocks == [0, 1]
    assert (blocks.num_live, blocks.copies) == (2, [])
    assert blocks.reserve(fork, 6, 7)
    assert (fork.blocks, table.blocks, blocks.copies) == ([0, 2], [0, 1], [(1, 2)])
    assert blocks.reserve(table, 6, 7)
    assert blocks.copies == [(1, 2)]
    blocks.free(table)
    assert blocks.num_live == 2
    blocks.free(fork)
    assert blocks.num_live == 0


def test_a_copy_that_does_not_fit_changes_nothing():
    """If no block is free for the copy, the write is refused and both tables stay unchanged."""
    blocks = Blocks(2)
    table = blocks.opened(7)
    fork = blocks.fork(table, 7)
    assert not blocks.reserve(fork, 7, 8)
    assert (fork.blocks, table.blocks, blocks.copies) == ([0, 1], [0, 1], [])
    blocks.free(table)
    assert blocks.reserve(fork, 7, 8)
    assert blocks.copies == []


def test_truncate_releases_blocks_of_drafts():
    """Truncating a table frees the blocks behind its last token and shortens its array."""
    blocks = Blocks(4)
    table = blocks.opened(13)
    assert table.array.tolist() == [0, 1, 2, 3]
    blocks.truncate(table, 8)
    assert (table.array.tolist(), blocks.num_free) == ([0, 1], 2)


def test_full_blocks_are_found_again():
    """The longest cached prefix is found while its sequence runs and after it has ended."""
    blocks = Blocks(4)
    token_ids = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    table = blocks.opened(9)
    blocks.register(table, digests(token_ids), 0)
    assert blocks.find(digests([1, 2, 3, 4, 0, 0, 0, 0])) == [0]
    assert blocks.find(digests([0, 2, 3, 4, 5, 6, 7, 8])) == []
    blocks.free(table)
    assert (blocks.num_free, blocks.num_used, blocks.num_live) == (4, 2, 0)
    found = blocks.find(digests(token_ids))
    assert found == [0, 1]
    assert blocks.num_needed(found, 8, 9) == 3
    again = blocks.share(found)
    assert (blocks.num_free, blocks.num_live) == (2, 2)
    blocks.free(again)
    assert blocks.find(digests(token_ids)) == [0, 1]


def test_eviction_takes_the_least_recently_used_end_first():
    """Unused blocks are taken first, then cached ones: the least recently used sequence's, last block first."""
    blocks = Blocks(4)
    old, new = [1] * 8, [2] * 4
    for token_ids in (old, new):
        table = blocks.opened(len(token_ids))
        blocks.register(table, digests(token_ids), 0)
        blocks.free(table)
    table = blocks.opened(4)
    assert (len(blocks.find(digests(old))), len(blocks.find(digests(new)))) == (2, 1)
    assert blocks.reserve(table, 4, 8)
    assert (len(blocks.find(digests(old))), len(blocks.find(digests(new)))) == (1, 1)
    assert blocks.reserve(table, 8, 12)
    assert (len(blocks.find(digests(old))), len(blocks.find(digests(new)))) == (0, 1)


def test_a_block_shared_again_is_evicted_later():
    """A cached block that was shared again becomes the most recently used one when it is freed."""
    blocks = Blocks(2)
    for token_ids in ([1] * 4, [2] * 4):
        table = blocks.opened(4)
        blocks.register(table, digests(token_ids), 0)
        blocks.free(table)
    blocks.free(blocks.share(blocks.find(digests([1] * 4))))
    blocks.opened(4)
    assert (len(blocks.find(digests([1] * 4))), len(blocks.find(digests([2] * 4)))) == (1, 0)


def test_forgotten_blocks_are_not_found():
    """Blocks freed with forget=True, as after a failed sequence, leave the cache."""
    blocks = Blocks(3)
    table = blocks.opened(9)
    blocks.register(table, digests([1] * 9), 0)
    blocks.free(table, forget=True)
    assert (blocks.find(digests([1] * 9)), blocks.num_used) == ([], 0)


def test_without_a_prefix_cache_nothing_is_found():
    """Without a prefix cache no block is found again, and freed blocks are unused at once."""
    blocks = Blocks(3, prefix_cache=False)
    table = blocks.opened(8)
    blocks.register(table, digests([1] * 8), 0)
    assert blocks.find(digests([1] * 8)) == []
    blocks.free(table)
    assert blocks.num_used == 0


def test_equal_blocks_of_two_sequences_are_cached_once():
    """If two sequences register equal blocks, only the first one's blocks are cached."""
    blocks = Blocks(4)
    tables = [blocks.opened(4) for _ in range(2)]
    for table in tables:
        blocks.register(table, digests([1] * 4), 0)
        blocks.free(table)
    assert (blocks.num_used, blocks.find(digests([1] * 4))) == (1, [0])


@pytest.mark.parametrize("other", [{"regime": 1}, {"salt": b"tenant"}])
def test_digests_depend_on_rotary_factors_and_salt(other):
    """Equal tokens under other rotary factors, or another salt, have other digests in every block."""
    plain, changed = digests([1] * 12), digests([1] * 12, **other)
    assert len(plain) == 3
    assert not set(plain) & set(changed)
    assert digests([1] * 8) == plain[:2]
