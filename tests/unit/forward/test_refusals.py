"""Arguments that decoding_forward and its size queries refuse, field by field, before anything is written."""

from __future__ import annotations

import math

import numpy as np
import pytest

from decoding.errors import KernelError
from decoding.models.native_plan import Plan, Step
from decoding.sampling.kernel.library import ffi, lib

TOKENS = [1, 2, 3, 4, 5]


@pytest.fixture
def runner(kit):
    """Return a runner of a small network of two layers with one rotary table."""
    runner = kit.Runner(kit.Network(kit.Shape()), num_blocks=4)
    runner.add(0, range(4))
    return runner


def status_of(runner, change):
    """Return the status of a step after a change to its structs. Assert that a refused step writes no logits."""
    plan, batch = runner.network.plan.struct, runner.forward._batch
    runner.step({0: TOKENS})  # fills the batch with valid arguments
    tokens = np.array(TOKENS, np.int32)
    kept = {
        "num_new": np.array([5], np.int32),
        "start": np.array([0], np.int32),
        "tokens": tokens,
        "table": np.arange(4, dtype=np.int32),
        "wanted": np.array([1, 4], np.int32),
        "logits": np.full((2, 37), 7, np.float32),
        "rows": np.ones((5, 6), np.float32),
    }
    kept["tables"] = np.array([kept["table"].ctypes.data], np.uintp)
    kept["rotary"] = np.array([row.ctypes.data for row in kept["rows"]], np.uintp)
    batch.num_sequences, batch.num_logits, batch.logits_stride = 1, 2, 37
    for field, name, c_type in (
        ("num_new", "num_new", "int32_t *"),
        ("start", "start", "int32_t *"),
        ("token_ids", "tokens", "int32_t *"),
        ("block_tables", "tables", "int32_t **"),
        ("logits_tokens", "wanted", "int32_t *"),
        ("logits", "logits", "float *"),
        ("rotary", "rotary", "float **"),
    ):
        setattr(batch, field, ffi.cast(c_type, kept[name].ctypes.data))
    assert lib.decoding_forward(plan, batch) == lib.DECODING_OK
    kept["logits"][:] = 7
    change(plan, batch, kept)
    status = lib.decoding_forward(plan, batch)
    assert status == lib.DECODING_OK or (kept["logits"] == 7).all()
    return status


def put(field, value):
    """Return a change of one field: plan.x, batch.x, layer.x.y or an array of the batch."""

    def change(plan, batch, kept):
        names = field.split(".")
        target = {"plan": plan, "batch": batch, "layer": plan.layers[1]}.get(names[0])
        if target is None:
            kept[names[0]][...] = value
            return
        for name in names[1:-1]:
            target = getattr(target, name)
        setattr(target, names[-1], value)

    return change


BAD_PLANS = {
    "plan.vocab_size": [0, -1, 36, 2**20 + 1],
    "plan.hidden_size": [0, -1, 25, 2**30],
    "plan.intermediate_size": [0, 39],
    "plan.num_heads": [0, 3, 2**30],
    "plan.num_kv_heads": [0, 3, -2],
    "plan.head_dim": [0, 5, 2**30],
    "plan.num_layers": [0, -1],
    "plan.activation": [-1, 14],
    "plan.gated": [-1, 2],
    "plan.parallel_residual": [-1, 2],
    "plan.num_ropes": [-1, 0],
    "plan.rope_pairs": [ffi.NULL],
    "plan.attention_cap": [-1.0, math.inf, math.nan],
    "plan.logits_cap": [-1.0, math.nan],
    "plan.embedding_scale": [math.inf],
    "plan.residual_scale": [math.nan],
    "plan.logits_scale": [-math.inf],
    "plan.embedding_type": [-1, 99],
    "plan.embedding": [ffi.NULL],
    "plan.num_positions": [-1, 5],
    "plan.layers": [ffi.NULL],
    "plan.norm.kind": [-1, 3],
    "plan.norm.size": [0, 23],
    "plan.norm.eps": [-1.0, math.nan],
    "plan.norm.weight": [ffi.NULL],
    "plan.head.num_outputs": [36],
    "plan.head.num_inputs": [23],
    "plan.head.type": [-1, 99],
    "plan.head.panels": [ffi.NULL],
    "layer.attention_norm.kind": [9],
    "layer.mlp_norm.size": [6],
    "layer.qkv.num_outputs": [47],
    "layer.output.num_inputs": [23],
    "layer.up.num_outputs": [40],
    "layer.down.num_inputs": [80],
    "layer.rope": [-2, 1],
    "layer.window": [-1],
    "layer.scale": [math.nan],
}
BAD_BATCHES = {
    "batch.num_sequences": [0, -1],
    "batch.num_new": [ffi.NULL],
    "batch.start": [ffi.NULL],
    "batch.block_tables": [ffi.NULL],
    "batch.token_ids": [ffi.NULL],
    "batch.rotary": [ffi.NULL],
    "batch.num_logits": [-1],
    "batch.logits_tokens": [ffi.NULL],
    "batch.logits": [ffi.NULL],
    "batch.logits_stride": [36, -37],
    "batch.kv_cache": [ffi.NULL, ffi.cast("void *", 2)],
    "batch.num_blocks": [0, -1],
    "batch.workspace": [ffi.NULL],
    "batch.num_workers": [0, -1, 2],
    "num_new": [0, -3],
    "start": [-1, 2**31 - 5],
    "table": [-1, 4],
    "tables": [0],
    "rotary": [0],
    "wanted": [-1, 5, 3],
}


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, values in BAD_PLANS.items() for v in values], ids=str)
def test_bad_plans(runner, field, value):
    """A plan with a field outside its range is refused by the step and by both size queries."""
    assert status_of(runner, put(field, value)) == lib.DECODING_BAD_ARGUMENT
    plan = runner.network.plan.struct
    assert lib.decoding_kv_block_size(plan) == 0
    assert lib.decoding_forward_workspace_size(plan, 5, 2, 1) == 0


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, values in BAD_BATCHES.items() for v in values], ids=str)
def test_bad_batches(runner, field, value):
    """A batch with a field or an element outside its range is refused."""
    assert status_of(runner, put(field, value)) == lib.DECODING_BAD_ARGUMENT


