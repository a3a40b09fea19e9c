"""Activations in C, through networks of one hidden number, against float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from decoding.models.native_names import ACTIVATION_NUMBERS
from decoding.reference.activations import ACTIVATIONS as REFERENCE_ACTIVATIONS
from decoding.sampling.kernel.library import ffi, lib

POINTS = np.concatenate([np.linspace(-30, 30, 4001), np.linspace(-0.5, 0.5, 1001), [0.0, -0.0, 1e-30, 88.0, -100.0]])


@pytest.fixture
def apply(kit):
    """Return a function that computes an activation by a network whose MLP is that activation, per token."""

    def apply(name, x):
        shape = replace(
            kit.BASE, vocab_size=len(x), hidden_size=1, intermediate_size=1, num_heads=1, num_kv_heads=1, head_dim=1,
            num_layers=1, activation=name, gated=False, parallel_residual=True, norms=(), rope_pairs=(), ropes=(-1,),
            windows=(1,),
        )  # fmt: skip
        network = kit.Network(shape)
        network.embedding[:, 0] = x
        layer = network.plan.struct.layers[0]
        for matrix in (layer.qkv, layer.output, layer.up, layer.down, network.plan.struct.head):
            panels = ffi.buffer(matrix.panels, lib.decoding_packed_size(0, matrix.num_outputs, 1))
            np.frombuffer(panels, np.float32)[:] = 0
        for matrix in (layer.up, layer.down):
            np.frombuffer(ffi.buffer(matrix.panels, 4), np.float32)[:] = 1
        head = ffi.buffer(network.plan.struct.head.panels, 4)
        np.frombuffer(head, np.float32)[:] = 1
        network.plan.struct.norm.kind = lib.DECODING_NORM_NONE
        tokens = list(range(len(x)))
        return kit.alone(network, tokens)[:, 0].astype(np.float64) - x

    return apply


def test_activations_of_the_reference_have_numbers():
    """C has a number for exactly the activations of the reference."""
    assert set(ACTIVATION_NUMBERS) == set(REFERENCE_ACTIVATIONS)


@pytest.mark.parametrize("name", sorted({number: name for name, number in ACTIVATION_NUMBERS.items()}.values()))
def test_against_float64(kit, apply, name):
    """Each activation is close to its float64 value, relative to the sum with its argument."""
    exact = next(kit.ACTIVATIONS[n] for n in kit.ACTIVATIONS if ACTIVATION_NUMBERS[n] == ACTIVATION_NUMBERS[name])
    x = POINTS.astype(np.float32)
    with np.errstate(over="ignore"):
        wanted = exact(x.astype(np.float64))
    assert (np.abs(apply(name, x) - wanted) <= 4e-7 * np.maximum(1.0, np.abs(x) + np.abs(wanted))).all()
