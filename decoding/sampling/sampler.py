"""Sampler: tokens and log-probabilities from rows of logits, each with a state of its own. No model needed.

sampler = Sampler(vocab_size)
states = [SamplingState(SamplingParams(temperature=0.8, seed=7), prompt_token_ids=[1, 2, 3])]
output = sampler.sample(logits, states)      # logits [rows, vocab]; one call, one state per row
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from decoding.errors import LogitsError, ParameterError
from decoding.sampling.explain import Explanation, explain
from decoding.sampling.fit import Fit
from decoding.sampling.kernel import (
    DecodeSteps,
    DrawnSteps,
    Kernel,
    KernelRow,
    Sequences,
    ThreadPool,
    append_tokens,
    checked_vocab_size,
    num_mask_words,
    output_of,
)
from decoding.sampling.logits_input import matrix_of
from decoding.sampling.output import SamplerOutput
from decoding.sampling.stages import PROFILES, Profile
from decoding.sampling.state import SamplingState
from decoding.sampling.verify import Verification, checked_bitmasks, verify
from decoding.validation import checked_integer, checked_token_ids

__all__ = ["Explanation", "Sampler", "SamplerOutput", "SamplingState", "Verification"]

MAX_THREADS = 64

_STATES_RULE = "must be a list of SamplingState, one per row of logits"

Word = TypeVar("Word", bound=str)


class Sampler:
    """Draws one token per row, each row with its own parameters and history.

    Parameters
        vocab_size: 1 .. 1,048,576; the width of the logits.
        profile: "openai" has the order and the rules of docs/semantics.md, section 1; "transformers" and the other
            names of decoding.sampling.stages.PROFILES those of section 9; or a Profile.
        num_valid_tokens: the tokenizer's size; larger ids are padding and never drawn. Default: vocab_size.
        on_nonfinite: "raise" makes a NaN fail its row; "mask" counts it as -inf. +inf always fails its row.
        num_threads: 1 .. 64; threads that share the rows of a call if there are enough rows. Results do not depend
            on it.

    Logits, in every method: [rows, vocab_size], or [vocab_size] for one row, of float32, float16 or bfloat16, in any
    row stride; a numpy array (ml_dtypes.bfloat16, or its bits as uint16), an object with the buffer protocol, DLPack or
    __array_interface__ (torch and JAX on the CPU), or an OrtValue. They are not changed, and only rows that
    are not contiguous are copied. A wrong shape, type or layout raises LogitsError before any memory is read.

    A Sampler may be used from several threads at once, a SamplingState from one at a time. Attributes are read-only.
    A Sampler copies and pickles.
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
        self._vocab_size = checked_vocab_size(vocab_size)
        valid = self._vocab_size if num_valid_tokens is None else num_valid_tokens
        self._num_valid_tokens = checked_integer("num_valid_tokens", valid, 1, self._vocab_size)
        self._num_threads = checked_integer("num_threads", num_threads, 1, MAX_THREADS)
        self._on_nonfinite: Literal["raise", "mask"] = _one_of("on_nonfinite", on_nonfinite, ("raise", "mask"))
        self._profile = profile if isinstance(profile, Profile) else PROFILES[_one_of("profile", profile, PROFILES)]
        self._fit = Fit(self._vocab_size, self._profile.lacking)
        if "hard_masks" in self._fit.lacking and self._num_valid_tokens < self._vocab_size:
            rule = f"must be vocab_size={self._vocab_size}, because the profile has no stage hard_masks"
            raise ParameterError.single("num_valid_tokens", num_valid_tokens, rule)
        self._kernel = self._new_kernel(self._profile.order)
        if self._num_threads > 1:
            self.use_threads(ThreadPool(self._num_threads))
        self._scorer = Kernel(self._vocab_size, self._vocab_size, mask_nan=on_nonfinite == "mask")

    @property
    def vocab_size(self) -> int:
        """Width of the logits."""
        return self._vocab_size

    @property
    def num_valid_tokens(self) -> int:
        """Number of ids that can be drawn; larger ones are padding."""
        return self._num_valid_tokens

    @property
    def num_threads(self) -> int:
        """Maximum number of threads that share the rows of a call."""
        return self._num_threads

    @property
    def on_nonfinite(self) -> Literal["raise", "mask"]:
        """Policy for NaN in logits."""
        return self._on_nonfinite

    @property
    def profile(self) -> Profile:
        """Stages in their order, and rules at boundaries."""
        return self._profile

    def __repr__(self) -> str:
        """Show the arguments that differ from their defaults."""
        arguments = {
            "profile": (self._profile.name, "openai"),
            "num_valid_tokens": (self._num_valid_tokens, self._vocab_size),
            "on_nonfinite": (self._on_nonfinite, "raise"),
            "num_threads": (self._num_threads, 1),
        }
        changed = [f", {name}={value!r}" for name, (value, default) in arguments.items() if value != default]
        return f"Sampler({self._vocab_size}{''.join(changed)})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Save the arguments for copy and pickle."""
        arguments = (self._vocab_size, self._profile, self._num_valid_tokens, self._on_nonfinite, self._num_threads)
        return _new_sampler, arguments

    def sample(
        self,
        logits: Any,
        states: Sequence[SamplingState],
        *,
        commit: bool = True,
        on_error: Literal["raise", "status"] = "raise",
    ) -> SamplerOutput:
        """Draw one token for each row and record it in the row's state.

        states: one per row; with commit, each state may be used for one row only.
        commit: False leaves recording to `state.append`.
        on_error: "raise" raises the LogitsError of the first row that fails, and nothing is recorded; "status" reports
            it in `errors`, and the other rows are recorded.
        """
        matrix = matrix_of(logits, self._vocab_size)
        structs, reporting = self._rows(matrix, states)
        if commit is not True and commit is not False:
            raise ParameterError.single("commit", commit, "must be True or False")
        if on_error not in ("raise", "status"):
            raise ParameterError.single("on_error", on_error, "must be 'raise' or 'status'")
        if commit and len(structs) > 1 and len(set(structs)) != len(structs):
            rule = "each state may be used for one row only, unless commit=False"
            raise ParameterError.single("states", len(states), rule)
        output = output_of(len(structs), reporting) if reporting else SamplerOutput(len(structs))
        self._kernel.sample_into(output, matrix, structs)
        if output.failures and on_error == "raise":
            raise next(iter(output.failures.values()))
        if commit:
            _commit(states, output)
        return output

    def probabilities(self, logits: Any, states: Sequence[SamplingState]) -> NDArray[np.float64]:
        """Return the distribution that `sample` draws from, float64 [rows, vocab].

        Each row sums to 1 up to float64 rounding. Tokens that cannot be drawn are exactly 0.
        """
        matrix = matrix_of(logits, self.vocab_size)
        self._rows(matrix, states)
        out, output = self._kernel.probabilities(matrix, [state.kernel_row for state in states])
        for error in output.failures.values():
            raise error
        return out

    def score(
        self, logits: Any, token_ids: Sequence[int], *, num_top: int = 0, chosen: Sequence[int] = ()
    ) -> SamplerOutput:
        """Return raw log-probabilities of given tokens, token_ids[i] in row i of the logits. Nothing is drawn.

        num_top: number of the most likely tokens to report as well.
        chosen: token ids to report in every row as well (`chosen_logprobs`).
        A row that fails raises its LogitsError.
        """
        matrix = matrix_of(logits, self.vocab_size)
        ids = checked_token_ids("token_ids", token_ids, self.vocab_size)
        if len(ids) != len(matrix):
            rule = f"must have one token id per row of logits ({len(matrix)})"
            raise ParameterError.single("token_ids", token_ids, rule)
        num_top = checked_integer("num_top", num_top, 0, self.vocab_size)
        chosen = checked_token_ids("chosen", chosen, self.vocab_size)
        output = self._scorer.sample(matrix, [_forced_row(token_id, num_top, chosen) for token_id in ids])
        for error in output.failures.values():
            raise error
        return output

    def logprobs_of(self, logits: Any, state: SamplingState, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the log-probabilities of tokens at the state's position, in the first of its modes. Nothing is drawn.

        logits: [vocab], or [1, vocab]. Needs params.logprobs. A row that fails raises its LogitsError.
        """
        matrix = matrix_of(logits, self.vocab_size)
        if len(matrix) != 1:
            raise LogitsError(f"logits.shape={matrix.shape}: must be one row")
        self._check_state(state)
        if state.params.logprobs is None:
            raise ParameterError.single("state", state, "must have logprobs in its parameters")
        row = state.kernel_row.copy()
        row.set_report(
            state.params.logprobs_modes[:1], 0, chosen=checked_token_ids("token_ids", token_ids, self.vocab_size)
        )
        row.force_token(0)
        output = self._kernel.sample(matrix, [row])
        for error in output.failures.values():
            raise error
        chosen: NDArray[np.float32] = output.chosen_logprobs[0]
        return chosen

    def verify(
        self,
        logits: Any,
        state: SamplingState,
        draft_token_ids: Sequence[int],
        *,
        bitmasks: Any = None,
    ) -> Verification:
        """Accept the draft tokens that plain decoding would have drawn, and draw the token after them.

        Each position is drawn as `sample` draws it, with its own random number and with everything before it
        recorded, up to the first token that differs from the draft. So the tokens are those of plain decoding with
        this seed, bit for bit.

        logits: [len(draft_token_ids), vocab], row i for the i-th draft token; with one more row, the token after a
            draft that is accepted as a whole is drawn, too.
        state: records the accepted tokens. If a row fails, its LogitsError is raised and nothing is recorded.
        bitmasks: one grammar mask per row, uint32 or int32 [rows, ceil(vocab / 32)], a numpy array or a torch tensor;
            None uses state.bitmask for all rows. state.bitmask is not changed.
        """
        matrix = matrix_of(logits, self.vocab_size)
        draft = checked_token_ids("draft_token_ids", draft_token_ids)
        if not len(draft) <= len(matrix) <= len(draft) + 1:
            rule = f"must have as many tokens as there are rows of logits, or one fewer ({len(matrix)} rows)"
            raise ParameterError.single("draft_token_ids", draft_token_ids, rule)
        self._check_state(state)
        masks = checked_bitmasks(bitmasks, len(matrix))
        return verify(self._kernel, matrix, state, draft, masks)

    def explain(self, logits: Any, state: SamplingState) -> Explanation:
        """Return the distribution after each stage of the pipeline for one row. Nothing is recorded.

        logits: [vocab], or [1, vocab]. A row that fails at a stage is explained up to that stage
            (`Explanation.error`); a row that is not finite, or bans every token, raises its LogitsError.
        """
        matrix = matrix_of(logits, self.vocab_size)
        if len(matrix) != 1:
            raise LogitsError(f"logits.shape={matrix.shape}: must be one row")
        self._check_state(state)
        return explain(self._new_kernel, self.profile.order, matrix, state)

    def draw(self, matrix: NDArray[Any], rows: Sequences, masks: NDArray[np.uint32] | None) -> SamplerOutput:
        """Draw for rows of a BatchSampler, without recording anything. masks: one per row, or None."""
        if masks is not None and masks.shape[1] != num_mask_words(self._vocab_size):
            rule = f"must have {num_mask_words(self._vocab_size)} words per row for vocab_size={self._vocab_size}"
            raise ParameterError.single("bitmasks", masks, rule)
        output = rows.new_output()
        masks = None if masks is None else np.ascontiguousarray(masks)
        rows.use_bitmasks(masks)
        self._kernel.sample_into(output, matrix, rows.structs)
        return output

    def decode(self, steps: DecodeSteps, states: Sequence[SamplingState]) -> DrawnSteps:
        """Run decoding steps in C, with a draw from each step's logits for each state, which records its tokens.

        states: different ones, whose rows do not change with tokens but for the history (`is_recorded_in_c`).
        """
        structs, reporting = self._rows(steps.logits, states)
        steps.record_in([state.kernel_row for state in states], [state.history for state in states])
        drawn = self._kernel.decode(steps, structs, output_of(steps.num_steps * len(structs), reporting))
        for state, token_ids in zip(states, drawn.token_ids.T.tolist(), strict=True):
            state.output_token_ids += token_ids if token_ids[-1] >= 0 else token_ids[:-1]
        return drawn

    def check(self, state: SamplingState) -> None:
        """Raise ParameterError if a state does not fit the vocabulary and the profile."""
        self._check_state(state)

    def use_threads(self, threads: ThreadPool) -> None:
        """Share the rows of each call among these threads, such as those of a model between its forward passes."""
        self._num_threads, self._kernel.threads = threads.num_threads, threads

    def _new_kernel(self, stages: Sequence[int]) -> Kernel:
        return Kernel(
            self._vocab_size,
            self._num_valid_tokens,
            mask_nan=self._on_nonfinite == "mask",
            stages=stages,
            rules=self._profile.rules,
        )

    def _rows(self, matrix: NDArray[Any], states: Sequence[SamplingState]) -> tuple[list[Any], list[KernelRow]]:
        """Return the struct of each state's row, and the rows that report log-probabilities.

        Raise ParameterError if a state does not fit the vocabulary.
        """
        if type(states) is not list and not isinstance(states, Sequence):  # the ABC is slow
            raise ParameterError.single("states", states, _STATES_RULE)
        if len(states) != len(matrix):
            rule = f"must have one state per row of logits ({len(matrix)})"
            raise ParameterError.single("states", f"{len(states)} states", rule)
        fit, structs, reporting = self._fit, [], []
        for state in states:
            if not isinstance(state, SamplingState):
                raise ParameterError.single("states", states, _STATES_RULE)
            if state.fit is not fit:
                state.check_fit(fit)
            row = state.kernel_row
            structs.append(row.struct)
            if row.num_modes:
                reporting.append(row)
        return structs, reporting

    def _check_state(self, state: SamplingState) -> None:
        if not isinstance(state, SamplingState):
            raise ParameterError.single("state", state, "must be a SamplingState")
        state.check_fit(self._fit)


def _commit(states: Sequence[SamplingState], output: SamplerOutput) -> None:
    """Record the tokens that were drawn, with one call into C for all histories."""
    recorded = []
    for row, (state, token_id) in enumerate(zip(states, output.drawn_ids(), strict=True)):
        if token_id >= 0:
            history = state.commit_outside_history(token_id, output, row)
            if history is not None:
                recorded.append((history, state.kernel_row, token_id))
    if recorded:
        append_tokens(*zip(*recorded, strict=True))


def _new_sampler(
    vocab_size: int, profile: Profile, num_valid_tokens: int, on_nonfinite: Literal["raise", "mask"], num_threads: int
) -> Sampler:
    return Sampler(
        vocab_size,
        profile=profile,
        num_valid_tokens=num_valid_tokens,
        on_nonfinite=on_nonfinite,
        num_threads=num_threads,
    )


def _forced_row(token_id: int, num_top: int, chosen: Sequence[int]) -> KernelRow:
    row = KernelRow()
    row.set_report(("raw",), num_top, chosen=chosen)
    row.force_token(token_id)
    return row


def _one_of(name: str, value: Word, words: Iterable[str]) -> Word:
    if not isinstance(value, str) or value not in words:
        raise ParameterError.single(name, value, f"must be one of {', '.join(map(repr, words))}")
    return value
