"""Rows of logits and the state of each row, to tokens and log-probabilities. No model needed.

sampler = Sampler(vocab_size)
states = [SamplingState(SamplingParams(temperature=0.8, seed=7), prompt_token_ids=[1, 2, 3])]
output = sampler.sample(logits, states)      # logits [rows, vocab]; one call, a state a row
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from decoding.errors import LogitsError, ParameterError
from decoding.sampling.explain import Explanation, explain
from decoding.sampling.kernel import Kernel, Row, checked_vocab_size
from decoding.sampling.logits_input import matrix_of
from decoding.sampling.output import TOKEN_ID, SamplerOutput
from decoding.sampling.stages import PROFILES, Profile
from decoding.sampling.state import SamplingState, checked_ids, is_integer
from decoding.sampling.verify import Verification, check_bitmasks, verify

__all__ = ["Explanation", "Sampler", "SamplerOutput", "SamplingState", "Verification"]

MAX_THREADS = 64

Word = TypeVar("Word", bound=str)


class Sampler:
    """Draws one token a row, each row with parameters and a history of its own.

    Parameters
        vocab_size: 1 .. 1,048,576; the width of the logits.
        profile: "openai" is the order and the rules of docs/semantics.md, section 1; "transformers", "llama_cpp" and
            "vllm" are those of section 9; or a Profile of your own making (decoding.sampling.stages).
        num_valid_tokens: the tokenizer's size; ids from there on are padding and never drawn. Default: vocab_size.
        on_nonfinite: "raise" makes a NaN fail its row; "mask" counts it as -inf. +inf always fails its row.
        num_threads: 1 .. 64; threads that share the rows of a call, where there are rows enough. The bits do not
            depend on it.

    Logits, in every method: [rows, vocab_size], or [vocab_size] for one row, of float32, float16 or bfloat16, in any
    row stride; a numpy array (ml_dtypes.bfloat16, or its bits as uint16), or an object with the buffer protocol,
    DLPack or __array_interface__ (torch and JAX on the CPU). They are neither changed nor copied. LogitsError says
    what is wrong with them before any of their memory is read.

    One Sampler may be used from several threads at once, a SamplingState from one at a time.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        profile: str | Profile = "openai",
        num_valid_tokens: int | None = None,
        on_nonfinite: Literal["raise", "mask"] = "raise",
        num_threads: int = 1,
    ) -> None:
        self.vocab_size = checked_vocab_size(vocab_size)
        valid = self.vocab_size if num_valid_tokens is None else num_valid_tokens
        self.num_valid_tokens = _integer("num_valid_tokens", valid, 1, self.vocab_size, f"vocab_size={vocab_size}")
        self.num_threads = _integer("num_threads", num_threads, 1, MAX_THREADS)
        self.on_nonfinite: Literal["raise", "mask"] = _one_of("on_nonfinite", on_nonfinite, ("raise", "mask"))
        self.profile = profile if isinstance(profile, Profile) else PROFILES[_one_of("profile", profile, PROFILES)]
        self._kernel = self._new_kernel(self.profile.order, num_threads=self.num_threads)
        self._scorer = Kernel(self.vocab_size, self.vocab_size, mask_nan=on_nonfinite == "mask")

    def sample(
        self,
        logits: Any,
        states: Sequence[SamplingState],
        *,
        commit: bool = True,
        on_error: Literal["raise", "status"] = "raise",
    ) -> SamplerOutput:
        """Draw one token for each row and record it in the row's state.

        states: one a row; with commit, each state may stand in one row only.
        commit: False leaves recording to `state.append`.
        on_error: a row that fails raises its LogitsError, and no row is recorded ("raise"), or is reported in
            `errors` while the others go on ("status").
        """
        matrix = matrix_of(logits, self.vocab_size)
        rows = self._rows(matrix, states)
        if commit is not True and commit is not False:
            raise ParameterError.single("commit", commit, "must be True or False")
        if on_error not in ("raise", "status"):
            raise ParameterError.single("on_error", on_error, "must be 'raise' or 'status'")
        if commit and len(rows) > 1 and len(set(rows)) != len(rows):
            rule = "each state may stand in one row only, unless commit=False"
            raise ParameterError.single("states", len(states), rule)
        output = self._kernel.sample(matrix, rows)
        if output.failures and on_error == "raise":
            raise next(iter(output.failures.values()))
        if commit:
            for row, token_id in enumerate(output.words[:, TOKEN_ID].tolist()):
                if token_id >= 0:
                    state = states[row]
                    state._append(token_id, float(output.surprises[row]) if state._mus else None)
        return output

    def probabilities(self, logits: Any, states: Sequence[SamplingState]) -> NDArray[np.float64]:
        """The distribution that `sample` draws from: float64 [rows, vocab]. Takes what `sample` takes.

        Each row sums to 1 up to float64 rounding; tokens that cannot be drawn are exactly 0.
        """
        matrix = matrix_of(logits, self.vocab_size)
        out, output = self._kernel.probabilities(matrix, self._rows(matrix, states))
        for error in output.failures.values():
            raise error
        return out

    def score(self, logits: Any, token_ids: Sequence[int], *, num_top: int = 0) -> SamplerOutput:
        """Raw log-probabilities of given tokens: row i of the logits reports on token_ids[i]. Nothing is drawn.

        num_top: how many of the most likely tokens to report as well. A row that fails raises its LogitsError.
        """
        matrix = matrix_of(logits, self.vocab_size)
        ids = checked_ids("token_ids", token_ids)
        if len(ids) != len(matrix):
            raise ParameterError.single("token_ids", len(ids), f"must be one a row of logits ({len(matrix)})")
        if any(token_id >= self.vocab_size for token_id in ids):
            raise ParameterError.single("token_ids", max(ids), f"must be below vocab_size={self.vocab_size}")
        num_top = _integer("num_top", num_top, 0, self.vocab_size, f"vocab_size={self.vocab_size}")
        output = self._scorer.sample(matrix, [_forced_row(token_id, num_top) for token_id in ids])
        for error in output.failures.values():
            raise error
        return output

    def verify(
        self,
        logits: Any,
        state: SamplingState,
        draft_token_ids: Sequence[int],
        *,
        bitmasks: NDArray[np.uint32] | NDArray[np.int32] | None = None,
    ) -> Verification:
        """Accept the beginning of a draft that plain decoding would have drawn, and draw the token after it.

        Each position is drawn as `sample` draws it, with its own random number and with everything before it
        recorded, up to the first token that is not the draft's: so the tokens are those of plain decoding with this
        seed, bit for bit, however good the draft is.

        logits: [len(draft_token_ids), vocab], row i after the i-th draft token's predecessors; with one row more, the
            token after a draft that is accepted as a whole is drawn, too.
        state: holds the accepted tokens afterwards. Where a row fails, its LogitsError is raised and nothing is
            recorded.
        bitmasks: a grammar mask a row, uint32 or int32 [rows, ceil(vocab / 32)]; by default state.bitmask holds for
            all of them. state.bitmask is left as it was.
        """
        matrix = matrix_of(logits, self.vocab_size)
        draft = checked_ids("draft_token_ids", draft_token_ids)
        if not len(draft) <= len(matrix) <= len(draft) + 1:
            rule = f"must have as many tokens as there are rows of logits, or one fewer ({len(matrix)} rows)"
            raise ParameterError.single("draft_token_ids", len(draft), rule)
        self._check_state(state)
        check_bitmasks(bitmasks, len(matrix))
        return verify(self._kernel, matrix, state, draft, bitmasks)

    def explain(self, logits: Any, state: SamplingState) -> Explanation:
        """What each stage of the pipeline makes of one row, and why a token could not be drawn; nothing is recorded.

        logits: [vocab], or [1, vocab]. A row that fails at a stage is explained up to there (`Explanation.error`); one
        that is not finite, or has nothing to draw from as it comes, raises its LogitsError.
        """
        matrix = matrix_of(logits, self.vocab_size)
        if len(matrix) != 1:
            raise LogitsError(f"logits.shape={matrix.shape}: must be one row to explain")
        self._check_state(state)
        return explain(self._new_kernel, self.profile.order, matrix, state)

    def _new_kernel(self, stages: Sequence[int], *, num_threads: int = 1) -> Kernel:
        return Kernel(
            self.vocab_size,
            self.num_valid_tokens,
            mask_nan=self.on_nonfinite == "mask",
            stages=stages,
            rules=self.profile.rules,
            num_threads=num_threads,
        )

    def _rows(self, matrix: NDArray[Any], states: Sequence[SamplingState]) -> list[Row]:
        """What each state asks for, once each is known to fit the vocabulary."""
        if not isinstance(states, (list, tuple)) and not isinstance(states, Sequence):  # the ABC takes its time
            raise ParameterError.single("states", states, "must be a list of SamplingState, one a row of logits")
        if len(states) != len(matrix):
            raise ParameterError.single("states", len(states), f"must be one a row of logits ({len(matrix)})")
        vocab_size, rows = self.vocab_size, []
        for state in states:
            if not isinstance(state, SamplingState):
                raise ParameterError.single("states", states, "must be a list of SamplingState, one a row of logits")
            state.check_vocab(vocab_size)
            rows.append(state._row)
        return rows

    def _check_state(self, state: SamplingState) -> None:
        if not isinstance(state, SamplingState):
            raise ParameterError.single("state", state, "must be a SamplingState")
        state.check_vocab(self.vocab_size)


def _forced_row(token_id: int, num_top: int) -> Row:
    row = Row()
    row.set_report(("raw",), num_top)
    row.force_token(token_id)
    return row


def _integer(name: str, value: int, low: int, high: int, high_name: str = "") -> int:
    if not is_integer(value) or not low <= value <= high:
        raise ParameterError.single(name, value, f"must be an integer from {low} to {high_name or high}")
    return int(value)


def _one_of(name: str, value: Word, words: Iterable[str]) -> Word:
    if not isinstance(value, str) or value not in words:
        raise ParameterError.single(name, value, f"must be one of {', '.join(map(repr, words))}")
    return value
