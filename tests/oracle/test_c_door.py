"""The C functions for hosts without Python's validation refuse arguments that decoding.h forbids, and write nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from decoding._kernel import ffi, lib

from decoding.sampling.stages import PIPELINE

VOCAB_SIZE, TOP, MODES, INT32_MAX = 40, 4, 2, 2**31 - 1
POINTERS = {
    "history_token_ids": "int32_t[]",
    "history_scope_counts": "int32_t[]",
    "history_output_counts": "int32_t[]",
    "history_total_counts": "int32_t[]",
    "bias_token_ids": "int32_t[]",
    "bias_values": "float[]",
    "banned_token_ids": "int32_t[]",
    "allowed_token_ids": "int32_t[]",
    "context_token_ids": "int32_t[]",
}


class Call:
    """A valid call with two rows, each with one entry per array. Tests make one part of it invalid."""

    def __init__(self) -> None:
        self.outputs = np.full((3, 32), 77, np.int64)  # results and top-N of both rows
        self.probabilities = np.full((2, VOCAB_SIZE), 77.0)
        self.rows = [ffi.new("decoding_row *") for _ in range(2)]
        self.kept: list[Any] = []
        for row in self.rows:
            row.struct_size = ffi.sizeof("decoding_row")
            row.temperature = row.top_p = row.typical_p = row.repetition_penalty = 1.0
            row.top_k, row.top_n_sigma, row.num_top = lib.DECODING_TOP_K_OFF, math.inf, 1
            row.top_h, row.min_k, row.tfs = 1.0, math.inf, 1.0
            row.logprobs_modes = [lib.DECODING_LOGPROBS_RAW, lib.DECODING_LOGPROBS_FINAL, 0, 0]
            row.num_history = row.num_bias = row.num_banned = row.num_context = 1
            row.num_allowed = 2
            self.set_sequences(row, bad_words=[[1], [3, 4]], dry_breakers=[[5]])
            for field in POINTERS:
                self.point(row, field, [1, 2] if field == "allowed_token_ids" else [1])
        self.batch = ffi.new("decoding_batch *", {"struct_size": ffi.sizeof("decoding_batch"), "num_rows": 2})
        self._fill(self.batch)

    def _fill(self, batch: Any) -> None:
        batch.vocab_size = batch.num_valid_tokens = VOCAB_SIZE
        batch.row_stride, batch.top_stride, batch.top_modes = 4 * VOCAB_SIZE, TOP, MODES
        batch.workspace_size = lib.decoding_workspace_size(VOCAB_SIZE, 3)
        self.stages = ffi.new("int32_t[]", [stage.number for stage in PIPELINE if stage.has_place])
        batch.stages, batch.num_stages = self.stages, len(self.stages)
        arrays = {
            "logits": ffi.new("float[]", 2 * VOCAB_SIZE),
            "rows": ffi.new("decoding_row *[]", self.rows),
            "workspace": ffi.new("char[]", batch.workspace_size),
            "results": ffi.from_buffer("decoding_result[]", self.outputs[0], require_writable=True),
            "top_token_ids": ffi.from_buffer("int32_t[]", self.outputs[1], require_writable=True),
            "top_logprobs": ffi.from_buffer("float[]", self.outputs[2], require_writable=True),
        }
        self.kept.append(arrays)
        for field, array in arrays.items():
            setattr(batch, field, array)

    def point(self, row: Any, field: str, values: list[float]) -> None:
        """Point a field of the row to a new array."""
        array = ffi.new(POINTERS[field], values)
        self.kept.append(array)
        setattr(row, field, array)

    def set_sequences(self, row: Any, **sequences: list[list[int]]) -> None:
        """Set the bad words or sequence breakers of the row."""
        for field, ids in sequences.items():
            flat = ffi.new("int32_t[]", [token_id for sequence in ids for token_id in sequence])
            lengths = ffi.new("int32_t[]", [len(sequence) for sequence in ids])
            self.kept.append((flat, lengths))
            setattr(row, field, {"token_ids": flat, "lengths": lengths, "num_sequences": len(ids)})

    def sample(self) -> int:
        """Call decoding_sample and return the status."""
        status: int = lib.decoding_sample(self.batch)
        return status

    def measure(self) -> int:
        """Call decoding_probabilities and return the status."""
        target = ffi.from_buffer("double[]", self.probabilities, require_writable=True)
        status: int = lib.decoding_probabilities(self.batch, target)
        return status

    def assert_refused(self, status: int) -> None:
        """Assert that both functions return the status and write nothing."""
        assert (self.sample(), self.measure()) == (status, status)
        assert (self.outputs == 77).all()
        assert (self.probabilities == 77.0).all()


def test_the_call_is_valid() -> None:
    """The unchanged call succeeds, so the tests below see the effect of their one change."""
    call = Call()
    assert call.sample() == lib.DECODING_OK
    assert [call.batch.results[i].token_id for i in range(2)] == [2, 2]
    assert call.measure() == lib.DECODING_OK
    np.testing.assert_array_equal(call.probabilities[:, 2], 1.0)


SHARES = (
    *("top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_a", "xtc_probability", "xtc_threshold"),
    *("top_h", "tfs"),
)
NOT_NEGATIVE = ("temperature", "dynatemp_range", "smoothing_factor", "dry_multiplier")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, value) for name in SHARES for value in (math.nan, -0.5, 1.5)),
        *((name, value) for name in NOT_NEGATIVE for value in (math.nan, math.inf, -1.0)),
        *((name, value) for name in ("top_n_sigma", "min_k") for value in (math.nan, -1.0)),
        *(("skew", value) for value in (math.nan, math.inf, -5.5, 5.5)),
        *(("top_k", value) for value in (0, -1)),
        *(("repetition_penalty", value) for value in (math.nan, math.inf, 0.0, -1.0)),
        *((f"{name}_penalty", math.nan) for name in ("frequency", "presence", "context_frequency")),
        *((f"num_{name}", -1) for name in ("history", "bias", "banned", "allowed", "context", "top")),
        *(("num_top", value) for value in (TOP + 1, INT32_MAX)),
        ("no_repeat_ngram_size", -1),
        ("num_history", INT32_MAX),  # with the bias, more edits than possible
        ("num_context", INT32_MAX),
        *((name, ffi.NULL) for name in POINTERS if name != "allowed_token_ids"),
    ],
)
def test_a_bad_row_is_refused(field: str, value: Any) -> None:
    """A field of a row that is NaN, out of its range, or a missing array is refused."""
    call = Call()
    setattr(call.rows[1], field, value)
    call.assert_refused(lib.DECODING_BAD_ARGUMENT)


@pytest.mark.parametrize(
    ("switch", "field", "value"),
    [
        *(("dynatemp_range", "dynatemp_exponent", value) for value in (math.nan, math.inf, 0.0, -1.0)),
        *(("smoothing_factor", "smoothing_curve", value) for value in (math.nan, 0.5, 3.5)),
        *(("dry_multiplier", "dry_base", value) for value in (math.nan, math.inf, 0.5)),
        *(("dry_multiplier", "dry_allowed_length", value) for value in (0, -1)),
        *(("dry_multiplier", "dry_range", value) for value in (0, -1)),
    ],
)
def test_fields_of_a_stage_are_checked_if_it_is_on(switch: str, field: str, value: Any) -> None:
    """Fields that shape a stage are checked if the stage is on; if it is off, they may be 0."""
    call = Call()
    for row in call.rows:
        row.dynatemp_exponent = row.smoothing_curve = row.dry_base = 1.0
        row.dry_allowed_length = row.dry_range = 1
    setattr(call.rows[1], switch, 0.5)
    assert call.sample() == lib.DECODING_OK
    call.outputs[:] = 77
    setattr(call.rows[1], field, value)
    call.assert_refused(lib.DECODING_BAD_ARGUMENT)


def test_the_bound_of_mirostat() -> None:
    """A NaN in mirostat_mu is refused only with the flag DECODING_MIROSTAT."""
    call = Call()
    call.rows[1].mirostat_mu = math.nan
    assert call.sample() == lib.DECODING_OK
    call.outputs[:] = 77
    call.rows[1].flags = lib.DECODING_MIROSTAT
    call.assert_refused(lib.DECODING_BAD_ARGUMENT)


@pytest.mark.parametrize("center", [math.nan, -0.5, 1.5])
def test_the_center_of_adaptive_p(center: float) -> None:
    """An adaptive_p_center outside of 0 to 1 is refused only with the flag DECODING_ADAPTIVE_P."""
    call = Call()
    call.rows[1].adaptive_p_center = center
    assert call.sample() == lib.DECODING_OK
    call.outputs[:] = 77
    call.rows[1].flags = lib.DECODING_ADAPTIVE_P
    call.assert_refused(lib.DECODING_BAD_ARGUMENT)


@pytest.mark.parametrize("modes", [[-1, 0, 0, 0], [5, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 2, 0], [1, 2, 3, 0]])
def test_modes_are_refused(modes: list[int]) -> None:
    """Modes of log-probabilities that are unknown, duplicate, after a gap or too many are refused."""
    call = Call()
    call.rows[1].logprobs_modes = modes
    call.assert_refused(lib.DECODING_BAD_ARGUMENT)


@pytest.mark.parametrize("name", ["bad_words", "dry_breakers"])
@pytest.mark.parametrize(
    ("field", "value"), [("num_sequences", -1), ("token_ids", ffi.NULL), ("lengths", ffi.NULL), ("length", 0)]
)
def test_bad_sequences_are_refused(name: str, field: str, value: Any) -> None:
    """Lists of sequences with a negative count, a missing array or an empty sequence are refused."""
    call = Call()
    sequences = getattr(call.rows[1], name)
    if field == "length":
        sequences.lengths[0] = value
    else:
        setattr(sequences, field, value)
    call.assert_refused(lib.DECODING_BAD_ARGUMENT)


@pytest.mark.parametrize("stages", [[0], [10], [60], [100], [110], [21], [-1], [90, 91, 90], [80, 50], [91, 70]])
def test_bad_stages_are_refused(stages: list[int]) -> None:
    """A list of stages with an unknown or duplicate stage, or an edit after the distribution, is refused."""
    call = Call()
    listed = ffi.new("int32_t[]", stages)
    call.batch.stages, call.batch.num_stages = listed, len(stages)
    call.assert_refused(lib.DECODING_BAD_ARGUMENT)


def test_no_stages_is_the_default_order() -> None:
    """A null list of stages is the default order; an empty list draws from the unchanged row."""
    call = Call()
    assert call.measure() == lib.DECODING_OK
    expected = call.probabilities.copy()
    call.batch.stages, call.batch.num_stages = ffi.NULL, 0
    assert call.measure() == lib.DECODING_OK
    np.testing.assert_array_equal(call.probabilities, expected)
    call.batch.stages, call.batch.num_stages = call.stages, 0
    assert call.measure() == lib.DECODING_OK
    np.testing.assert_array_equal(call.probabilities, 1 / VOCAB_SIZE)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("vocab_size", value) for value in (0, -1, lib.DECODING_MAX_VOCAB_SIZE + 1)),
        *(("num_valid_tokens", value) for value in (-1, VOCAB_SIZE + 1)),
        *(("dtype", value) for value in (-1, 3)),
        ("num_rows", -1),
        ("top_stride", -1),
        ("top_modes", -1),
        ("top_modes", MODES - 1),
        ("num_stages", -1),
        *((name, ffi.NULL) for name in ("logits", "rows", "results", "workspace", "top_token_ids", "top_logprobs")),
    ],
)
def test_a_bad_batch_is_refused(field: str, value: Any) -> None:
    """A field of the batch out of its range, or a missing array, is refused."""
    call = Call()
    setattr(call.batch, field, value)
    call.assert_refused(lib.DECODING_BAD_ARGUMENT)


@pytest.mark.parametrize("token_id", [-1, VOCAB_SIZE])
def test_a_forced_token_must_exist(token_id: int) -> None:
    """The forced token id is checked with DECODING_FORCE_TOKEN and ignored without it."""
    call = Call()
    call.rows[0].forced_token_id = token_id
    assert call.sample() == lib.DECODING_OK
    call = Call()
    call.rows[0].flags, call.rows[0].forced_token_id = lib.DECODING_FORCE_TOKEN, token_id
    call.assert_refused(lib.DECODING_BAD_ARGUMENT)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_bias_must_be_finite(value: float) -> None:
    """A bias that is not finite is refused, -inf included."""
    call = Call()
    call.point(call.rows[1], "bias_values", [value])
    call.assert_refused(lib.DECODING_BAD_ARGUMENT)


def test_nulls_are_refused() -> None:
    """A null batch, row or target of probabilities is refused; without rows the target may be null."""
    call = Call()
    assert lib.decoding_sample(ffi.NULL) == lib.decoding_probabilities(ffi.NULL, ffi.NULL) == lib.DECODING_BAD_ARGUMENT
    assert lib.decoding_probabilities(call.batch, ffi.NULL) == lib.DECODING_BAD_ARGUMENT
    call.batch.num_rows = 0
    assert lib.decoding_probabilities(call.batch, ffi.NULL) == lib.DECODING_OK
    call.batch.num_rows, call.batch.rows[1] = 2, ffi.NULL
    call.assert_refused(lib.DECODING_BAD_ARGUMENT)


def test_sizes_are_checked() -> None:
    """Structs of another version, and a workspace that is too small or of an impossible size, are refused."""
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
    """A token id outside of the vocabulary fails its row, which reports stage and id; other rows are drawn."""
    call = Call()
    call.point(call.rows[0], field, [token_id] * (2 if field == "allowed_token_ids" else 1))
    assert call.sample() == lib.DECODING_ROW_FAILED
    failed, drawn = call.batch.results[0], call.batch.results[1]
    assert (failed.status, failed.stage, failed.bad_token_id) == (lib.DECODING_BAD_TOKEN_ID, stage, token_id)
    assert (failed.token_id, drawn.status, drawn.token_id) == (-1, lib.DECODING_OK, 2)


@pytest.mark.parametrize("token_id", [-1, VOCAB_SIZE, INT32_MAX])
@pytest.mark.parametrize("switch", ["repetition_penalty", "dry_multiplier", "no_repeat_ngram_size", "bad_words"])
def test_an_id_outside_the_vocabulary_fails_every_use(switch: str, token_id: int) -> None:
    """Penalties, DRY, n-grams and bad words check their own token ids before use."""
    call = Call()
    row = call.rows[0]
    stage = {"repetition_penalty": "REPETITION_PENALTY", "dry_multiplier": "DRY"}.get(switch, "HARD_MASKS")
    if switch == "bad_words":
        call.set_sequences(row, bad_words=[[1], [2, token_id]])
    else:
        setattr(row, switch, 2)
        row.dry_base, row.dry_allowed_length, row.dry_range = 1.75, 2, INT32_MAX
        call.point(row, "history_token_ids" if switch == "repetition_penalty" else "context_token_ids", [token_id])
    assert call.sample() == lib.DECODING_ROW_FAILED
    failed = call.batch.results[0]
    assert (failed.status, failed.bad_token_id) == (lib.DECODING_BAD_TOKEN_ID, token_id)
    assert failed.stage == getattr(lib, f"DECODING_STAGE_{stage}")


def test_empty_arrays_may_be_null() -> None:
    """Arrays with a count of 0 may be null, for all stages."""
    call = Call()
    row = call.rows[0]
    row.num_history = row.num_bias = row.num_banned = row.num_context = row.num_allowed = 0
    for field in POINTERS:
        setattr(row, field, ffi.NULL)
    for field in ("bad_words", "dry_breakers"):
        setattr(row, field, {"token_ids": ffi.NULL, "lengths": ffi.NULL, "num_sequences": 0})
    row.dry_multiplier = row.no_repeat_ngram_size = 1
    row.dry_base, row.dry_allowed_length, row.dry_range = 1.75, 2, INT32_MAX
    row.repetition_penalty = 1.5
    assert call.sample() == call.measure() == lib.DECODING_OK


@pytest.mark.parametrize("stages", [[], [lib.DECODING_STAGE_MIN_P], [lib.DECODING_STAGE_MIROSTAT]])
@pytest.mark.parametrize("flags", [0, lib.DECODING_MIROSTAT, lib.DECODING_MIROSTAT | lib.DECODING_FORCE_TOKEN])
def test_a_batch_may_leave_stages_out(flags: int, stages: list[int]) -> None:
    """If a batch leaves out temperature, min_p or mirostat, their parameters have no effect."""
    call = Call()
    listed = ffi.new("int32_t[]", stages)
    call.batch.stages, call.batch.num_stages = listed, len(stages)
    for row in call.rows:
        row.temperature, row.min_p, row.mirostat_mu, row.flags, row.forced_token_id = 0.0, 0.5, 1.0, flags, 3
    assert call.sample() == lib.DECODING_OK
    assert not flags & lib.DECODING_FORCE_TOKEN or call.batch.results[0].token_id == 3
    assert call.measure() == lib.DECODING_OK
    alone = lib.DECODING_STAGE_MIROSTAT in stages and flags  # a bound of 1 bit keeps one of 40 tokens of 5.3 bits
    expected = np.eye(1, VOCAB_SIZE)[0] if alone else np.full(VOCAB_SIZE, 1 / VOCAB_SIZE)
    np.testing.assert_array_equal(call.probabilities, [expected, expected])


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
    """Rows without top-N need none of the arrays for it."""
    call = Call()
    setattr(call.batch, missing, ffi.NULL)
    for row in call.rows:
        row.num_top = 0
    assert call.sample() == lib.DECODING_OK
    assert (call.outputs[1 if missing == "top_token_ids" else 2] == 77).all()


def test_every_status_has_a_message() -> None:
    """All statuses have different messages, and unknown ones have a message, too."""
    sentences = [ffi.string(lib.decoding_status_message(status)) for status in range(13)]
    assert len(set(sentences)) == 13
    assert ffi.string(lib.decoding_status_message(-1)) == sentences[12] == b"unknown status"


def test_names_of_sets() -> None:
    """Indices out of range have no name; unknown and null names are not available."""
    assert lib.decoding_isa_name(-1) == lib.decoding_isa_name(99) == ffi.NULL
    assert [lib.decoding_isa_available(name) for name in (ffi.NULL, b"sse9", b"portable")] == [0, 0, 1]