@pytest.mark.parametrize("value", [-1, 37, 2**31 - 1])
def test_bad_token_ids(runner, value):
    """A token id outside the vocabulary has a status of its own."""
    assert status_of(runner, put("tokens", value)) == lib.DECODING_BAD_TOKEN_ID


def test_bad_sizes(runner):
    """Structs of another size and too small a workspace have statuses of their own."""
    assert status_of(runner, put("batch.workspace_size", 100)) == lib.DECODING_SMALL_WORKSPACE
    assert status_of(runner, put("batch.struct_size", 8)) == lib.DECODING_BAD_SIZE
    runner.forward._batch.struct_size = ffi.sizeof("decoding_forward_batch")
    assert status_of(runner, put("plan.struct_size", 8)) == lib.DECODING_BAD_SIZE


def test_null(runner):
    """A null plan or batch is refused."""
    plan, batch = runner.network.plan.struct, runner.forward._batch
    assert lib.decoding_forward(ffi.NULL, batch) == lib.DECODING_BAD_ARGUMENT
    assert lib.decoding_forward(plan, ffi.NULL) == lib.DECODING_BAD_ARGUMENT
    assert lib.decoding_kv_block_size(ffi.NULL) == 0


def test_workspace_of_strange_batches(runner):
    """The workspace query returns 0 for numbers out of range or beyond memory."""
    plan = runner.network.plan.struct
    for tokens, logits, workers in ((0, 0, 1), (-1, 0, 1), (5, 6, 1), (5, -1, 1), (5, 1, 0), (2**30, 0, 1)):
        assert lib.decoding_forward_workspace_size(plan, tokens, logits, workers) == 0


def test_positions_end(kit):
    """A sequence cannot be longer than the learned positions."""
    runner = kit.Runner(kit.Network(kit.replace(kit.SHAPES["gpt2"], num_positions=20)))
    runner.add(0, range(4))
    runner.step({0: [1] * 20})
    with pytest.raises(KernelError, match="outside its documented range"):
        runner.step({0: [1]})


def test_the_binding_explains_a_refusal(runner):
    """The Python binding raises a KernelError that explains the refusal."""
    step = Step(*(np.array(a, np.int32) for a in ([99], [1], [0])), [np.arange(4, dtype=np.int32)],
                np.array([0], np.int32), np.array([np.ones(6, np.float32).ctypes.data], np.uintp))  # fmt: skip
    with pytest.raises(KernelError, match="a token id lies outside"):
        runner.forward(step, runner.cache)


def test_a_plan_that_does_not_fit(kit):
    """A plan with layers of other sizes raises a KernelError."""
    one, other = kit.Network(kit.BASE), kit.Network(kit.SHAPES["odd sizes"])
    layer = next(iter(other.plan._kept[-1]))
    with pytest.raises(KernelError, match="do not fit"):
        Plan(
            vocab_size=37, hidden_size=24, intermediate_size=40, num_heads=4, num_kv_heads=2, head_dim=6,
            activation="silu", gated=True, embedding=one.embedding, embedding_type="float32", layers=[layer],
            norm=one.norm, head=one.plan._kept[3],
        )  # fmt: skip
