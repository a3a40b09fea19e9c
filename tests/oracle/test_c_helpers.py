"""The helpers of decoding.h for hosts: checks that name a field, neutral rows, versions, the self-test, sequences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from decoding._kernel import ffi, lib

from decoding.sampling.kernel import available_isas, forced_isa

VOCAB_SIZE = 64


def neutral_row() -> Any:
    """Return a row initialised by decoding_row_init."""
    row = ffi.new("decoding_row *")
    lib.decoding_row_init(row)
    return row


def wrong_field(row: Any) -> tuple[int, str | None]:
    """Return the status and the field of decoding_check_row."""
    field = ffi.new("const char **")
    status = lib.decoding_check_row(row, field)
    return status, None if field[0] == ffi.NULL else ffi.string(field[0]).decode()


class Batch:
    """A valid batch of neutral rows."""

    def __init__(self, num_rows: int = 2) -> None:
        self.rows = [neutral_row() for _ in range(num_rows)]
        self.logits = ffi.from_buffer("float[]", np.random.default_rng(0).standard_normal((2, VOCAB_SIZE), np.float32))
        self.results = ffi.new("decoding_result[]", num_rows)
        size = lib.decoding_workspace_size(VOCAB_SIZE, 100)
        self.workspace, self.pointers = ffi.new("char[]", size), ffi.new("decoding_row *[]", self.rows)
        self.batch = ffi.new(
            "decoding_batch *",
            {
                "struct_size": ffi.sizeof("decoding_batch"),
                "vocab_size": VOCAB_SIZE,
                "num_valid_tokens": VOCAB_SIZE,
                "num_rows": num_rows,
                "logits": self.logits,
                "row_stride": 4 * VOCAB_SIZE,
                "rows": self.pointers,
                "results": self.results,
                "workspace": self.workspace,
                "workspace_size": size,
            },
        )

    def refusal(self) -> tuple[int, int, str | None]:
        """Return status, row and field of decoding_check_batch. Assert that sampling returns the same status."""
        row, field = ffi.new("int32_t *"), ffi.new("const char **")
        status = lib.decoding_check_batch(self.batch, row, field)
        assert status == lib.decoding_check_batch(self.batch, ffi.NULL, ffi.NULL)
        assert status in (lib.decoding_sample(self.batch), lib.DECODING_OK)
        return status, row[0], None if field[0] == ffi.NULL else ffi.string(field[0]).decode()


ROW_FAULTS = {
    "temperature": -1.0,
    "top_k": 0,
    "top_p": 1.5,
    "min_p": math.nan,
    "top_n_sigma": -1.0,
    "xtc_threshold": 2.0,
    "repetition_penalty": 0.0,
    "frequency_penalty": math.inf,
    "dry_multiplier": -1.0,
    "num_history": -1,
    "history_token_ids": None,
    "bias_values": None,
    "no_repeat_ngram_size": -1,
    "bad_words.num_sequences": -1,
    "dry_breakers.reserved": 7,
    "reserved": 1,
    "flags": 1 << 20,
    "num_top": -1,
    "num_chosen": -1,
    "reserved_end": 1,
    "struct_size": 8,
}


@pytest.mark.parametrize("name", ROW_FAULTS)
def test_a_wrong_field_is_named(name: str) -> None:
    """A wrong field of a row is named, for the row alone and in a batch with the row's index."""
    batch = Batch()
    row, value = batch.rows[1], ROW_FAULTS[name]
    assert wrong_field(row) == (lib.DECODING_OK, None)
    assert batch.refusal() == (lib.DECODING_OK, -1, None)
    if value is None:
        setattr(row, "num_history" if "history" in name else "num_bias", 1)
    elif "." in name:
        setattr(getattr(row, name.split(".")[0]), name.split(".")[1], value)
    else:
        setattr(row, name, value)
    if name == "bias_values":
        row.bias_token_ids = ids = ffi.new("int32_t[]", [1])
        assert ids[0] == 1
    status = lib.DECODING_BAD_SIZE if name == "struct_size" else lib.DECODING_BAD_ARGUMENT
    assert wrong_field(row) == (status, name)
    assert batch.refusal() == (status, 1, name)


BATCH_FAULTS = {
    "flags": 1 << 4,
    "rules": 1 << 20,
    "dtype": 7,
    "vocab_size": 0,
    "num_valid_tokens": VOCAB_SIZE + 1,
    "num_rows": -1,
    "num_stages": 3,
    "row_stride": 0,
    "logits": ffi.NULL,
    "top_stride": -1,
    "chosen_stride": -1,
    "struct_size": 0,
    "workspace_size": 5,
}


