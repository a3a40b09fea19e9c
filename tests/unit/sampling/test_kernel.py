"""The kernel's Python binding below Sampler: rows, calls, and arguments that C refuses."""

import gc
import weakref

import numpy as np
import pytest

from decoding.errors import KernelError
from decoding.sampling.kernel import Kernel, KernelRow

LOGITS = np.arange(6, dtype=np.float32)[np.newaxis]


def greedy_row():
    """Return a row that draws the largest logit."""
    row = KernelRow()
    row.set(temperature=0.0)
    return row


def test_a_new_row_leaves_every_stage_off():
    """A new row leaves every stage off: the distribution is the softmax of its logits."""
    (p,), _ = Kernel(6, 6).probabilities(LOGITS, [KernelRow()])
    expected = np.exp(LOGITS[0].astype(np.float64))
    np.testing.assert_allclose(p, expected / expected.sum(), rtol=1e-6)


def test_a_copy_is_a_row_of_its_own():
    """A copied row has the same settings, points to the same arrays, and keeps them alive."""
    row = greedy_row()
    banned = np.array([5, 4], np.int32)
    row.point("banned_token_ids", banned)
    row.struct.num_banned = 2
    row.set_report(("raw",), 1)
    alive, copy = weakref.ref(banned), row.copy()
    row.set(temperature=1.0)
    row.set_report((), 0)
    del row, banned
    gc.collect()
    assert alive() is not None
    output = Kernel(6, 6).sample(LOGITS, [copy])
    assert output.token_ids.tolist() == [3]
    assert output.top_token_ids.tolist() == [[5]]
    copy.point("banned_token_ids", None)
    copy.struct.num_banned = 0
    gc.collect()
    assert alive() is None
    assert Kernel(6, 6).sample(LOGITS, [copy]).token_ids.tolist() == [5]


def test_a_refused_row_is_a_kernel_error():
    """A field outside its range raises a KernelError."""
    row = greedy_row()
    row.set(top_p=1.5)
    with pytest.raises(KernelError, match="refused the call: an argument is null or outside its documented range"):
        Kernel(6, 6).sample(LOGITS, [row])
    with pytest.raises(KernelError, match="refused"):
        Kernel(6, 6).probabilities(LOGITS, [row])


def test_an_unchecked_token_id_fails_in_c():
    """An unchecked token id fails in C, and the error names row, stage and id."""
    row = greedy_row()
    row.set_ids("banned", [6])
    with pytest.raises(KernelError, match=r"row 1, stage hard_masks: a token id lies outside .*: 6"):
        Kernel(6, 6).sample(np.repeat(LOGITS, 2, axis=0), [greedy_row(), row])


def test_room_for_any_number_of_edits():
    """A call that needs more scratch memory than the call before gets it."""
    vocab_size = 5000
    kernel, flat = Kernel(vocab_size, vocab_size), np.zeros((1, vocab_size), np.float32)
    for num_biases in (0, 10, 4000, 10, 4999):
        row = greedy_row()
        row.set_bias([(token_id, -1.0) for token_id in range(num_biases)])
        assert kernel.sample(flat, [row]).token_ids.tolist() == [num_biases]
        (p,), _ = kernel.probabilities(flat, [row])
        assert p.argmax() == num_biases


def test_rows_may_change_from_call_to_call():
    """Each call may have any number of rows in any order."""
    kernel, rows = Kernel(6, 6), [greedy_row() for _ in range(3)]
    for token_id, row in enumerate(rows):
        row.set_ids("banned", range(token_id + 1, 6))
    for order in ([0], [0, 1, 2], [2, 0], [], [1, 1], [1]):
        matrix = np.repeat(LOGITS, len(order), axis=0)
        assert kernel.sample(matrix, [rows[place] for place in order]).token_ids.tolist() == order


def test_a_prepared_call_can_be_repeated():
    """A prepared call can run again on changed logits, into the same output."""
    logits = LOGITS.copy()
    call = Kernel(6, 6).prepare(logits, [greedy_row()])
    assert call.sample()
    assert call.output.token_ids.tolist() == [5]
    logits[0, 2] = 9
    call.output.words[:] = -1
    assert call.sample()
    assert call.output.words[0, 3] == 2
