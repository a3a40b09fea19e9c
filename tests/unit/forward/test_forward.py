"""The native forward pass against float64: all shapes of networks, and sizes around those of vectors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest


def tokens_for(vocab_size, count):
    """Return token ids that cover the vocabulary."""
    return [(7 * i + i * i) % vocab_size for i in range(count)]


def test_every_shape(kit, network):
    """The logits of a sequence of five blocks agree with float64 for each shape of network."""
    tokens = tokens_for(network.shape.vocab_size, 75)
    expected = kit.Float64Network(network)(tokens)
    assert np.abs(kit.alone(network, tokens) - expected).max() < 2e-5 * max(1.0, np.abs(expected).max())


SIZES = [1, 2, 15, 16, 17, 31, 32, 33, 255, 256, 257, 513]


@pytest.mark.parametrize("weight_type", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("size", SIZES)
def test_sizes(kit, size, weight_type):
    """Logits agree with float64 for hidden, inner and vocabulary sizes around vectors and their multiples."""
    shape = replace(kit.BASE, hidden_size=size, intermediate_size=size, vocab_size=size, weight_type=weight_type)
    network, tokens = kit.Network(shape), tokens_for(size, 20)
    expected = kit.Float64Network(network)(tokens)
    assert np.abs(kit.alone(network, tokens) - expected).max() < 2e-5 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("head_dim", [1, 2, 3, 15, 16, 17, 31, 33, 48, 64, 65, 127, 128, 129, 257])
@pytest.mark.parametrize("group", [1, 2, 3, 5, 8])
def test_heads(kit, head_dim, group):
    """Logits agree with float64 for heads of any size and any number of heads per key-value head."""
    pairs = (head_dim // 2,) if head_dim > 1 else ()
    shape = replace(
        kit.BASE, head_dim=head_dim, num_heads=2 * group, rope_pairs=pairs, ropes=(0, 0) if pairs else (-1, -1)
    )
    network, tokens = kit.Network(shape), tokens_for(shape.vocab_size, 140)
    expected = kit.Float64Network(network)(tokens)
    assert np.abs(kit.alone(network, tokens) - expected).max() < 2e-5 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("window", [1, 2, 15, 16, 17, 100, 127, 128, 129, 300])
def test_windows(kit, window):
    """Logits agree with float64 for windows around blocks and pieces of attention, and chunks keep the bits."""
    network = kit.Network(replace(kit.BASE, windows=(window, 0)))
    tokens = tokens_for(network.shape.vocab_size, 300)
    expected = kit.Float64Network(network)(tokens)
    logits = kit.alone(network, tokens)
    assert np.abs(logits - expected).max() < 2e-5 * max(1.0, np.abs(expected).max())
    runner = kit.Runner(network, num_blocks=19)
    runner.add(0, range(19))
    runner.step({0: tokens[:250]}, [])
    assert (runner.step({0: tokens[250:]}) == logits[250:]).all()


def test_long_sequences(kit):
    """A thousand tokens in chunks and one by one have the same bits as in one call."""
    network = kit.Network(kit.SHAPES["group of 8"])
    tokens = tokens_for(network.shape.vocab_size, 1000)
    logits = kit.alone(network, tokens, threads=2)
    expected = kit.Float64Network(network)(tokens)
    assert np.abs(logits - expected).max() < 2e-5 * max(1.0, np.abs(expected).max())
    runner = kit.Runner(network, num_blocks=63)
    runner.add(0, list(range(62, -1, -1)))
    parts = [runner.step({0: tokens[i : i + 93]}) for i in range(0, 930, 93)]
    parts += [runner.step({0: [token]}) for token in tokens[930:]]
    assert (np.concatenate(parts) == logits).all()


def test_future_tokens_are_not_seen(kit):
    """A NaN in the embedding of a token changes no row before it."""
    network = kit.Network(kit.BASE)
    tokens = [i % 36 for i in range(60)]
    expected = kit.alone(network, tokens)
    network.embedding[36] = np.nan
    spoilt = kit.alone(network, [*tokens[:41], 36, *tokens[42:]])
    assert (spoilt[:41] == expected[:41]).all()
    assert np.isnan(spoilt[41:]).all()


@pytest.mark.parametrize("value", [np.inf, -np.inf, 3e38])
def test_overflow_shows(kit, value):
    """Infinities in the embedding show in the logits, with the same bits together and token by token."""
    network = kit.Network(kit.BASE)
    network.embedding[5] = value
    tokens = [1, 2, 3, 5, 4, 6, 7, 8]
    together = kit.alone(network, tokens)
    runner = kit.Runner(network)
    runner.add(0, range(1))
    apart = np.concatenate([runner.step({0: [token]}) for token in tokens])
    assert np.isfinite(together[:3]).all()
    if np.isinf(value):  # the mean square of 3e38 overflows, so its norm is 0
        assert not np.isfinite(together[3:]).any()
    assert (together.view(np.uint32) == apart.view(np.uint32)).all()


def test_the_blocks_of_a_cache(kit):
    """A copied block gives the same logits as its original and is independent of it."""
    network = kit.Network(kit.BASE)
    tokens = tokens_for(37, 30)
    runner = kit.Runner(network)
    runner.add(0, [0, 1])
    runner.step({0: tokens[:20]})
    runner.cache.copy_block(1, 7)
    runner.add(1, [0, 7])
    runner.lengths[1] = 20
    mine, other = runner.step({0: tokens[20:]}), runner.step({1: tokens[20:]})
    assert (mine == other).all()
    assert runner.cache.block_bytes % 1024 == 0
