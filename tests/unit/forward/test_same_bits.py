"""The same logits to the bit for all instruction sets, threads, batches, chunks, block orders and old memory."""

from __future__ import annotations

import numpy as np
import pytest

from decoding.sampling.kernel import active_isa, available_isas, forced_isa

LENGTH = 75


@pytest.fixture
def tokens(network):
    """Return a sequence of five blocks."""
    return [(5 * i + i * i) % network.shape.vocab_size for i in range(LENGTH)]


@pytest.fixture
def logits(kit, network, tokens):
    """Return the logits computed in one call with the widest instruction set."""
    return kit.alone(network, tokens)


def assert_same_bits(actual, expected):
    """Assert equal bits."""
    assert actual.shape == expected.shape
    assert (actual.view(np.uint32) == expected.view(np.uint32)).all()


@pytest.mark.parametrize("isa", available_isas())
def test_instruction_sets(kit, network, tokens, logits, isa):
    """Every instruction set computes the same bits as the widest."""
    with forced_isa(isa):
        assert active_isa() == isa
        assert_same_bits(kit.alone(network, tokens), logits)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_threads(kit, network, tokens, logits, threads):
    """A pool of threads computes the same bits as the calling thread alone."""
    assert_same_bits(kit.alone(network, tokens, threads=threads), logits)


@pytest.mark.parametrize("chunk", [1, 2, 7, 16, 64])
def test_chunks(kit, network, tokens, logits, chunk):
    """A sequence computed in chunks, with cache blocks in any order, has the same bits as in one call."""
    runner = kit.Runner(network, num_blocks=9)
    runner.add(0, [8, 3, 5, 0, 1])
    parts = [runner.step({0: tokens[i : i + chunk]}) for i in range(0, LENGTH, chunk)]
    assert_same_bits(np.concatenate(parts), logits)


def test_wanted_rows(kit, network, tokens, logits):
    """Any subset of the rows of logits, also an empty one, has the same bits as all rows."""
    for wanted in ([], [0], [LENGTH - 1], [0, 16, 17, 50], list(range(1, LENGTH))):
        runner = kit.Runner(network, num_blocks=5)
        runner.add(0, range(5))
        assert_same_bits(runner.step({0: tokens}, wanted), logits[wanted])


def test_batches(kit, network, tokens, logits):
    """A sequence has the same bits alone and in a batch of up to 64."""
    for size in (2, 5, 64):
        runner = kit.Runner(network, num_blocks=5 * size, threads=2)
        for sequence in range(size):
            runner.add(sequence, range(5 * sequence, 5 * sequence + 5))
        others = {s: tokens[: 1 + (11 * s) % 30] for s in range(1, size)}
        first = runner.step({**others, 0: tokens[:20]})[-20:]
        rest = [runner.step({0: [tokens[i]], **{s: [tokens[s % LENGTH]] for s in others}})[:1] for i in range(20, 30)]
        assert_same_bits(np.concatenate([first, *rest]), logits[:30])


def test_old_cache_memory_changes_no_bit(kit, network, tokens, logits):
    """The previous content of the cache memory, NaN and infinities included, does not change a bit."""
    for fill in (np.inf, -np.inf, 3e38, 0.0):
        assert_same_bits(kit.alone(network, tokens, fill=fill), logits)