@pytest.mark.parametrize("name", BATCH_FAULTS)
def test_a_wrong_field_of_the_batch_is_named(name: str) -> None:
    """A wrong field of a batch is named; a workspace that is too small also has a row's index."""
    batch = Batch()
    setattr(batch.batch, name, BATCH_FAULTS[name])
    status = {"struct_size": lib.DECODING_BAD_SIZE, "workspace_size": lib.DECODING_SMALL_WORKSPACE}
    row = 0 if name == "workspace_size" else -1
    assert batch.refusal() == (status.get(name, lib.DECODING_BAD_ARGUMENT), row, name)


@pytest.mark.parametrize("name", ["top_p", "typical_p", "top_n_sigma", "top_h", "tfs", "min_k"])
def test_a_forgotten_field_is_refused(name: str) -> None:
    """A field whose 0 bans nearly all tokens may be 0 only with DECODING_ALLOW_ZEROS."""
    row = neutral_row()
    setattr(row, name, 0.0)
    assert wrong_field(row) == (lib.DECODING_BAD_ARGUMENT, name)
    row.flags = lib.DECODING_ALLOW_ZEROS
    assert wrong_field(row) == (lib.DECODING_OK, None)


@pytest.mark.parametrize("stride", [0, VOCAB_SIZE, -VOCAB_SIZE, 4 * VOCAB_SIZE - 1])
def test_overlapping_rows_are_refused(stride: int) -> None:
    """A row stride that makes rows overlap is refused; 0 is allowed with DECODING_SHARED_LOGITS, any for one row."""
    batch = Batch()
    batch.batch.row_stride = stride
    assert batch.refusal() == (lib.DECODING_BAD_ARGUMENT, -1, "row_stride")
    batch.batch.flags = lib.DECODING_SHARED_LOGITS
    assert batch.refusal()[0] == (lib.DECODING_OK if stride == 0 else lib.DECODING_BAD_ARGUMENT)
    one = Batch(1)
    one.batch.row_stride = stride
    assert one.refusal()[0] == lib.DECODING_OK


def test_null_pointers() -> None:
    """A null row and a null batch are refused without a field."""
    assert wrong_field(ffi.NULL) == (lib.DECODING_BAD_ARGUMENT, None)
    assert lib.decoding_check_batch(ffi.NULL, ffi.NULL, ffi.NULL) == lib.DECODING_BAD_ARGUMENT


def test_a_neutral_row_changes_nothing() -> None:
    """The distribution of a neutral row is the softmax of its logits."""
    batch, out = Batch(), ffi.new("double[]", 2 * VOCAB_SIZE)
    assert lib.decoding_probabilities(batch.batch, out) == lib.DECODING_OK
    logits = np.array(list(batch.logits)).reshape(2, VOCAB_SIZE)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.array(list(out)).reshape(2, VOCAB_SIZE), expected, rtol=1e-6)


def test_versions_at_run_time() -> None:
    """The version functions return the versions of this build's header."""
    assert lib.decoding_abi_version() == lib.DECODING_ABI_VERSION
    assert lib.decoding_stream_version() == lib.DECODING_STREAM_VERSION


@pytest.mark.parametrize("isa", available_isas())
def test_the_self_test(isa: str) -> None:
    """The self-test passes on every instruction set and refuses a workspace that is too small."""
    size = lib.decoding_workspace_size(1000, 0)
    workspace = ffi.new("char[]", size)
    with forced_isa(isa):
        assert lib.decoding_self_test(workspace, size) == lib.DECODING_OK
        assert lib.decoding_self_test(workspace, size - 1) == lib.DECODING_SMALL_WORKSPACE


def test_a_mirostat_bound_below_zero() -> None:
    """Mirostat's bound may fall below 0 after an unlikely token; then it keeps one token, as 0 does."""
    batch = Batch(1)
    row, bounds = batch.rows[0], []
    row.flags, row.mirostat_mu, row.temperature = lib.DECODING_MIROSTAT, 6.0, 5.0
    for position in range(40):
        row.position = position
        assert lib.decoding_sample(batch.batch) == lib.DECODING_OK
        row.mirostat_mu = lib.decoding_mirostat_next(row.mirostat_mu, 3.0, 4.0, batch.results[0].surprise)
        bounds.append(row.mirostat_mu)
    assert min(bounds) < 0.0 < max(bounds)
    tokens = []
    for mu in (0.0, -1.0, -math.inf):
        row.mirostat_mu = mu
        assert lib.decoding_sample(batch.batch) == lib.DECODING_OK
        tokens.append(batch.results[0].token_id)
    assert tokens == [int(np.argmax(list(batch.logits)[:VOCAB_SIZE]))] * 3


