"""The C door, for hosts without Python's checks: what decoding.h forbids is refused, and nothing is written then."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from decoding._kernel import ffi, lib

VOCAB_SIZE, TOP, INT32_MAX = 40, 4, 2**31 - 1
POINTERS = {
    "history_token_ids": "int32_t[]",
    "history_scope_counts": "int32_t[]",
    "history_output_counts": "int32_t[]",
    "history_total_counts": "int32_t[]",
    "bias_token_ids": "int32_t[]",
    "bias_values": "float[]",
    "banned_token_ids": "int32_t[]",
    "allowed_token_ids": "int32_t[]",
}


class Call:
    """A good call with two rows, each with one entry in every array, to be spoilt in one place."""

    def __init__(self) -> None:
        self.outputs = np.full((2, 64), 77, np.int64)  # results and top-N of both rows, all in one place to compare
        self.probabilities = np.full((2, VOCAB_SIZE), 77.0)
        self.rows = [ffi.new("decoding_row *") for _ in range(2)]
        self.kept: list[Any] = []
        for row in self.rows:
            row.struct_size = ffi.sizeof("decoding_row")
            row.temperature = row.top_p = row.repetition_penalty = 1.0
            row.top_k, row.num_top, row.logprobs_mode = lib.DECODING_TOP_K_OFF, 1, lib.DECODING_LOGPROBS_RAW
            row.num_history = row.num_bias = row.num_banned = 1
            row.num_allowed = 2
            for field in POINTERS:
                self.point(row, field, [1, 2] if field == "allowed_token_ids" else [1])
        self.batch = ffi.new("decoding_batch *", {"struct_size": ffi.sizeof("decoding_batch"), "num_rows": 2})
        self._fill(self.batch)

    def _fill(self, batch: Any) -> None:
        batch.vocab_size = batch.num_valid_tokens = VOCAB_SIZE
        batch.row_stride, batch.top_stride = 4 * VOCAB_SIZE, TOP
        batch.workspace_size = lib.decoding_workspace_size(VOCAB_SIZE, 2)
        arrays = {
            "logits": ffi.new("float[]", 2 * VOCAB_SIZE),
            "rows": ffi.new("decoding_row *[]", self.rows),
            "workspace": ffi.new("char[]", batch.workspace_size),
            "results": ffi.from_buffer("decoding_result[]", self.outputs[0], require_writable=True),
            "top_token_ids": ffi.from_buffer("int32_t[]", self.outputs[1, :32], require_writable=True),
            "top_logprobs": ffi.from_buffer("float[]", self.outputs[1, 32:], require_writable=True),
        }
        self.kept.append(arrays)
        for field, array in arrays.items():
            setattr(batch, field, array)

    def point(self, row: Any, field: str, values: list[float]) -> None:
        """Give the row an array of its own."""
        array = ffi.new(POINTERS[field], values)
        self.kept.append(array)
        setattr(row, field, array)

    def sample(self) -> int:
        """decoding_sample."""
        status: int = lib.decoding_sample(self.batch)
        return status

    def measure(self) -> int:
        """decoding_probabilities."""
        target = ffi.from_buffer("double[]", self.probabilities, require_writable=True)
        status: int = lib.decoding_probabilities(self.batch, target)
        return status

    def assert_refused(self, status: int) -> None:
        """Both calls return the status and write nothing."""
        assert (self.sample(), self.measure()) == (status, status)
        assert (self.outputs == 77).all()
        assert (self.probabilities == 77.0).all()


def test_the_call_is_good() -> None:
    """Unspoilt, both calls succeed: what the tests below see is their one change."""
    call = Call()
    assert call.sample() == lib.DECODING_OK
    assert [call.batch.results[i].token_id for i in range(2)] == [2, 2]
    assert call.measure() == lib.DECODING_OK
    np.testing.assert_array_equal(call.probabilities[:, 2], 1.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("temperature", value) for value in (math.nan, math.inf, -1.0)),
        *(("top_p", value) for value in (math.nan, -0.5, 1.5)),
        *(("min_p", value) for value in (math.nan, -0.5, 1.5)),
        *(("top_k", value) for value in (0, -1)),
        *(("repetition_penalty", value) for value in (math.nan, math.inf, 0.0, -1.0)),
        *((f"{name}_penalty", math.nan) for name in ("frequency", "presence", "context_frequency")),
        *((f"num_{name}", -1) for name in ("history", "bias", "banned", "allowed", "top")),
        *(("num_top", value) for value in (TOP + 1, INT32_MAX)),
        *(("logprobs_mode", value) for value in (-1, lib.DECODING_LOGPROBS_FINAL + 1)),
        ("num_history", INT32_MAX),  # with the bias: more edits than there can be
        *((name, ffi.NULL) for name in POINTERS if name != "allowed_token_ids"),
    ],
)
def test_a_bad_row_is_refused(field: str, value: Any) -> None:
    """One field of the second row out of its documented range, NaN always, or an array that is not there."""
    call = Call()
    setattr(call.rows[1], field, value)
    call.assert_refused(lib.DECODING_BAD_ARGUMENT)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("vocab_size", value) for value in (0, -1, lib.DECODING_MAX_VOCAB_SIZE + 1)),
        *(("num_valid_tokens", value) for value in (-1, VOCAB_SIZE + 1)),
        *(("dtype", value) for value in (-1, 3)),
        ("num_rows", -1),
        ("top_stride", -1),
        *((name, ffi.NULL) for name in ("logits", "rows", "results", "workspace", "top_token_ids", "top_logprobs")),
    ],
)
def test_a_bad_batch_is_refused(field: str, value: Any) -> None:
    """One field of the batch out of its documented range, or an array that is not there."""
    call = Call()
    setattr(call.batch, field, value)
    call.assert_refused(lib.DECODING_BAD_ARGUMENT)


@pytest.mark.parametrize("token_id", [-1, VOCAB_SIZE])
def test_a_forced_token_must_exist(token_id: int) -> None:
    """With DECODING_FORCE_TOKEN the id is checked; without it, it does not matter."""
    call = Call()
    call.rows[0].forced_token_id = token_id
    assert call.sample() == lib.DECODING_OK
    call = Call()
    call.rows[0].flags, call.rows[0].forced_token_id = lib.DECODING_FORCE_TOKEN, token_id
    call.assert_refused(lib.DECODING_BAD_ARGUMENT)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_bias_must_be_finite(value: float) -> None:
    """-inf is no way to ban a token either."""
    call = Call()
    call.point(call.rows[1], "bias_values", [value])
    call.assert_refused(lib.DECODING_BAD_ARGUMENT)


def test_nulls_are_refused() -> None:
    """No batch, no row, nowhere to write probabilities; without rows there is nothing to write."""
    call = Call()
    assert lib.decoding_sample(ffi.NULL) == lib.decoding_probabilities(ffi.NULL, ffi.NULL) == lib.DECODING_BAD_ARGUMENT
    assert lib.decoding_probabilities(call.batch, ffi.NULL) == lib.DECODING_BAD_ARGUMENT
    call.batch.num_rows = 0
    assert lib.decoding_probabilities(call.batch, ffi.NULL) == lib.DECODING_OK
    call.batch.num_rows, call.batch.rows[1] = 2, ffi.NULL
    call.assert_refused(lib.DECODING_BAD_ARGUMENT)


def test_sizes_are_checked() -> None:
    """A struct of another version, a workspace one byte too small, a workspace of no possible size."""
    call = Call()
    call.batch.struct_size -= 1
    call.assert_refused(lib.DECODING_BAD_SIZE)
    call = Call()
    call.rows[1].struct_size -= 1
    call.assert_refused(lib.DECODING_BAD_SIZE)
    call = Call()
    call.batch.workspace_size -= 1
    call.assert_refused(lib.DECODING_SMALL_WORKSPACE)
    for vocab_size, max_edits in [(0, 0), (-1, 0), (lib.DECODING_MAX_VOCAB_SIZE + 1, 0), (1, -1), (1, INT32_MAX + 1)]:
        assert lib.decoding_workspace_size(vocab_size, max_edits) == 0


@pytest.mark.parametrize("token_id", [-1, VOCAB_SIZE, INT32_MAX])
@pytest.mark.parametrize(
    ("field", "stage"),
    [
        ("history_token_ids", lib.DECODING_STAGE_REPETITION_PENALTY),
        ("bias_token_ids", lib.DECODING_STAGE_LOGIT_BIAS),
        ("banned_token_ids", lib.DECODING_STAGE_HARD_MASKS),
        ("allowed_token_ids", lib.DECODING_STAGE_HARD_MASKS),
    ],
)
def test_an_id_outside_the_vocabulary_fails_its_row(field: str, stage: int, token_id: int) -> None:
    """The row tells the stage and the id; the other row is drawn all the same."""
    call = Call()
    call.point(call.rows[0], field, [token_id] * (2 if field == "allowed_token_ids" else 1))
    assert call.sample() == lib.DECODING_ROW_FAILED
    failed, drawn = call.batch.results[0], call.batch.results[1]
    assert (failed.status, failed.stage, failed.bad_token_id) == (lib.DECODING_BAD_TOKEN_ID, stage, token_id)
    assert (failed.token_id, drawn.status, drawn.token_id) == (-1, lib.DECODING_OK, 2)


def test_a_bias_may_not_overflow() -> None:
    """A finite logit that a finite bias makes infinite fails its row at that stage."""
    call = Call()
    ffi.cast("float *", call.batch.logits)[1] = 3e38
    call.point(call.rows[0], "bias_values", [3e38])
    assert call.sample() == call.measure() == lib.DECODING_ROW_FAILED
    failed = call.batch.results[0]
    assert (failed.status, failed.bad_token_id) == (lib.DECODING_NONFINITE, 1)
    assert failed.stage == lib.DECODING_STAGE_LOGIT_BIAS
    np.testing.assert_array_equal(call.probabilities[0], 0.0)


@pytest.mark.parametrize("missing", ["top_token_ids", "top_logprobs"])
def test_top_arrays_may_be_missing(missing: str) -> None:
    """Rows that ask for no top-N need neither array, and one alone is left as it is."""
    call = Call()
    setattr(call.batch, missing, ffi.NULL)
    for row in call.rows:
        row.num_top = 0
    assert call.sample() == lib.DECODING_OK
    assert (call.outputs[1] == 77).all()


def test_every_status_has_a_sentence() -> None:
    """All different, and one for numbers that are no status."""
    sentences = [ffi.string(lib.decoding_status_message(status)) for status in range(11)]
    assert len(set(sentences)) == 11
    assert ffi.string(lib.decoding_status_message(-1)) == sentences[10] == b"unknown status"


def test_names_of_sets() -> None:
    """Indices outside the list have no name; unknown names and none at all are not available."""
    assert lib.decoding_isa_name(-1) == lib.decoding_isa_name(99) == ffi.NULL
    assert [lib.decoding_isa_available(name) for name in (ffi.NULL, b"sse9", b"portable")] == [0, 0, 1]
