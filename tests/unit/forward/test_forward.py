"""The native forward pass against float64: every shape of network, every activation, sizes around the vectors'."""

from __future__ import annotations

import numpy as np


def tokens_for(vocab_size, count):
    """Token ids that use the whole vocabulary."""
    return [(7 * i + i * i) % vocab_size for i in range(count)]


def test_every_shape(kit, network):
    """Logits of a sequence of several blocks agree with float64 for each kind of network."""
    tokens = tokens_for(network.shape.vocab_size, 75)
    expected = kit.Float64Network(network)(tokens)
    assert np.abs(kit.alone(network, tokens) - expected).max() < 2e-5 * max(1.0, np.abs(expected).max())