def history_of(prompt: list[int], scope: int, max_tokens: int = 16) -> tuple[Any, Any]:
    """Return a history and its memory, which must stay referenced."""
    history, memory = ffi.new("decoding_history *"), ffi.new("char[]", lib.decoding_history_size(max_tokens))
    status = lib.decoding_history_init(history, memory, max_tokens, scope, ffi.new("int32_t[]", prompt), len(prompt))
    assert status == lib.DECODING_OK
    return history, memory


def test_wrong_history_arguments() -> None:
    """Negative ids, too many tokens and counts out of range are refused and do not change the history."""
    history, _memory = history_of([1, 2], lib.DECODING_SCOPE_ALL, 4)
    for ids, status in (
        ([3, -1], lib.DECODING_BAD_TOKEN_ID),
        ([3, 4, 5], lib.DECODING_SMALL_WORKSPACE),
    ):
        assert lib.decoding_history_append(history, ffi.new("int32_t[]", ids), len(ids)) == status
    assert lib.decoding_history_append(history, ffi.NULL, 1) == lib.DECODING_BAD_ARGUMENT
    assert [lib.decoding_history_truncate(history, n) for n in (1, -1)] == [lib.DECODING_BAD_ARGUMENT] * 2
    assert (history.num_tokens, history.num_distinct) == (2, 2)
    assert [lib.decoding_history_size(n) for n in (0, -1, lib.DECODING_MAX_HISTORY + 1)] == [0, 0, 0]
    assert lib.decoding_history_init(history, _memory, 4, -2, ffi.NULL, 0) == lib.DECODING_BAD_ARGUMENT


def test_a_history_sets_the_arrays_of_a_row() -> None:
    """A history sets a row's position, counts for penalties, and the context for DRY, n-grams and bad words."""
    history, _memory = history_of([5, 6, 5], 2)
    assert lib.decoding_history_append(history, ffi.new("int32_t[]", [6, 7]), 2) == lib.DECODING_OK
    row = neutral_row()
    lib.decoding_history_use(history, row)
    assert (row.position, row.num_history, row.num_context, lib.decoding_row_reads(row)) == (2, 0, 0, 0)
    row.presence_penalty = 1.0
    lib.decoding_history_use(history, row)
    assert (row.num_history, row.num_context) == (3, 0)
    counts = zip(row.history_token_ids[0:3], row.history_scope_counts[0:3], row.history_total_counts[0:3], strict=True)
    assert sorted(counts) == [(5, 0, 2), (6, 1, 2), (7, 1, 1)]
    row.no_repeat_ngram_size = 2
    lib.decoding_history_use(history, row)
    assert list(row.context_token_ids[0 : row.num_context]) == [5, 6, 5, 6, 7]


def test_commit_is_all_or_nothing() -> None:
    """If a history is full, commit returns its index and changes no sequence; null sequences are skipped."""
    batch = Batch()
    assert lib.decoding_sample(batch.batch) == lib.DECODING_OK
    sequences = []
    kept = []
    for row, room in zip(batch.rows, (9, 1), strict=True):
        history, memory = history_of([1], 0, room)
        kept.append((history, memory))
        fields = {"struct_size": ffi.sizeof("decoding_sequence"), "row": row, "history": history}
        sequences.append(ffi.new("decoding_sequence *", fields))
    pointers, full = ffi.new("decoding_sequence *[]", sequences), ffi.new("int32_t *")
    assert lib.decoding_commit(pointers, batch.results, 2, full) == lib.DECODING_SMALL_WORKSPACE
    assert (full[0], batch.rows[0].position) == (1, 0)
    pointers[1] = ffi.NULL
    assert lib.decoding_commit(pointers, batch.results, 2, full) == lib.DECODING_OK
    assert (full[0], batch.rows[0].position, batch.rows[1].position) == (-1, 1, 0)
    sequences[0].struct_size = 3
    assert lib.decoding_commit(pointers, batch.results, 2, full) == lib.DECODING_BAD_SIZE
