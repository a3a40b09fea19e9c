"""Custom logits processors, for one sequence: the stage between biases and masks.

A processor is any callable(token_ids, logits): prompt and output so far, and the row as penalties and biases have left
it, float32 [vocab], its own to change. It returns the row to use, or None for the row that it was given.

The stages before it are applied here, by the reference (it agrees with the kernel to the bit), and those after it by
the kernel, with the parameters of earlier stages turned off. So a processor costs a pass over the row in Python, and
only the sequences that have one pay for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from decoding.engine.logprobs import OutputScores, TokenScore
from decoding.errors import EmptySupportError, ProcessorError
from decoding.models.batch import Logits
from decoding.params import PARAMETERS, SamplingParams
from decoding.reference.row import Row
from decoding.reference.sample import APPLY
from decoding.sampling.output import SamplerOutput
from decoding.sampling.sampler import Sampler
from decoding.sampling.stages import PIPELINE, PROCESSORS, RAW_SNAPSHOT, Profile
from decoding.sampling.state import SamplingState
from decoding.types import LogprobsMode

Processor: TypeAlias = Callable[[Sequence[int], Logits], Any]
"""(token ids of prompt and output, logits float32 [vocab]) -> logits, or None."""

_EDITS = tuple(stage for stage in PIPELINE if RAW_SNAPSHOT < stage.number < PROCESSORS)
"""The stages that run before processors."""

_NEUTRAL = {name: PARAMETERS[name].default for stage in _EDITS for name in stage.parameters}
"""The parameters of the stages before processors, with the defaults, which turn them off."""


class ProcessorChain:
    """The processors of one sequence.

    state: the state that the sampler draws with. It has the sequence's position in its random numbers, and the
        parameters of the stages after processors.
    """

    def __init__(
        self, processors: Sequence[Processor], params: SamplingParams, own: SamplingState, profile: Profile
    ) -> None:
        """own: the state of the sequence. profile: the order of the stages, and their rules."""
        self._processors = processors
        self._params = params
        self._own = own
        self._profile = profile
        self._edits = [
            APPLY[stage.name]
            for stage in profile.stages
            if stage in _EDITS and any(getattr(params, name) != _NEUTRAL[name] for name in stage.parameters)
        ]
        modes = tuple(mode for mode in params.logprobs_modes if mode != "raw")
        self.state = own.with_params(replace(params, **_NEUTRAL, logprobs_mode=modes or "raw", n=1, best_of=None))
        self._raw: Logits | None = None

    def process(self, logits: Logits, token_ids: Sequence[int]) -> Logits:
        """Return the row to draw from, given the untouched one [vocab].

        Raises ProcessorError for a processor that fails, LogitsError for a row that is wrong before it.
        """
        self._raw = logits
        row = Row(
            logits=logits,
            params=self._params,
            seed=0,
            profile=self._profile,
            prompt_token_ids=self._own.prompt_token_ids,
            output_token_ids=self._own.output_token_ids,
        )
        APPLY["finite_check"](row)
        for edit in self._edits:
            edit(row)
        edited: Logits = row.logits
        for processor in self._processors:
            edited = _applied(processor, list(token_ids), edited)
        if not (edited > -np.inf).any() and (logits > -np.inf).any():
            raise EmptySupportError(0, "processors")
        return edited

    def commit(self, token_id: int, output: SamplerOutput, row: int) -> None:
        """Record the sampled token in the sequence's own state; `state` has it already."""
        self._own.commit(token_id, output, row)

    def raw_score(self, sampler: Sampler, token_id: int, num_top: int) -> TokenScore:
        """Return the score of a token in mode "raw": in the unchanged row."""
        chosen = self._params.logprob_token_ids
        output = sampler.score(self._raw, [token_id], num_top=num_top, chosen=chosen)
        return OutputScores(output).of_row(0, num_top, chosen=chosen)

    def merged(self, raw: TokenScore, score: TokenScore) -> TokenScore:
        """Return the score in the request's own modes, from the raw one and that of `state`."""
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
    except KeyboardInterrupt:  # the user's, not the processor's
        raise
    except BaseException as error:  # SystemExit, too, would end the thread of a shared engine
        raise ProcessorError(name, f"raised {type(error).__name__}: {error}") from error
    if result.shape != logits.shape or result.dtype.kind != "f":
        raise ProcessorError(name, f"must return floats of shape {logits.shape}, not {result.dtype} {result.shape}")
    row: Logits = np.array(result, np.float32)
    bad = np.isnan(row) | (row == np.inf)
    if bad.any():
        token_id = int(np.argmax(bad))
        rule = f"must return finite logits, or -inf for a ban; it gave {row[token_id]} at {token_id}"
        raise ProcessorError(name, rule)
    return row
