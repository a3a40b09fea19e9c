"""Custom logits processors: stage 6 of the pipeline, for one sequence.

A processor is any callable(token_ids, logits): the prompt and the output so far, and the row as penalties and biases
have left it, float32 [vocab], its own to change. It returns the row to go on with, or None for the one it was given.

What stands before stage 6 is applied here, by the reference (it agrees with the kernel to the bit), and what comes
after it by the kernel, with parameters that have nothing of the former: so a processor costs a pass over the row in
Python, and only the sequences that have one pay for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from decoding.engine.logprobs import TokenScore
from decoding.engine.runner import Logits
from decoding.errors import EmptySupportError, ProcessorError
from decoding.params import SamplingParams
from decoding.reference import logits as edits
from decoding.reference.row import Row
from decoding.sampling.output import SamplerOutput
from decoding.sampling.sampler import Sampler
from decoding.sampling.state import SamplingState
from decoding.types import LogprobsMode

Processor: TypeAlias = Callable[[Sequence[int], Logits], Any]
"""(token ids of prompt and output, logits float32 [vocab]) -> logits, or None."""

_EDITS = {
    "repetition_penalty": (1.0, edits.apply_repetition_penalty),
    "frequency_penalty": (0.0, edits.apply_frequency_presence),
    "presence_penalty": (0.0, edits.apply_frequency_presence),
    "dry_multiplier": (0.0, edits.apply_dry),
    "context_frequency_penalty": (0.0, edits.apply_context_frequency_penalty),
    "logit_bias": ((), edits.apply_logit_bias),
}
"""The parameters of the stages before 6, with their neutral values, in the order of the pipeline."""


class Processing:
    """One sequence whose logits go through processors.

    state: what the sampler draws with: the sequence's own place in the random stream, and the stages after 6.
    """

    def __init__(self, processors: Sequence[Processor], params: SamplingParams, own: SamplingState) -> None:
        self._processors = processors
        self._params = params
        self._own = own
        self._edits = dict.fromkeys(edit for name, (off, edit) in _EDITS.items() if getattr(params, name) != off)
        modes = tuple(mode for mode in params.logprobs_modes if mode != "raw")
        neutral = {name: off for name, (off, _) in _EDITS.items()}
        self.state = own.with_params(
            replace(params, **neutral, logprobs_mode=modes or "raw", n=1, best_of=None)  # type: ignore[arg-type]
        )
        self._raw: Logits | None = None

    def row(self, logits: Logits, token_ids: Sequence[int]) -> Logits:
        """The row to draw from, for the untouched one [vocab].

        Raises ProcessorError for a processor that fails, LogitsError for a row that is wrong before it comes to them.
        """
        self._raw = logits
        row = Row(
            logits=logits,
            params=self._params,
            seed=0,
            prompt_token_ids=self._own.prompt_token_ids,
            output_token_ids=self._own.output_token_ids,
        )
        edits.apply_finite_check(row)
        for edit in self._edits:
            edit(row)
        edited: Logits = row.logits
        for processor in self._processors:
            edited = _applied(processor, list(token_ids), edited)
        if not (edited > -np.inf).any() and (logits > -np.inf).any():
            raise EmptySupportError(0, "processors")
        return edited

    def commit(self, token_id: int, output: SamplerOutput, row: int) -> None:
        """Record the token that was drawn in the sequence's own state; `state` has it."""
        self._own.commit(token_id, output, row)

    def raw_score(self, sampler: Sampler, token_id: int, num_top: int) -> TokenScore:
        """What "raw" means: the row before anything was done to it."""
        return TokenScore.from_output(sampler.score(self._raw, [token_id], num_top=num_top), 0, num_top)

    def merged(self, raw: TokenScore, score: TokenScore) -> TokenScore:
        """The score in the request's own modes, from the raw one and that of `state`."""
        modes: tuple[LogprobsMode, ...] = self._params.logprobs_modes
        if modes == ("raw",):
            return raw
        first = raw if modes[0] == "raw" else score
        others = score.by_mode or {next(mode for mode in modes if mode != "raw"): score.logprob}
        by_mode = {mode: raw.logprob if mode == "raw" else others[mode] for mode in modes} if len(modes) > 1 else {}
        return first._replace(by_mode=by_mode)


def _applied(processor: Processor, token_ids: list[int], logits: Logits) -> Logits:
    name = getattr(processor, "__qualname__", type(processor).__qualname__)
    try:
        returned = processor(token_ids, logits)
        result = logits if returned is None else np.asarray(returned)
    except KeyboardInterrupt:  # the user's, who does not mean the processor
        raise
    except BaseException as error:  # an exit, too, would take everybody's engine with it
        raise ProcessorError(name, f"raised {type(error).__name__}: {error}") from error
    if result.shape != logits.shape or result.dtype.kind != "f":
        raise ProcessorError(name, f"must return floats of shape {logits.shape}, not {result.dtype} {result.shape}")
    row: Logits = np.array(result, np.float32)
    bad = np.isnan(row) | (row == np.inf)
    if bad.any():
        token_id = int(np.argmax(bad))
        raise ProcessorError(
            name, f"must return finite logits, or -inf for a ban; it gave {row[token_id]} at {token_id}"
        )
    return row
