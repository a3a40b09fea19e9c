"""Rows of logits and the state of each row, to tokens and log-probabilities. No model needed.

sampler = Sampler(vocab_size)
states = [SamplingState(SamplingParams(temperature=0.8, seed=7), prompt_token_ids=[1, 2, 3])]
output = sampler.sample(logits, states)      # logits [rows, vocab]; one call, a state a row
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from decoding.errors import LogitsError, ParameterError
from decoding.kernel import Batch, Kernel, Matrix, Row, checked_vocab_size
from decoding.state import SamplingState, checked_ids, is_integer

__all__ = ["Sampler", "SamplerOutput", "SamplingState"]


@dataclass(frozen=True, slots=True)
class SamplerOutput:
    """What came of each row.

    token_ids: int32 [rows]; -1 for a row that failed.
    logprobs: float32 [rows], of the drawn token in the row's logprobs_mode; NaN where params.logprobs is None.
    raw_logprobs: float32 [rows], in mode "raw"; NaN unless that mode or a best_of ranking asks for it.
    ranks: int32 [rows], 1 is the first of the total order; 0 where params.logprobs is None.
    top_token_ids, top_logprobs: int32 and float32 [rows, N], N the largest params.logprobs of the rows, in the total
        order; entries that a row did not ask for, or that only banned tokens could fill, are -1 and -inf.
    errors: a row's own error, or None; only with on_error="status" can one be other than None.
    """

    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    raw_logprobs: NDArray[np.float32]
    ranks: NDArray[np.int32]
    top_token_ids: NDArray[np.int32]
    top_logprobs: NDArray[np.float32]
    errors: tuple[LogitsError | None, ...]


class Sampler:
    """Draws one token a row, each row with parameters and a history of its own.

    Parameters
        vocab_size: 1 .. 1,048,576; the width of the logits.
        num_valid_tokens: the tokenizer's size; ids from there on are padding and never drawn. Default: vocab_size.
        on_nonfinite: "raise" makes a NaN fail its row; "mask" counts it as -inf. +inf always fails its row.

    One Sampler may be used from several threads at once, a SamplingState from one at a time.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        num_valid_tokens: int | None = None,
        on_nonfinite: Literal["raise", "mask"] = "raise",
    ) -> None:
        self.vocab_size = checked_vocab_size(vocab_size)
        valid = self.vocab_size if num_valid_tokens is None else num_valid_tokens
        if not is_integer(valid) or not 1 <= valid <= vocab_size:
            rule = f"must be an integer from 1 to vocab_size={vocab_size}"
            raise ParameterError.single("num_valid_tokens", num_valid_tokens, rule)
        if on_nonfinite not in ("raise", "mask"):
            raise ParameterError.single("on_nonfinite", on_nonfinite, "must be 'raise' or 'mask'")
        self.num_valid_tokens = int(valid)
        self.on_nonfinite = on_nonfinite
        self._kernel = Kernel(self.vocab_size, self.num_valid_tokens, mask_nan=on_nonfinite == "mask")

    def sample(
        self,
        logits: NDArray[Any],
        states: Sequence[SamplingState],
        *,
        commit: bool = True,
        on_error: Literal["raise", "status"] = "raise",
    ) -> SamplerOutput:
        """Draw one token for each row and record it in the row's state.

        logits: float32, float16 or bfloat16 (as ml_dtypes.bfloat16, or its bits as uint16) [rows, vocab], or [vocab]
            for one row; any row stride, read-only is fine; never changed.
        states: one a row; with commit, each state may stand in one row only.
        commit: False leaves recording to `state.append(token_id)`.
        on_error: a row that fails raises its LogitsError, and no row is recorded ("raise"), or is reported in
            `errors` while the others go on ("status").
        """
        matrix = self._matrix(logits, states)
        if not isinstance(commit, bool):
            raise ParameterError.single("commit", commit, "must be True or False")
        if on_error not in ("raise", "status"):
            raise ParameterError.single("on_error", on_error, "must be 'raise' or 'status'")
        if commit and len({id(state) for state in states}) != len(states):
            rule = "each state may stand in one row only, unless commit=False"
            raise ParameterError.single("states", len(states), rule)
        num_top = max((state.params.logprobs or 0 for state in states), default=0)
        batch = self._kernel.sample(matrix, [state._row for state in states], num_top)
        output = _output(batch)
        if on_error == "raise":
            _raise_first(output.errors)
        if commit:
            for state, token_id in zip(states, output.token_ids.tolist(), strict=True):
                if token_id >= 0:
                    state._append(token_id)
        return output

    def probabilities(self, logits: NDArray[Any], states: Sequence[SamplingState]) -> NDArray[np.float64]:
        """The distribution that `sample` draws from: float64 [rows, vocab]. Takes what `sample` takes.

        Each row sums to 1 up to float64 rounding; tokens that cannot be drawn are exactly 0.
        """
        out, batch = self._kernel.probabilities(self._matrix(logits, states), [state._row for state in states])
        _raise_first(tuple(batch.error(row) for row in range(len(states))))
        return out

    def score(self, logits: NDArray[Any], token_ids: Sequence[int], *, num_top: int = 0) -> SamplerOutput:
        """Raw log-probabilities of given tokens: row i of the logits reports on token_ids[i]. Nothing is drawn.

        num_top: how many of the most likely tokens to report as well. A row that fails raises its LogitsError.
        """
        matrix = Matrix(logits, self.vocab_size)
        ids = checked_ids("token_ids", token_ids)
        if len(ids) != matrix.num_rows:
            raise ParameterError.single("token_ids", len(ids), f"must be one a row of logits ({matrix.num_rows})")
        if any(token_id >= self.vocab_size for token_id in ids):
            raise ParameterError.single("token_ids", max(ids), f"must be below vocab_size={self.vocab_size}")
        if not is_integer(num_top) or not 0 <= num_top <= self.vocab_size:
            rule = f"must be an integer from 0 to vocab_size={self.vocab_size}"
            raise ParameterError.single("num_top", num_top, rule)
        batch = self._kernel.sample(matrix, [_forced_row(i, num_top) for i in ids], num_top, ban_padding=False)
        output = _output(batch)
        _raise_first(output.errors)
        return output

    def _matrix(self, logits: NDArray[Any], states: Sequence[SamplingState]) -> Matrix:
        matrix = Matrix(logits, self.vocab_size)
        is_list = isinstance(states, Sequence) and all(isinstance(state, SamplingState) for state in states)
        if not is_list:
            raise ParameterError.single("states", states, "must be a list of SamplingState, one a row of logits")
        if len(states) != matrix.num_rows:
            raise ParameterError.single("states", len(states), f"must be one a row of logits ({matrix.num_rows})")
        for state in states:
            state.check_vocab(self.vocab_size)
        return matrix


def _forced_row(token_id: int, num_top: int) -> Row:
    row = Row()
    row.set_report(mode="raw", num_top=num_top, want_raw=False)
    row.force_token(token_id)
    return row


def _output(batch: Batch) -> SamplerOutput:
    results = batch.results
    failed = np.flatnonzero(results["status"]).tolist()
    errors: list[LogitsError | None] = [None] * len(results)
    for row in failed:
        errors[row] = batch.error(row)
    return SamplerOutput(
        token_ids=results["token_id"].copy(),
        logprobs=results["logprob"].copy(),
        raw_logprobs=results["raw_logprob"].copy(),
        ranks=results["rank"].copy(),
        top_token_ids=batch.top_token_ids,
        top_logprobs=batch.top_logprobs,
        errors=tuple(errors),
    )


def _raise_first(errors: Sequence[LogitsError | None]) -> None:
    for error in errors:
        if error is not None:
            raise error
